//! What this kernel and this user can do; field offsets from BTF.

pub mod btf;
pub mod features;
pub(crate) mod mount;
pub mod privileges;
