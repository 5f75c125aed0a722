//! A PID, a command, a cgroup, a container → the set of processes.

pub(crate) mod raw_clone;
pub mod spawn;
