//! What this kernel and this user can do; field offsets from BTF.

pub mod btf;
