//! Appends flushes to a file.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zstd::bulk::Compressor;

use super::delta::Delta;
use super::error::WriteError;
use super::format::{
    COMPRESSION_LEVEL, ChunkHeader, FILE_HEADER_BYTES, FLAG_FINAL, FLAG_FLUSH, MAGIC, VERSION,
};

/// A file is compacted when its flushes since the last whole state outgrow this...
const COMPACT_BYTES: u64 = 64 * 1024 * 1024;
/// ...and this many times that state.
const COMPACT_FACTOR: u64 = 8;

/// Where a recording is written to.
pub(super) trait Medium: Send {
    /// Appends all of these bytes; after an error any part of them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Takes back everything after the first `len` bytes.
    fn cut(&mut self, len: u64) -> io::Result<()>;
    /// Makes sure that what was appended survives a power cut.
    fn sync(&mut self) -> io::Result<()>;
    /// The file, when it is one that another file can be put in the place of.
    fn regular_file(&self) -> Option<&File>;
}

/// A file, pipe or device.
struct Output {
    file: File,
    regular: bool,
}

impl Medium for Output {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        if !self.regular {
            return Err(io::Error::other("part of a flush went to a pipe or device"));
        }
        self.file.set_len(len)?;
        self.file.seek(SeekFrom::Start(len))?;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.regular { self.file.sync_data() } else { Ok(()) }
    }

    fn regular_file(&self) -> Option<&File> {
        self.regular.then_some(&self.file)
    }
}

/// Writes a recording. Dropped without [`finish`](Self::finish) it leaves a file that reads as not
/// complete.
pub struct Writer {
    path: PathBuf,
    medium: Box<dyn Medium>,
    compressor: Compressor<'static>,
    /// Length up to the end of the last whole flush.
    len: u64,
    sequence: u32,
    /// There may be part of a flush after `len`.
    torn: bool,
    /// Size of the whole state that the file begins with, 0 for none.
    state_bytes: u64,
    /// Flushes after it, bytes.
    since_state: u64,
    /// `since_state` beyond which the file is compacted.
    compact_above: u64,
}

impl Writer {
    /// Creates the file, or empties the one that is there, and writes the header, so that a path
    /// that can't be written to fails here.
    ///
    /// # Errors
    ///
    /// [`WriteError::Create`].
    pub fn create(path: &Path) -> Result<Self, WriteError> {
        let failed = |source| WriteError::Create { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(failed)?;
        let regular = file.metadata().map_err(failed)?.is_file();
        // A compact file must replace the file behind a symbolic link, also after a change of the
        // working directory.
        let path = if regular { fs::canonicalize(path).map_err(failed)? } else { path.to_owned() };
        Self::with_medium(path, Box::new(Output { file, regular }))
    }

    pub(super) fn with_medium(
        path: PathBuf,
        mut medium: Box<dyn Medium>,
    ) -> Result<Self, WriteError> {
        let compressor = Compressor::new(COMPRESSION_LEVEL)
            .and_then(|compressor| medium.append(&file_header()).map(|()| compressor));
        match compressor {
            Ok(compressor) => Ok(Self {
                path,
                medium,
                compressor,
                len: FILE_HEADER_BYTES as u64,
                sequence: 0,
                torn: false,
                state_bytes: 0,
                since_state: 0,
                compact_above: COMPACT_BYTES,
            }),
            Err(source) => Err(WriteError::Create { path, source }),
        }
    }

    /// Where the recording is written to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file, bytes.
    pub fn written_bytes(&self) -> u64 {
        self.len
    }

    /// Appends one flush; returns its bytes. All of it is written or nothing.
    ///
    /// # Errors
    ///
    /// [`WriteError::Write`], with the size of this flush. What was written before stays readable,
    /// and the call may be repeated with a delta that holds this one's changes too.
    pub fn append(&mut self, delta: &Delta) -> Result<u64, WriteError> {
        self.write_flush(delta, 0)
    }

    /// Appends the last flush, marks the recording as complete, and waits until it is on disk.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    pub fn finish(&mut self, delta: &Delta) -> Result<u64, WriteError> {
        let written = self.write_flush(delta, FLAG_FINAL)?;
        self.medium.sync().map_err(|source| WriteError::Write {
            path: self.path.clone(),
            source,
            unwritten_bytes: written,
        })?;
        Ok(written)
    }

    /// True when the next flush should be a [`compact`](Self::compact).
    pub fn wants_compaction(&self) -> bool {
        self.since_state > self.compact_above && self.medium.regular_file().is_some()
    }

