//! The recording's outer layout, the same for every version.
//!
//! ```text
//! file   = "MTRC\r\n\x1a\n"  version:u32  chunk*
//! chunk  = payload_bytes:u32  raw_bytes:u32  sequence:u32  flags:u32  crc32:u32  payload
//! ```
//!
//! Numbers are little-endian. `crc32` (IEEE) covers the 16 bytes before it and the payload. The
//! payload is one zstd frame of `raw_bytes` bytes of records; chunks unpack independently of
//! each other. Sequence numbers count from 0. One or more chunks make a flush, whose last one has
//! [`FLAG_FLUSH`] set; records count only when their flush is whole. The last chunk of a finished
//! recording has [`FLAG_FINAL`] set too.
//!
//! Promise: a memtrace reads the files of every older version. What the records mean belongs to
//! the version; within a version record kinds are only added at the end of `record::Record`
//! before its first release, and never changed.

/// First bytes of a file. The line ends show a file that went through a text conversion, ^Z stops
/// it on old terminals.
pub(super) const MAGIC: [u8; 8] = *b"MTRC\r\n\x1a\n";

/// Version that is written, and the newest that is read.
pub const VERSION: u32 = 1;

/// Bytes before the first chunk.
pub(super) const FILE_HEADER_BYTES: usize = 12;

/// Bytes before a chunk's payload.
pub(super) const CHUNK_HEADER_BYTES: usize = 20;

/// Records are put in chunks of about this size.
pub(super) const CHUNK_BYTES: usize = 1024 * 1024;

/// No chunk is larger than this, packed or unpacked: the largest record (a time line, or a command
/// line) is far smaller than what is left above [`CHUNK_BYTES`].
pub(super) const MAX_CHUNK_BYTES: usize = 4 * CHUNK_BYTES;

/// The chunk completes a flush.
pub(super) const FLAG_FLUSH: u32 = 1;

/// The chunk completes the recording.
pub(super) const FLAG_FINAL: u32 = 2;

/// zstd's default: 250 MB/s and more, which a flush a second never needs.
pub(super) const COMPRESSION_LEVEL: i32 = 3;

/// A chunk's header without its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkHeader {
    pub(super) payload_bytes: u32,
    pub(super) raw_bytes: u32,
    pub(super) sequence: u32,
    pub(super) flags: u32,
}

impl ChunkHeader {
    /// The header's bytes with the checksum over them and the payload.
    pub(super) fn encode(&self, payload: &[u8]) -> [u8; CHUNK_HEADER_BYTES] {
        let mut bytes = [0; CHUNK_HEADER_BYTES];
        let fields = [self.payload_bytes, self.raw_bytes, self.sequence, self.flags];
        for (place, field) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(fields) {
            *place = field.to_le_bytes();
        }
        let crc = checksum(&bytes[..16], payload);
        bytes[16..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header and the checksum that was stored with it.
    pub(super) fn decode(bytes: &[u8; CHUNK_HEADER_BYTES]) -> (Self, u32) {
        let (words, _) = bytes.as_chunks::<4>();
        let word = |index: usize| u32::from_le_bytes(words[index]);
        let header =
            Self { payload_bytes: word(0), raw_bytes: word(1), sequence: word(2), flags: word(3) };
        (header, word(4))
    }
}

/// CRC-32 of header fields and payload.
pub(super) fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(payload);
    crc.finalize()
}
