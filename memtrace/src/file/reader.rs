//! File → profile, as far as the file is whole.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use zstd::bulk::Decompressor;

use super::apply::{ApplyError, Builder};
use super::error::{Damage, ReadError};
use super::format::{
    CHUNK_HEADER_BYTES, ChunkHeader, FILE_HEADER_BYTES, FLAG_FINAL, FLAG_FLUSH, MAGIC,
    MAX_CHUNK_BYTES, VERSION, checksum,
};
use crate::profile::Profile;

/// Memory that reading a recording may take, about. A recording of ten million stacks takes half.
pub const MEMORY_LIMIT_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// What a file held.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// The state at the last whole flush.
    pub profile: Profile,
    pub ending: Ending,
}

/// How the readable part of a file ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the closing chunk. What may follow it is not read.
    Complete,
    /// With the last whole flush before `offset`, the byte where the damaged or missing chunk
    /// begins.
    Damaged { damage: Damage, offset: u64 },
}

/// Reads a recording. A file that is cut off or damaged somewhere after its first flush gives the
/// profile at the last whole flush before that place, with `complete` false.
///
/// # Errors
///
/// All variants of [`ReadError`].
pub fn read(path: &Path) -> Result<Profile, ReadError> {
    read_recording(path).map(|recording| recording.profile)
}

/// As [`read`], and says how the file ended.
///
/// # Errors
///
/// As [`read`].
pub fn read_recording(path: &Path) -> Result<Recording, ReadError> {
    let file =
        File::open(path).map_err(|source| ReadError::Io { path: path.to_owned(), source })?;
    read_from(BufReader::new(file), path, MEMORY_LIMIT_BYTES)
}

/// As [`read_recording`], from anything that can be read, with a limit on the memory that the
/// profile takes. `path` is for error messages.
///
/// # Errors
///
/// As [`read`].
pub fn read_from(
    mut input: impl Read,
    path: &Path,
    memory_limit_bytes: u64,
) -> Result<Recording, ReadError> {
    let failed = |source| ReadError::Io { path: path.to_owned(), source };
    check_file_header(&mut input, path)?;

    let mut chunks = Chunks {
        input,
        decompressor: Decompressor::new().map_err(failed)?,
        sequence: 0,
        offset: FILE_HEADER_BYTES as u64,
    };
    let mut builder = Builder::new(memory_limit_bytes);
    let too_large =
        || ReadError::TooLarge { path: path.to_owned(), limit_bytes: memory_limit_bytes };
    // Chunks of a flush whose last one has not come yet.
    let mut waiting = Vec::new();
    let mut waiting_bytes = 0;
    let ending = loop {
        let offset = chunks.offset;
        let chunk = match chunks.next() {
            Ok(chunk) => chunk,
            Err(ChunkError::Io(source)) => return Err(failed(source)),
            Err(ChunkError::Damage(damage)) => break Ending::Damaged { damage, offset },
        };
        waiting_bytes += chunk.raw.len() as u64;
        if waiting_bytes > builder.memory_left() {
            return Err(too_large());
        }
        waiting.push(chunk.raw);
        if chunk.flags & FLAG_FLUSH != 0 {
            match builder.apply(&waiting) {
                Ok(()) => {}
                Err(ApplyError::Damage(damage)) => break Ending::Damaged { damage, offset },
                Err(ApplyError::TooLarge) => return Err(too_large()),
            }
            waiting.clear();
            waiting_bytes = 0;
        }
        if chunk.flags & FLAG_FINAL != 0 {
            break Ending::Complete;
        }
    };
    if let Ending::Damaged { damage, offset } = ending
        && builder.flushes() == 0
    {
        return Err(ReadError::NoData { path: path.to_owned(), reason: damage, offset });
    }
    let mut profile = builder.into_profile();
    profile.complete = ending == Ending::Complete;
    Ok(Recording { profile, ending })
}

fn check_file_header(input: &mut impl Read, path: &Path) -> Result<(), ReadError> {
    let mut header = Vec::with_capacity(FILE_HEADER_BYTES);
    input
        .take(FILE_HEADER_BYTES as u64)
        .read_to_end(&mut header)
        .map_err(|source| ReadError::Io { path: path.to_owned(), source })?;
    let path = || path.to_owned();
    if header.is_empty() {
        return Err(ReadError::Empty { path: path() });
    }
    let (magic, version) = header.split_at(header.len().min(MAGIC.len()));
    if !MAGIC.starts_with(magic) {
        return Err(ReadError::NotARecording { path: path() });
    }
    let Ok(version) = version.try_into().map(u32::from_le_bytes) else {
        return Err(ReadError::NoData { path: path(), reason: Damage::Truncated, offset: 0 });
    };
    match version {
        VERSION => Ok(()),
        // There never was a version 0.
        0 => Err(ReadError::NotARecording { path: path() }),
        found => Err(ReadError::NewerVersion { path: path(), found, supported: VERSION }),
    }
}

enum ChunkError {
    Io(io::Error),
    Damage(Damage),
}

impl From<Damage> for ChunkError {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

struct Chunk {
    flags: u32,
    raw: Vec<u8>,
}

/// The chunks of a file, checked and unpacked.
struct Chunks<R> {
    input: R,
    decompressor: Decompressor<'static>,
    /// Number that the next chunk must have.
    sequence: u32,
    /// Where the next chunk begins.
    offset: u64,
}

impl<R: Read> Chunks<R> {
    fn next(&mut self) -> Result<Chunk, ChunkError> {
        let bytes = self.read(CHUNK_HEADER_BYTES)?;
        let header_bytes: &[u8; CHUNK_HEADER_BYTES] =
            bytes.as_slice().try_into().map_err(|_| Damage::Truncated)?;
        let (header, crc) = ChunkHeader::decode(header_bytes);
        let ChunkHeader { payload_bytes, raw_bytes, sequence, flags } = header;
        // Nothing is allocated on the word of a header that no writer writes.
        let sound = raw_bytes != 0
            && raw_bytes as usize <= MAX_CHUNK_BYTES
            && payload_bytes as usize <= MAX_CHUNK_BYTES
            && sequence == self.sequence
            && matches!(flags, 0 | FLAG_FLUSH) | (flags == FLAG_FLUSH | FLAG_FINAL);
        if !sound {
            return Err(Damage::Header.into());
        }
        let payload = self.read(payload_bytes as usize)?;
        if checksum(&header_bytes[..16], &payload) != crc {
            return Err(Damage::Checksum.into());
        }
        let raw = self
            .decompressor
            .decompress(&payload, raw_bytes as usize)
            .map_err(|_| Damage::Content)?;
        if raw.len() != raw_bytes as usize {
            return Err(Damage::Content.into());
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.offset += (CHUNK_HEADER_BYTES + payload.len()) as u64;
        Ok(Chunk { flags, raw })
    }

    /// Exactly this many bytes.
    fn read(&mut self, bytes: usize) -> Result<Vec<u8>, ChunkError> {
        let mut buffer = Vec::new();
        (&mut self.input).take(bytes as u64).read_to_end(&mut buffer).map_err(ChunkError::Io)?;
        if buffer.len() < bytes {
            return Err(Damage::Truncated.into());
        }
        Ok(buffer)
    }
}
