//! The bytes of a binary.

use std::{fs::File, io, os::unix::fs::MetadataExt};

use memmap2::{Mmap, MmapOptions};

use super::ElfError;

/// All bytes of a file, mapped or in memory.
///
/// A mapped file that someone truncates while it is read kills the reader with SIGBUS, and one that
/// is rewritten gives the wrong names. Check [`Image::is_unchanged`] before each use; a truncation
/// in the few microseconds after it remains possible.
#[derive(Debug)]
pub struct Image(Bytes);

#[derive(Debug)]
enum Bytes {
    Mapped { map: Mmap, file: File, stamp: Stamp },
    Owned(Box<[u8]>),
}

/// What tells a file's content from an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    pub modified: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let status = file.metadata()?;
        Ok(Self {
            device: status.dev(),
            inode: status.ino(),
            size: status.size(),
            modified: (status.mtime(), status.mtime_nsec()),
        })
    }
}

impl Image {
    /// Maps a file. Reads nothing yet.
    ///
    /// # Errors
    /// [`ElfError::Io`].
    pub fn map(file: &File) -> Result<Self, ElfError> {
        let stamp = Stamp::of(file)?;
        let file = file.try_clone()?;
        // SAFETY: the mapping is private and read-only. memmap2's condition is that the file is not
        // changed underneath: a change is looked for before each use (see `is_unchanged`), all
        // parsers of these bytes check bounds on every access and so tolerate bytes that change.
        let map = unsafe { MmapOptions::new().map(&file)? };
        Ok(Self(Bytes::Mapped { map, file, stamp }))
    }

    /// Takes bytes that are in memory.
    pub fn from_bytes(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(Bytes::Owned(bytes.into()))
    }

    /// The whole file. The bytes stay at one address as long as the image lives, also when the
    /// image itself is moved.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped { map, .. } => map,
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// False when the file was written or truncated since it was mapped.
    pub fn is_unchanged(&self) -> bool {
        match &self.0 {
            Bytes::Mapped { file, stamp, .. } => Stamp::of(file).is_ok_and(|now| now == *stamp),
            Bytes::Owned(_) => true,
        }
    }

    /// Parses the ELF headers, section and symbol tables.
    ///
    /// # Errors
    /// [`ElfError::Malformed`].
    pub fn parse(&self) -> Result<object::File<'_>, ElfError> {
        Ok(object::File::parse(self.bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    #[test]
    fn rewritten_file_is_noticed() {
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        file.write_all(&[1; 5000]).expect("write");
        let image = Image::map(file.as_file()).expect("map");
        assert!(image.is_unchanged());
        assert_eq!(image.bytes(), [1; 5000]);
        fs::write(file.path(), [2; 6000]).expect("rewrite");
        assert!(!image.is_unchanged());
    }

    #[test]
    fn deleted_file_stays_readable_and_unchanged() {
        let mut file = tempfile::NamedTempFile::new().expect("temporary file");
        file.write_all(b"content").expect("write");
        let image = Image::map(file.as_file()).expect("map");
        file.close().expect("delete");
        assert!(image.is_unchanged());
        assert_eq!(image.bytes(), b"content");
    }
}
