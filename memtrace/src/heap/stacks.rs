//! What each stack costs, and its share at the peak.

use rustc_hash::FxHashMap;

use crate::profile::dirty::Dirty;
use crate::profile::{Cost, StackId};
use crate::stream::event::StackKey;

/// The heap as a whole at its first maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peak {
    /// Live bytes.
    pub bytes: u64,
    /// Live blocks.
    pub blocks: u64,
    /// Successful allocations up to and with the one that made the maximum.
    pub alloc_calls: u64,
    /// When, milliseconds since the recording began.
    pub ms: u64,
}

struct Entry {
    /// `peak_bytes` and `peak_blocks` are valid when `epoch` is the table's.
    cost: Cost,
    epoch: u64,
}

/// Costs by stack. Shares at the peak are kept without ever walking over all stacks:
///
/// While the live bytes stand at a new maximum (`at_peak`), every stack's share is what is live of
/// it now. The first change that is not a new maximum opens an epoch; a stack that changes for the
/// first time in an epoch saves its share before. So a stack whose epoch is not the table's has not
/// changed since the peak, and its share is what is live of it now.
pub(super) struct Stacks {
    ids: FxHashMap<StackKey, StackId>,
    entries: Vec<Entry>,
    /// Key and first process, one per stack.
    origins: Vec<(StackKey, u32)>,
    epoch: u64,
    at_peak: bool,
    pub(super) peak: Peak,
    /// The peak moved since this was last set to false.
    pub(super) peak_moved: bool,
    pub(super) live_bytes: u64,
    pub(super) live_blocks: u64,
    pub(super) alloc_calls: u64,
    pub(super) changed: Dirty,
    last: Option<(StackKey, StackId)>,
}

impl Default for Stacks {
    fn default() -> Self {
        Self {
            ids: FxHashMap::default(),
            entries: Vec::new(),
            origins: Vec::new(),
            epoch: 0,
            // The empty heap is the first maximum.
            at_peak: true,
            peak: Peak::default(),
            peak_moved: false,
            live_bytes: 0,
            live_blocks: 0,
            alloc_calls: 0,
            changed: Dirty::default(),
            last: None,
        }
    }
}

impl Stacks {
    /// The dense id of a stack, new at first sight.
    #[inline]
    pub(super) fn id(&mut self, key: StackKey, pid: u32) -> StackId {
        if let Some((last_key, id)) = self.last
            && last_key == key
        {
            return id;
        }
        let id = *self.ids.entry(key).or_insert_with(|| {
            let id = u32::try_from(self.entries.len()).expect("fewer than 2^32 stacks");
            self.entries.push(Entry { cost: Cost::default(), epoch: 0 });
            self.origins.push((key, pid));
            id
        });
        self.last = Some((key, id));
        id
    }

    pub(super) fn find(&self, key: StackKey) -> Option<StackId> {
        self.ids.get(&key).copied()
    }

    /// Makes a key that was not seen yet another name of a stack.
    pub(super) fn alias(&mut self, key: StackKey, id: StackId) {
        self.ids.entry(key).or_insert(id);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Key and first process of a stack.
    pub(super) fn origin(&self, id: StackId) -> (StackKey, u32) {
        self.origins[id as usize]
    }

    /// The cost of a stack with its share at the peak.
    pub(super) fn cost(&self, id: StackId) -> Cost {
        let entry = &self.entries[id as usize];
        let mut cost = entry.cost;
        if self.at_peak || entry.epoch != self.epoch {
            cost.peak_bytes = cost.live_bytes();
            cost.peak_blocks = cost.live_blocks();
        }
        cost
    }

    #[inline]
    pub(super) fn allocated(&mut self, id: StackId, size: u64, now_ms: u64) {
        // Sums wrap rather than panic: only made-up events can reach 2^64 bytes.
        self.live_bytes = self.live_bytes.wrapping_add(size);
        self.live_blocks += 1;
        self.alloc_calls += 1;
        if self.live_bytes > self.peak.bytes {
            self.peak = Peak {
                bytes: self.live_bytes,
                blocks: self.live_blocks,
                alloc_calls: self.alloc_calls,
                ms: now_ms,
            };
            self.at_peak = true;
            self.peak_moved = true;
        } else {
            self.save_peak_share(id);
        }
        let cost = &mut self.entries[id as usize].cost;
        cost.alloc_calls += 1;
        cost.alloc_bytes = cost.alloc_bytes.wrapping_add(size);
        self.changed.mark(id);
    }

    #[inline]
    pub(super) fn released(&mut self, id: StackId, size: u64, temporary: bool) {
        self.live_bytes = self.live_bytes.wrapping_sub(size);
        self.live_blocks -= 1;
        self.save_peak_share(id);
        let cost = &mut self.entries[id as usize].cost;
        cost.free_calls += 1;
        cost.freed_bytes = cost.freed_bytes.wrapping_add(size);
        if temporary {
            cost.temporary_calls += 1;
            cost.temporary_bytes = cost.temporary_bytes.wrapping_add(size);
        }
        self.changed.mark(id);
    }

    pub(super) fn failed(&mut self, id: StackId) {
        self.entries[id as usize].cost.failed_calls += 1;
        self.changed.mark(id);
    }

    #[inline]
    fn save_peak_share(&mut self, id: StackId) {
        if self.at_peak {
            self.at_peak = false;
            self.epoch += 1;
        }
        let entry = &mut self.entries[id as usize];
        if entry.epoch != self.epoch {
            entry.epoch = self.epoch;
            entry.cost.peak_bytes = entry.cost.live_bytes();
            entry.cost.peak_blocks = entry.cost.live_blocks();
        }
    }
}
