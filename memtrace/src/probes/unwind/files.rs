//! From a mapping to the unwind table of what is mapped there.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
};

use object::ReadCache;

use super::mappings::Executable;
use crate::elf::unwind::{UnwindError, UnwindTable};

/// Largest vDSO that is read; real ones have two or three pages.
const MAX_VDSO_BYTES: u64 = 256 << 10;

/// A file that has no table in the kernel.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct FileProblem {
    /// As in /proc/PID/maps.
    pub path: String,
    pub problem: Problem,
}

/// Why a file has no table.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It could not be opened or read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// What is at its path is another file than the one that is mapped, and the mapped one can't be
    /// reached (needs root, or CAP_CHECKPOINT_RESTORE).
    #[error("was replaced, and the mapped file cannot be opened (needs root)")]
    Replaced,
    /// It has none, or none that can be used.
    #[error(transparent)]
    Unwind(#[from] UnwindError),
    /// The kernel's arrays are full.
    #[error("no room for its unwind table in the kernel")]
    NoRoom,
}

/// What tells a file's content from any other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// # Errors
    /// Of the system.
    pub fn of(file: &File) -> io::Result<Self> {
        let status = file.metadata()?;
        Ok(Self {
            device: status.dev(),
            inode: status.ino(),
            size: status.size(),
            modified: (status.mtime(), status.mtime_nsec()),
            changed: (status.ctime(), status.ctime_nsec()),
        })
    }
}

/// Opens the mapped file itself, be it deleted, replaced, or in another mount namespace. Where that
/// is not allowed, the file at its path as the process sees it, if that has the inode.
///
/// # Errors
/// [`Problem::Io`], [`Problem::Replaced`].
pub fn open(pid: u32, mapping: &Executable) -> Result<File, Problem> {
    let mapped = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
    if let Ok(file) = regular(&mapped) {
        return Ok(file);
    }
    let file = regular(&format!("/proc/{pid}/root{}", mapping.path))?;
    // Devices are left out: /proc/PID/maps and stat disagree on them for overlay and btrfs.
    if file.metadata()?.ino() == mapping.inode { Ok(file) } else { Err(Problem::Replaced) }
}

/// Opens without waiting for anything: a path may lead to a pipe or a device.
fn regular(path: &str) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// Reads the table of an open file. It is read, not mapped: a truncation meanwhile is an error, not
/// a signal.
///
/// # Errors
/// [`Problem::Unwind`].
pub fn table(file: File) -> Result<UnwindTable, Problem> {
    let cache = ReadCache::new(file);
    Ok(UnwindTable::read(&cache)?)
}

/// Reads the table of the code that the kernel maps into every process.
///
/// # Errors
/// [`Problem::Io`], [`Problem::Unwind`].
pub fn vdso_table(pid: u32, mapping: &Executable) -> Result<UnwindTable, Problem> {
    let mut memory = File::open(format!("/proc/{pid}/mem"))?;
    memory.seek(SeekFrom::Start(mapping.start))?;
    let size = (mapping.end - mapping.start).min(MAX_VDSO_BYTES);
    let mut bytes = vec![0; size as usize];
    memory.read_exact(&mut bytes)?;
    Ok(UnwindTable::read(&*bytes)?)
}
