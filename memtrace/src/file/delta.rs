//! What a flush is to write, encoded and cut into chunks but not packed yet.

use super::format::CHUNK_BYTES;
use super::record::Record;

/// The changes since the last flush (or everything), made by
/// [`Recorder::take_delta`](super::Recorder::take_delta) and written by
/// [`Writer::append`](super::Writer::append). Owns its data, so it can be sent to another thread.
#[derive(Debug, Default)]
pub struct Delta {
    raw: Vec<u8>,
    /// Where in `raw` a chunk ends and another begins.
    cuts: Vec<usize>,
}

impl Delta {
    pub(super) fn push(&mut self, record: &Record<'_>) {
        let begin = self.raw.len();
        if begin - self.cuts.last().copied().unwrap_or(0) >= CHUNK_BYTES {
            self.cuts.push(begin);
        }
        // Writing to a Vec can't fail, and postcard fails only for types that Record doesn't hold
        // (sequences of unknown length).
        postcard::to_io(record, &mut self.raw).expect("a record can be encoded");
    }

    /// Bytes before compression.
    pub fn raw_bytes(&self) -> usize {
        self.raw.len()
    }

    /// The chunks' contents, at least one.
    pub(super) fn chunks(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.cuts.iter().copied());
        let ends = self.cuts.iter().copied().chain(std::iter::once(self.raw.len()));
        let ranges: Vec<_> = begins.zip(ends).collect();
        ranges.into_iter().map(|(begin, end)| &self.raw[begin..end])
    }
}