    /// Replaces the file, in one step, by one that holds just this state; returns its bytes.
    ///
    /// # Errors
    ///
    /// [`WriteError::Compact`]: the old file goes on, and wants to be compacted again after it has
    /// grown as much once more.
    pub fn compact(&mut self, everything: &Delta) -> Result<u64, WriteError> {
        self.write_compact(everything).map_err(|source| {
            self.compact_above = self.since_state.saturating_mul(2);
            WriteError::Compact { path: self.path.clone(), source }
        })
    }

    fn write_flush(&mut self, delta: &Delta, final_flag: u32) -> Result<u64, WriteError> {
        let (bytes, chunks) = match self.pack(delta, self.sequence, final_flag) {
            Ok(packed) => packed,
            Err(source) => return Err(self.unwritten(source, delta.raw_bytes() as u64)),
        };
        let written = bytes.len() as u64;
        if self.torn
            && let Err(source) = self.medium.cut(self.len)
        {
            return Err(self.unwritten(source, written));
        }
        self.torn = false;
        if let Err(source) = self.medium.append(&bytes) {
            self.torn = self.medium.cut(self.len).is_err();
            return Err(self.unwritten(source, written));
        }
        self.len += written;
        self.since_state += written;
        self.sequence = self.sequence.wrapping_add(chunks);
        Ok(written)
    }

    fn unwritten(&self, source: io::Error, unwritten_bytes: u64) -> WriteError {
        WriteError::Write { path: self.path.clone(), source, unwritten_bytes }
    }

    /// The chunks of a flush in one piece, and their number.
    fn pack(
        &mut self,
        delta: &Delta,
        first_sequence: u32,
        final_flag: u32,
    ) -> io::Result<(Vec<u8>, u32)> {
        let chunks = delta.chunks();
        let count = u32::try_from(chunks.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        for (index, raw) in (0..).zip(chunks) {
            let payload = self.compressor.compress(raw)?;
            let flags = if index + 1 == count { FLAG_FLUSH | final_flag } else { 0 };
            let header = ChunkHeader {
                payload_bytes: u32::try_from(payload.len()).map_err(io::Error::other)?,
                raw_bytes: u32::try_from(raw.len()).map_err(io::Error::other)?,
                sequence: first_sequence.wrapping_add(index),
                flags,
            };
            bytes.extend_from_slice(&header.encode(&payload));
            bytes.extend_from_slice(&payload);
        }
        Ok((bytes, count))
    }

    fn write_compact(&mut self, everything: &Delta) -> io::Result<u64> {
        let Some(old) = self.medium.regular_file() else {
            return Err(io::Error::other("not a regular file"));
        };
        let old = old.metadata()?;
        let there = fs::metadata(&self.path)?;
        if (old.dev(), old.ino()) != (there.dev(), there.ino()) {
            return Err(io::Error::other("the file was moved or replaced while recording"));
        }
        let (chunks, count) = self.pack(everything, 0, 0)?;
        let path = beside(&self.path);
        let result = write_new_file(&path, &chunks, &old)
            .and_then(|file| fs::rename(&path, &self.path).map(|()| file));
        let file = result.inspect_err(|_| {
            // What is left of it is of no use; if it can't be removed either, there is no more to
            // be done about it.
            let _ = fs::remove_file(&path);
        })?;
        let len = (FILE_HEADER_BYTES + chunks.len()) as u64;
        self.medium = Box::new(Output { file, regular: true });
        self.len = len;
        self.sequence = count;
        self.torn = false;
        self.state_bytes = len;
        self.since_state = 0;
        self.compact_above = COMPACT_BYTES.max(self.state_bytes.saturating_mul(COMPACT_FACTOR));
        Ok(len)
    }

    #[cfg(test)]
    pub(super) fn compact_above(&mut self, bytes: u64) {
        self.compact_above = bytes;
    }
}

fn file_header() -> [u8; FILE_HEADER_BYTES] {
    let mut header = [0; FILE_HEADER_BYTES];
    header[..MAGIC.len()].copy_from_slice(&MAGIC);
    header[MAGIC.len()..].copy_from_slice(&VERSION.to_le_bytes());
    header
}

/// A hidden name in the same directory, since only there a rename is one step.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.compact", std::process::id()));
    path.with_file_name(name)
}

fn write_new_file(path: &Path, chunks: &[u8], like: &fs::Metadata) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.set_permissions(like.permissions())?;
    file.write_all(&file_header())?;
    file.write_all(chunks)?;
    file.sync_data()?;
    Ok(file)
}
