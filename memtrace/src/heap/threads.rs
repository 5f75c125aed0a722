//! What a thread is in the middle of.

use rustc_hash::FxHashMap;

use super::blocks::Block;

/// A realloc between its two halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    None,
    /// Of a block that was not known.
    Unknown {
        /// As in `Known`.
        last: u64,
    },
    /// The block is out of the address table, since its address can be handed to another thread
    /// before the second half comes, and still counted as live.
    Known {
        address: u64,
        block: Block,
        /// The thread's `last` before the realloc.
        last: u64,
    },
}

/// A living thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) pid: u32,
    pub(super) tid: u32,
    /// Index into the heap's processes.
    pub(super) process: u32,
    /// Index into the heap's threads.
    pub(super) thread: u32,
    /// Address of the block that the thread's last event allocated, 0 when it did something else.
    pub(super) last: u64,
    pub(super) pending: Pending,
    /// Frees of unknown blocks since the thread last did anything else.
    pub(super) unknown_run: u32,
}

/// Living threads by process and thread id, in slots that are used again.
#[derive(Default)]
pub(super) struct Threads {
    by_id: FxHashMap<u64, u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The slot of the last event: most events come in runs.
    recent: Option<(u64, u32)>,
}

#[inline]
fn key(pid: u32, tid: u32) -> u64 {
    u64::from(pid) << 32 | u64::from(tid)
}

impl Threads {
    #[inline]
    pub(super) fn find(&mut self, pid: u32, tid: u32) -> Option<u32> {
        let key = key(pid, tid);
        if let Some((recent, slot)) = self.recent
            && recent == key
        {
            return Some(slot);
        }
        let slot = *self.by_id.get(&key)?;
        self.recent = Some((key, slot));
        Some(slot)
    }

    pub(super) fn add(&mut self, slot: Slot) -> u32 {
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 threads")
            }
        };
        self.by_id.insert(key(slot.pid, slot.tid), index);
        index
    }

    #[inline]
    pub(super) fn get(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    pub(super) fn remove(&mut self, pid: u32, tid: u32) -> Option<Slot> {
        let index = self.by_id.remove(&key(pid, tid))?;
        self.recent = None;
        self.free.push(index);
        Some(self.slots[index as usize])
    }

    /// Removes all threads of a process and returns them with their slots' numbers; walks over the threads of all of them.
    pub(super) fn remove_process(&mut self, process: u32) -> Vec<(u32, Slot)> {
        let Self { by_id, slots, free, recent } = self;
        *recent = None;
        let mut removed = Vec::new();
        by_id.retain(|_, index| {
            let slot = slots[*index as usize];
            let keep = slot.process != process;
            if !keep {
                free.push(*index);
                removed.push((*index, slot));
            }
            keep
        });
        removed
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.by_id.values().map(|index| &self.slots[*index as usize])
    }
}
