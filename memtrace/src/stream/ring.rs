//! The reading end of the kernel's ring buffer.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{MapData, RingBuf};

use super::{decode::decode, event::Event};

/// Reads records in the order in which the kernel reserved them.
pub struct RingReader {
    ring: RingBuf<MapData>,
    undecodable: u64,
}

impl RingReader {
    /// Takes over the ring map.
    pub fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring, undecodable: 0 }
    }

    /// Hands up to `limit` waiting events to `sink` and returns how many there were; fewer than
    /// `limit` means that the ring was empty for a moment.
    pub fn drain(&mut self, limit: usize, mut sink: impl FnMut(&Event<'_>)) -> usize {
        for count in 0..limit {
            let Some(record) = self.ring.next() else { return count };
            match decode(&record) {
                Some(event) => sink(&event),
                None => self.undecodable += 1,
            }
        }
        limit
    }

    /// Records that were not understood so far.
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }
}

impl AsFd for RingReader {
    /// Readable when the kernel side has asked for a wake-up.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
