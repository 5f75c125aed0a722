//! The live blocks of one process, by address.
//!
//! With millions of live blocks nearly every event is a cache miss here, so the table is made for
//! few of them: open addressing with linear probing and no other memory than the slots, and
//! [`Blocks::touch`], which lets the misses of several events overlap.

use crate::profile::StackId;

/// A live block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// Requested bytes.
    pub(super) size: u64,
    pub(super) stack: StackId,
    /// Slot of the thread that allocated it.
    pub(super) thread: u32,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    /// 0 when the slot is empty.
    address: u64,
    block: Block,
}

const _: () = assert!(size_of::<Slot>() == 24);

/// A table is split by hash, so that growing moves a sixteenth of the blocks at a time: the reader
/// of the ring buffer is never away for long, and old and new copy of all blocks are never in
/// memory together.
const SHARDS: usize = 16;

/// Live blocks by address. An empty set takes no memory of its own.
#[derive(Default)]
pub(super) struct Blocks {
    shards: Vec<Shard>,
}

impl Blocks {
    /// Adds a block and returns the one that was there. The address is not 0.
    #[inline]
    pub(super) fn insert(&mut self, address: u64, block: Block) -> Option<Block> {
        if self.shards.is_empty() {
            self.shards.resize_with(SHARDS, Shard::default);
        }
        let hash = hash(address);
        self.shards[shard(hash)].insert(hash, address, block)
    }

    /// Takes a block out.
    #[inline]
    pub(super) fn remove(&mut self, address: u64) -> Option<Block> {
        let hash = hash(address);
        self.shards.get_mut(shard(hash))?.remove(hash, address)
    }

    /// True when there is a block at this address.
    pub(super) fn contains(&self, address: u64) -> bool {
        let hash = hash(address);
        self.shards.get(shard(hash)).is_some_and(|shard| shard.find(hash, address).is_ok())
    }

    /// Brings the place of this address into the cache. The result has no meaning; the loads of
    /// calls whose results are only combined run at the same time.
    #[inline]
    pub(super) fn touch(&self, address: u64) -> u64 {
        let hash = hash(address);
        self.shards.get(shard(hash)).map_or(0, |shard| shard.touch(hash))
    }

    /// Takes all blocks out, in no order.
    pub(super) fn into_blocks(self) -> impl Iterator<Item = Block> {
        let slots = self.shards.into_iter().flat_map(|shard| shard.slots);
        slots.filter(|slot| slot.address != 0).map(|slot| slot.block)
    }

    /// Memory behind this set, bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let slots: usize = self.shards.iter().map(|shard| shard.slots.capacity()).sum();
        slots * size_of::<Slot>() + self.shards.capacity() * size_of::<Shard>()
    }
}

/// Fibonacci hashing: the golden ratio as a fraction of 2^64. Addresses at equal distances, as
/// allocators hand them out, are spread evenly by the highest bits.
#[inline]
fn hash(address: u64) -> u64 {
    address.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// From bits below those that choose the place.
#[inline]
fn shard(hash: u64) -> usize {
    (hash >> 28) as usize % SHARDS
}

/// At most 3/4 full, at least half full after it has grown: 32 to 48 bytes a block.
#[derive(Default)]
struct Shard {
    slots: Vec<Slot>,
    len: usize,
}

impl Shard {
    /// Where an address with this hash belongs: any number of slots, not just powers of two, by
    /// taking the hash as a fraction of 2^32. Not called on a table without slots.
    #[inline]
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.slots.len() as u64) >> 32) as usize
    }

    #[inline]
    fn after(&self, place: usize) -> usize {
        if place + 1 == self.slots.len() { 0 } else { place + 1 }
    }

    #[inline]
    fn touch(&self, hash: u64) -> u64 {
        if self.slots.is_empty() { 0 } else { self.slots[self.home(hash)].address }
    }

    /// Where the address is, or the empty slot where it would be put (slot 0 of a table without
    /// slots).
    #[inline]
    fn find(&self, hash: u64, address: u64) -> Result<usize, usize> {
        if self.slots.is_empty() {
            return Err(0);
        }
        let mut place = self.home(hash);
        loop {
            match self.slots[place].address {
                0 => return Err(place),
                there if there == address => return Ok(place),
                _ => place = self.after(place),
            }
        }
    }

    #[inline]
    fn insert(&mut self, hash: u64, address: u64, block: Block) -> Option<Block> {
        match self.find(hash, address) {
            Ok(place) => Some(std::mem::replace(&mut self.slots[place].block, block)),
            Err(mut place) => {
                if (self.len + 1) * 4 > self.slots.len() * 3 {
                    self.grow();
                    place = self.find(hash, address).unwrap_or_else(|empty| empty);
                }
                self.slots[place] = Slot { address, block };
                self.len += 1;
                None
            }
        }
    }

    #[inline]
    fn remove(&mut self, hash: u64, address: u64) -> Option<Block> {
        let mut hole = self.find(hash, address).ok()?;
        let block = self.slots[hole].block;
        // Those behind the hole that would not be found across it move into it.
        let mut place = self.after(hole);
        while self.slots[place].address != 0 {
            let home = self.home(self::hash(self.slots[place].address));
            if self.distance(home, place) >= self.distance(hole, place) {
                self.slots[hole] = self.slots[place];
                hole = place;
            }
            place = self.after(place);
        }
        self.slots[hole] = Slot::default();
        self.len -= 1;
        Some(block)
    }

    /// Steps from one place to another, around the end.
    #[inline]
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.slots.len() - from }
    }

    #[cold]
    fn grow(&mut self) {
        let slots = (self.slots.len() * 3 / 2).max(8);
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); slots]);
        for slot in old {
            if slot.address != 0 {
                let place =
                    self.find(hash(slot.address), slot.address).unwrap_or_else(|empty| empty);
                self.slots[place] = slot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{Block, Blocks};

    #[test]
    fn a_block_takes_at_most_50_bytes_at_any_number_of_blocks() {
        let mut blocks = Blocks::default();
        for n in 0..200_000u64 {
            blocks.insert(0x5555_5555_0000 + n * 48, Block { size: n, stack: 0, thread: 0 });
            if n >= 20_000 && n % 1000 == 0 {
                let each = blocks.memory_bytes() as f64 / (n + 1) as f64;
                assert!(each <= 50.0, "{each} bytes a block at {n} blocks");
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

    proptest! {
        #[test]
        fn a_set_of_blocks_is_a_map_by_address(
            steps in proptest::collection::vec((any::<bool>(), 0u64..300), 0..2000),
        ) {
            let mut blocks = Blocks::default();
            let mut map = std::collections::BTreeMap::new();
            for (size, (insert, number)) in (0..).zip(steps) {
                let address = (number + 1) * 16;
                if insert {
                    let block = Block { size, stack: 1, thread: 2 };
                    prop_assert_eq!(blocks.insert(address, block), map.insert(address, block));
                } else {
                    prop_assert_eq!(blocks.contains(address), map.contains_key(&address));
                    prop_assert_eq!(blocks.remove(address), map.remove(&address));
                }
            }
            prop_assert_eq!(blocks.remove(0), None);
            let mut left: Vec<_> = blocks.into_blocks().map(|block| block.size).collect();
            let mut expected: Vec<_> = map.values().map(|block| block.size).collect();
            left.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(left, expected);
        }
    }
}
