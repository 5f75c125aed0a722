//! The live blocks of one process, by address.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as TableEntry;
use rustc_hash::FxBuildHasher;

use crate::profile::StackId;

/// A live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Requested bytes.
    pub(super) size: u64,
    pub(super) stack: StackId,
    /// Slot of the thread that allocated it.
    pub(super) thread: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    address: u64,
    block: Block,
}

// With one control byte and a table at least 7/16 full: at most 57.2 bytes a block.
const _: () = assert!(size_of::<Entry>() == 24);

/// A table is split by hash, so that growing copies a sixteenth of the blocks at a time: the
/// reader of the ring buffer is never away for long, and old and new copy of all blocks are never
/// in memory together.
const SHARDS: usize = 16;

/// Live blocks by address. An empty set takes no memory of its own.
#[derive(Default)]
pub(super) struct Blocks {
    shards: Vec<HashTable<Entry>>,
}

#[inline]
fn hash(address: u64) -> u64 {
    FxBuildHasher.hash_one(address)
}

/// Bits far away from those that hashbrown uses (lowest bits for the place, top seven for the tag).
#[inline]
fn shard(hash: u64) -> usize {
    (hash >> 50) as usize % SHARDS
}

impl Blocks {
    /// Adds a block and returns the one that was there.
    #[inline]
    pub(super) fn insert(&mut self, address: u64, block: Block) -> Option<Block> {
        if self.shards.is_empty() {
            self.shards = (0..SHARDS).map(|_| HashTable::new()).collect();
        }
        let hash_of_address = hash(address);
        let table = &mut self.shards[shard(hash_of_address)];
        let found = table.entry(hash_of_address, |e| e.address == address, |e| hash(e.address));
        match found {
            TableEntry::Occupied(mut entry) => {
                Some(std::mem::replace(&mut entry.get_mut().block, block))
            }
            TableEntry::Vacant(entry) => {
                entry.insert(Entry { address, block });
                None
            }
        }
    }

    /// Takes a block out.
    #[inline]
    pub(super) fn remove(&mut self, address: u64) -> Option<Block> {
        let hash_of_address = hash(address);
        let table = self.shards.get_mut(shard(hash_of_address))?;
        let entry = table.find_entry(hash_of_address, |e| e.address == address).ok()?;
        Some(entry.remove().0.block)
    }

    /// True when there is a block at this address.
    pub(super) fn contains(&self, address: u64) -> bool {
        let hash_of_address = hash(address);
        self.shards
            .get(shard(hash_of_address))
            .is_some_and(|table| table.find(hash_of_address, |e| e.address == address).is_some())
    }

    /// Takes all blocks out, in no order.
    pub(super) fn into_blocks(self) -> impl Iterator<Item = Block> {
        self.shards.into_iter().flatten().map(|entry| entry.block)
    }

    /// Memory behind this set, bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.shards.iter().map(HashTable::allocation_size).sum::<usize>()
            + self.shards.capacity() * size_of::<HashTable<Entry>>()
    }
}

#[cfg(test)]
mod tests {
    use super::{Block, Blocks};

    #[test]
    fn a_block_takes_at_most_64_bytes_at_any_number_of_blocks() {
        let mut blocks = Blocks::default();
        for n in 0..200_000u64 {
            blocks.insert(0x5555_5555_0000 + n * 48, Block { size: n, stack: 0, thread: 0 });
            if n >= 20_000 && n % 1000 == 0 {
                let each = blocks.memory_bytes() as f64 / (n + 1) as f64;
                assert!(each <= 64.0, "{each} bytes a block at {n} blocks");
            }
        }
    }

    #[test]
    fn a_block_is_found_at_its_own_address_only() {
        let mut blocks = Blocks::default();
        let block = |size| Block { size, stack: 1, thread: 2 };
        assert_eq!(blocks.remove(16), None);
        assert_eq!(blocks.insert(16, block(1)), None);
        assert_eq!(blocks.insert(32, block(2)), None);
        assert_eq!(blocks.insert(16, block(3)), Some(block(1)));
        assert!(blocks.contains(16) && !blocks.contains(48));
        assert_eq!(blocks.remove(16), Some(block(3)));
        assert_eq!(blocks.remove(16), None);
        assert_eq!(blocks.into_blocks().collect::<Vec<_>>(), [block(2)]);
    }
}
