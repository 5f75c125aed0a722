//! The file system as one process sees it.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use super::ProcessError;

/// A directory that paths are looked up in as if it were `/`. Held open, it outlives the process it
/// was taken from. Clones share it.
#[derive(Clone, Debug)]
pub struct Root(Arc<OwnedFd>);

impl Root {
    /// The root directory of a process, a container's for example.
    ///
    /// # Errors
    /// All of [`ProcessError`].
    pub fn of(pid: u32) -> Result<Self, ProcessError> {
        Self::open_directory(&format!("/proc/{pid}/root"))
            .map_err(|e| ProcessError::from_io(pid, "root", e))
    }

    /// memtrace's own root directory.
    ///
    /// # Errors
    /// Those of opening a directory, too many open files for example.
    pub fn own() -> io::Result<Self> {
        Self::open_directory("/")
    }

    fn open_directory(path: &str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(Arc::new(openat(CWD, path, flags, Mode::empty())?)))
    }

    /// Opens a regular file for reading. `path` and every symbolic link on its way are taken
    /// relative to this root and can't leave it.
    ///
    /// # Errors
    /// Those of the system; [`io::ErrorKind::InvalidInput`] when it is not a regular file.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        open_regular(openat2(&*self.0, path, flags, Mode::empty(), resolve)?)
    }
}

/// Opens a file by a path that the kernel provides (`/proc/PID/map_files/…`), for reading.
///
/// # Errors
/// Those of the system; [`io::ErrorKind::InvalidInput`] when it is not a regular file.
pub(crate) fn open_kernel_link(path: &str) -> io::Result<File> {
    open_regular(openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// A path from a target may name a pipe, which would block, or a device, which may act when it is
/// opened. So look first at what a handle that opens nothing refers to.
fn open_regular(handle: OwnedFd) -> io::Result<File> {
    let status = rustix::fs::fstat(handle.as_fd())?;
    if !rustix::fs::FileType::from_raw_mode(status.st_mode).is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    File::open(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn symbolic_links_stay_inside_the_root() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(dir.path().join("etc")).expect("mkdir");
        fs::write(dir.path().join("etc/passwd"), "inside").expect("write");
        symlink("/etc/passwd", dir.path().join("absolute")).expect("symlink");
        symlink("../../../../../../etc/passwd", dir.path().join("upwards")).expect("symlink");
        let root = Root::open_directory(dir.path().to_str().expect("utf-8")).expect("root");
        for name in ["/absolute", "/upwards", "/etc/passwd"] {
            let mut text = String::new();
            root.open(Path::new(name)).expect(name).read_to_string(&mut text).expect("read");
            assert_eq!(text, "inside", "{name}");
        }
    }

    #[test]
    fn pipes_and_devices_are_refused_without_blocking() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let fifo = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
        assert!(made.success());
        let root = Root::own().expect("root");
        for path in [fifo.as_path(), Path::new("/dev/null"), Path::new("/proc")] {
            let error = root.open(path).expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{}", path.display());
        }
    }

    #[test]
    fn root_of_a_vanished_process_is_no_such_process() {
        assert!(matches!(Root::of(0x7fff_fff0), Err(ProcessError::NoSuchProcess { .. })));
    }
}
