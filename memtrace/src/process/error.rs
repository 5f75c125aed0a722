//! Why a process could not be read.

use std::io;

/// A reader of /proc failed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There is no such process, or it ended while it was read.
    #[error("no process with pid {pid}")]
    NoSuchProcess { pid: u32 },
    /// The process is someone else's, and this user may not look into it.
    #[error("cannot read /proc/{pid}/{entry}: permission denied (needs root or CAP_SYS_PTRACE)")]
    PermissionDenied { pid: u32, entry: &'static str },
    /// The kernel wrote something that this reader does not understand.
    #[error("cannot understand /proc/{pid}/{entry}")]
    Malformed { pid: u32, entry: &'static str },
    /// Anything else, too many open files for example.
    #[error("cannot read /proc/{pid}/{entry}: {source}")]
    Io { pid: u32, entry: &'static str, source: io::Error },
}

impl ProcessError {
    /// Sorts an error of the system by what it means for a file below /proc/PID.
    pub(crate) fn from_io(pid: u32, entry: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            // ESRCH: the file was opened, then the process ended.
            Some(libc::ENOENT | libc::ESRCH) => Self::NoSuchProcess { pid },
            Some(libc::EACCES | libc::EPERM) => Self::PermissionDenied { pid, entry },
            _ => Self::Io { pid, entry, source },
        }
    }
}
