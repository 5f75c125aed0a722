//! What /proc tells about a process: its identity, its mappings, the files it sees.
//!
//! Nothing here keeps state or needs BPF. Processes vanish at any moment; every reader then returns
//! [`ProcessError::NoSuchProcess`] and never half an answer.

mod error;
pub mod identity;
pub mod maps;
mod root;

pub use error::ProcessError;
pub use identity::Identity;
pub use maps::{Backing, Device, Mapping};
pub use root::Root;
pub(crate) use root::open_kernel_link;
