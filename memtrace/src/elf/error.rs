//! Why a binary could not be read.

use std::io;

/// A reader of ELF input failed.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// The file could not be read or mapped.
    #[error("cannot read the file: {0}")]
    Io(#[from] io::Error),
    /// Not ELF, or broken ELF; the text says what is wrong with it.
    #[error("not a usable ELF file: {0}")]
    Malformed(String),
    /// A part of it is larger than any honest file needs.
    #[error("refused: {what} of {bytes} bytes is over the limit of {limit}")]
    TooLarge { what: &'static str, bytes: u64, limit: u64 },
}

impl From<object::Error> for ElfError {
    fn from(error: object::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}
