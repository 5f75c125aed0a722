//! What can go wrong with a recording on disk.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a recording could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file could not be opened or read.
    #[error("cannot read {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// The file has no bytes.
    #[error("{path} is empty; memtrace writes the first second of a recording at its start")]
    Empty { path: PathBuf },
    /// The file does not begin like a recording.
    #[error("{path} is not a memtrace recording")]
    NotARecording { path: PathBuf },
    /// The file was written by a later memtrace.
    #[error(
        "{path} has format version {found}, this memtrace reads up to version {supported}; \
         use a newer memtrace"
    )]
    NewerVersion { path: PathBuf, found: u32, supported: u32 },
    /// The file begins like a recording, but not even its first flush is whole.
    #[error("{path} holds no whole flush: {reason} at byte {offset}")]
    NoData { path: PathBuf, reason: Damage, offset: u64 },
    /// The recording's tables would take more memory than allowed.
    #[error("{path} would take more than {limit_bytes} bytes of memory to read")]
    TooLarge { path: PathBuf, limit_bytes: u64 },
}

/// Where and why the readable part of a file ends before its closing chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Damage {
    /// The file ends in the middle, or before the closing chunk.
    #[error("the file ends early")]
    Truncated,
    /// A chunk's header states what no writer writes.
    #[error("a chunk header is damaged")]
    Header,
    /// A chunk's checksum does not match.
    #[error("a checksum does not match")]
    Checksum,
    /// A chunk with a matching checksum can't be unpacked or understood.
    #[error("a chunk can't be decoded")]
    Content,
}

/// Why a recording could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The file could not be created or its header not written.
    #[error("cannot create {path}: {source}")]
    Create { path: PathBuf, source: io::Error },
    /// A flush could not be written, e.g. because the disk is full. The file still ends with the
    /// last whole flush. Nothing is lost as long as a later flush succeeds.
    #[error(
        "cannot write {path}: {source}; the last {unwritten_bytes} bytes of the recording are \
         missing, it can be read up to there"
    )]
    Write { path: PathBuf, source: io::Error, unwritten_bytes: u64 },
    /// The compacted file could not be written or put in place; the old one goes on.
    #[error("cannot compact {path}: {source}")]
    Compact { path: PathBuf, source: io::Error },
}
