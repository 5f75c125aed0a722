//! The live-heap model: events in, costs by stack out. The only place that knows what alloc,
//! realloc, free, fork, exec and exit mean.
//!
//! # Rules
//!
//! - Sizes are requested bytes. `malloc(0)` is a call of 0 bytes with a live block.
//! - A block belongs to its process: the same address in two processes is two blocks.
//! - A successful realloc is a release of the old block followed by an allocation at the realloc's
//!   stack. A failed one changes nothing but `failed_calls`. `realloc(p, 0)` that returns NULL is a
//!   release. Between its halves the old block counts as live, but its address is free: another
//!   thread may be given it.
//! - A realloc whose second half never comes (thread died, half lost) released its block.
//! - A block is temporary when the thread that allocated it releases it by its very next event.
//!   Failed calls, failed reallocs too, are no events in this sense.
//! - The peak is the first maximum of live bytes, and a stack's share is what was live of it then.
//! - An allocation at an address that is live means that a free was lost: the old block is
//!   released and counted in `replaced_blocks`.
//! - Releases of unknown blocks are counted and change nothing else: as `inherited_frees` in a
//!   process that was forked from a recorded one and has not exec'ed since, else as `unknown_frees`.
//! - A forked child starts with an empty table: the copies of the parent's blocks are not its
//!   allocations.
//! - Exec releases all blocks of the process, apart from `free_calls` (`exec_dropped_blocks`).
//! - Blocks of a process that exits without freeing them stay live: they are its leaks. A process
//!   id that appears again afterwards is a new process with an empty heap.
//!
//! Memory grows with live blocks, stacks, processes and (up to [`MAX_THREAD_ENTRIES`]) threads,
//! never with events. No event walks over more than one block, stack or thread, but for exec, and
//! for the end of a process some of whose threads' ends were lost.

mod blocks;
#[cfg(test)]
pub(crate) mod model_tests;
mod stacks;
#[cfg(test)]
mod tests;
mod threads;

use rustc_hash::FxHashMap;

use crate::profile::dirty::Dirty;
use crate::profile::{Cost, Process, SizeHistogram, StackId, Thread, Totals};
use crate::stream::event::{Event, StackKey};
use blocks::{Block, Blocks};
pub use stacks::Peak;
use stacks::Stacks;
use threads::{Pending, Slot, Threads};

/// Threads that get an entry of their own. Later ones of a process share one with thread id 0, so
/// that a program that starts a thread a request does not make the recording grow for ever.
pub const MAX_THREAD_ENTRIES: usize = 65_536;

/// Events that are looked up together by [`Heap::apply_all`]: enough to keep all load buffers of a
/// processor busy, few enough to still be in its first cache when they are applied.
pub const BATCH: usize = 32;

/// Buckets of the size histogram: size 0, and one for each highest bit.
const SIZE_BUCKETS: usize = 65;

/// Index into [`Heap::processes`].
pub type ProcessIndex = u32;
/// Index into [`Heap::threads`].
pub type ThreadIndex = u32;

/// What the model knows of a process beside its numbers.
#[derive(Default)]
struct ProcessState {
    blocks: Blocks,
    /// Forked from a recorded process and not exec'ed since.
    forked: bool,
    /// Slots of this process.
    living_threads: u32,
    /// The shared entry for threads beyond the limit.
    other_threads: Option<ThreadIndex>,
}

/// Which entries changed since they were last written.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) processes: Dirty,
    pub(crate) threads: Dirty,
}

/// How a known block went away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Release {
    Free,
    Temporary,
    Replaced,
    Exec,
}

/// The live heap of all recorded processes. See the module's documentation for its rules.
pub struct Heap {
    stacks: Stacks,
    threads: Threads,
    by_pid: FxHashMap<u32, ProcessIndex>,
    process_states: Vec<ProcessState>,
    process_entries: Vec<Process>,
    thread_entries: Vec<Thread>,
    max_thread_entries: usize,
    totals: Totals,
    sizes: [u64; SIZE_BUCKETS],
    new_processes: Vec<ProcessIndex>,
    new_threads: Vec<ThreadIndex>,
    changes: Changes,
}

impl Default for Heap {
    fn default() -> Self {
        Self {
            stacks: Stacks::default(),
            threads: Threads::default(),
            by_pid: FxHashMap::default(),
            process_states: Vec::new(),
            process_entries: Vec::new(),
            thread_entries: Vec::new(),
            max_thread_entries: MAX_THREAD_ENTRIES,
            totals: Totals::default(),
            sizes: [0; SIZE_BUCKETS],
            new_processes: Vec::new(),
            new_threads: Vec::new(),
            changes: Changes::default(),
        }
    }
}

impl Heap {
    /// Takes one event in. `now_ms` is milliseconds since the recording began.
    ///
    /// Of a Stack event only its id is taken; the frames go to [`Tables`](crate::profile::Tables).
    pub fn apply(&mut self, event: &Event<'_>, now_ms: u64) {
        match *event {
            Event::Alloc { pid, tid, address, size, stack, function: _ } => {
                let slot = self.slot(pid, tid);
                self.abandon_realloc(slot);
                let stack = self.stacks.id(stack, pid);
                if address == 0 {
                    self.fail(stack);
                } else {
                    self.allocate(slot, address, size, stack, now_ms);
                }
            }
            Event::Free { pid, tid, address } => {
                let slot = self.slot(pid, tid);
                self.abandon_realloc(slot);
                self.free(slot, address);
            }
            Event::ReallocBegin { pid, tid, address } => {
                let slot = self.slot(pid, tid);
                self.abandon_realloc(slot);
                self.begin_realloc(slot, address);
            }
            Event::ReallocEnd { pid, tid, address, size, stack, function: _ } => {
                let slot = self.slot(pid, tid);
                let stack = self.stacks.id(stack, pid);
                self.end_realloc(slot, address, size, stack, now_ms);
            }
            Event::AllocFailed { pid, tid, size: _, stack, function: _ } => {
                let slot = self.slot(pid, tid);
                self.abandon_realloc(slot);
                let stack = self.stacks.id(stack, pid);
                self.fail(stack);
            }
            Event::Stack { pid, stack, .. } => {
                self.stacks.id(stack, pid);
            }
            Event::Fork { pid, child } => self.fork(pid, child),
            Event::Exec { pid } => self.exec(pid),
            Event::Exit { pid, tid, last } => self.exit(pid, tid, last),
        }
    }

    /// Takes several events in, in their order: the same as [`apply`](Self::apply) for each, but
    /// much faster when there are more live blocks than the processor's cache holds, since the
    /// cache misses of up to [`BATCH`] events overlap.
    pub fn apply_all(&mut self, events: &[Event<'_>], now_ms: u64) {
        for batch in events.chunks(BATCH) {
            self.touch(batch);
            for event in batch {
                self.apply(event, now_ms);
            }
        }
    }

    /// Brings what these events will look at into the cache.
    fn touch(&self, events: &[Event<'_>]) {
        let mut process: Option<(u32, &Blocks)> = None;
        let mut sum = 0u64;
        for event in events {
            let (pid, address) = match *event {
                Event::Alloc { pid, address, .. }
                | Event::Free { pid, address, .. }
                | Event::ReallocBegin { pid, address, .. }
                | Event::ReallocEnd { pid, address, .. } => (pid, address),
                _ => continue,
            };
            if process.is_none_or(|(known, _)| known != pid) {
                let Some(index) = self.by_pid.get(&pid) else { continue };
                process = Some((pid, &self.process_states[*index as usize].blocks));
            }
            if let Some((_, blocks)) = process {
                sum = sum.wrapping_add(blocks.touch(address));
            }
        }
        // The sum is of no use, but the loads behind it must not be optimized away.
        std::hint::black_box(sum);
    }

    /// The dense id of a stack; new at first sight, `pid` being the process it was seen in.
    pub fn stack_id(&mut self, key: StackKey, pid: u32) -> StackId {
        self.stacks.id(key, pid)
    }

    /// The dense id of a stack that was seen before.
    pub fn find_stack(&self, key: StackKey) -> Option<StackId> {
        self.stacks.find(key)
    }

    /// Makes a key that was not seen yet another name of a stack: the kernel side gives a new one when
    /// the process has mapped something since, whatever the frames.
    pub fn alias_stack(&mut self, key: StackKey, id: StackId) {
        self.stacks.alias(key, id);
    }

    /// Number of stacks; their ids are those below it.
    pub fn stack_count(&self) -> usize {
        self.stacks.len()
    }

    /// Key of a stack and the process that it was first seen in.
    pub fn stack_origin(&self, id: StackId) -> (StackKey, u32) {
        self.stacks.origin(id)
    }

    /// What a stack has cost so far, its share at the present peak included.
    pub fn cost(&self, id: StackId) -> Cost {
        self.stacks.cost(id)
    }

    /// Sums so far. `duration_ms` and `peak_rss_bytes` are not known here and are 0.
    pub fn totals(&self) -> Totals {
        Totals {
            peak_bytes: self.stacks.peak.bytes,
            peak_ms: self.stacks.peak.ms,
            leaked_bytes: self.stacks.live_bytes,
            leaked_blocks: self.stacks.live_blocks,
            alloc_calls: self.stacks.alloc_calls,
            ..self.totals
        }
    }

    /// Live bytes of all processes, ended ones too.
    pub fn live_bytes(&self) -> u64 {
        self.stacks.live_bytes
    }

    /// Live blocks of all processes, ended ones too.
    pub fn live_blocks(&self) -> u64 {
        self.stacks.live_blocks
    }

    /// The first maximum of live bytes so far.
    pub fn peak(&self) -> Peak {
        self.stacks.peak
    }

    /// Successful allocations by requested size.
    pub fn sizes(&self) -> SizeHistogram {
        let used = self.sizes.iter().rposition(|calls| *calls != 0).map_or(0, |last| last + 1);
        SizeHistogram { calls: self.sizes[..used].to_vec() }
    }

    /// All processes seen so far, in the order of their first event.
    pub fn processes(&self) -> &[Process] {
        &self.process_entries
    }

    /// All threads seen so far, in the order of their first event.
    pub fn threads(&self) -> &[Thread] {
        &self.thread_entries
    }

    /// Threads that have not ended: index, process id, thread id; in no order.
    pub fn living_threads(&self) -> impl Iterator<Item = (ThreadIndex, u32, u32)> {
        self.threads.iter().map(|slot| (slot.thread, slot.pid, slot.tid))
    }

    /// Processes to read the command line of: new since the last call, or exec'ed.
    pub fn take_new_processes(&mut self) -> Vec<ProcessIndex> {
        std::mem::take(&mut self.new_processes)
    }

    /// Threads to read the name of: new since the last call.
    pub fn take_new_threads(&mut self) -> Vec<ThreadIndex> {
        std::mem::take(&mut self.new_threads)
    }

    /// Sets the command line of a process. Panics on an index that this heap never gave out.
    pub fn set_command(&mut self, process: ProcessIndex, command: Vec<String>) {
        self.process_entries[process as usize].command = command;
    }

    /// Sets the name of a thread. Panics on an index that this heap never gave out.
    pub fn set_thread_name(&mut self, thread: ThreadIndex, name: String) {
        self.thread_entries[thread as usize].name = name;
    }

    /// Memory that the tables of live blocks take, bytes.
    pub fn block_memory_bytes(&self) -> usize {
        self.process_states.iter().map(|state| state.blocks.memory_bytes()).sum()
    }

    pub(crate) fn changed_stacks(&mut self) -> &mut Dirty {
        &mut self.stacks.changed
    }

    pub(crate) fn changes(&mut self) -> &mut Changes {
        &mut self.changes
    }

    /// True when the peak moved since the flag was last cleared.
    pub(crate) fn peak_moved(&mut self) -> &mut bool {
        &mut self.stacks.peak_moved
    }

    #[inline]
    fn allocate(&mut self, slot: u32, address: u64, size: u64, stack: StackId, now_ms: u64) {
        let thread = self.threads.get(slot);
        thread.last = address;
        thread.unknown_run = 0;
        let (process, thread) = (thread.process, thread.thread);
        let block = Block { size, stack, thread: slot };
        if let Some(old) = self.process_states[process as usize].blocks.insert(address, block) {
            self.release(process, old, Release::Replaced);
        }
        self.stacks.allocated(stack, size, now_ms);
        self.totals.alloc_bytes = self.totals.alloc_bytes.wrapping_add(size);
        self.sizes[(u64::BITS - size.leading_zeros()) as usize] += 1;

        let entry = &mut self.process_entries[process as usize];
        entry.alloc_calls += 1;
        entry.alloc_bytes = entry.alloc_bytes.wrapping_add(size);
        entry.live_blocks += 1;
        entry.live_bytes = entry.live_bytes.wrapping_add(size);
        self.changes.processes.mark(process);

        let entry = &mut self.thread_entries[thread as usize];
        entry.alloc_calls += 1;
        entry.alloc_bytes = entry.alloc_bytes.wrapping_add(size);
        self.changes.threads.mark(thread);
    }

    fn fail(&mut self, stack: StackId) {
        self.stacks.failed(stack);
        self.totals.failed_calls += 1;
    }

    #[inline]
    fn free(&mut self, slot: u32, address: u64) {
        let thread = self.threads.get(slot);
        let last = std::mem::take(&mut thread.last);
        let process = thread.process;
        match self.process_states[process as usize].blocks.remove(address) {
            Some(block) => {
                thread.unknown_run = 0;
                self.release(process, block, how_freed(&block, slot, address, last));
            }
            None => {
                thread.unknown_run = thread.unknown_run.saturating_add(1);
                *self.unknown_frees(process) += 1;
            }
        }
    }

    /// Where frees of unknown blocks of this process are counted.
    fn unknown_frees(&mut self, process: ProcessIndex) -> &mut u64 {
        if self.process_states[process as usize].forked {
            &mut self.totals.inherited_frees
        } else {
            &mut self.totals.unknown_frees
        }
    }

    fn begin_realloc(&mut self, slot: u32, address: u64) {
        let process = self.threads.get(slot).process;
        let block = self.process_states[process as usize].blocks.remove(address);
        let thread = self.threads.get(slot);
        let last = std::mem::take(&mut thread.last);
        thread.unknown_run = 0;
        thread.pending = match block {
            Some(block) => Pending::Known { address, block, last },
            None => Pending::Unknown { last },
        };
    }

    fn end_realloc(&mut self, slot: u32, address: u64, size: u64, stack: StackId, now_ms: u64) {
        let thread = self.threads.get(slot);
        let process = thread.process;
        let pending = std::mem::replace(&mut thread.pending, Pending::None);
        if address == 0 && size != 0 {
            match pending {
                Pending::None => {}
                Pending::Unknown { last } => thread.last = last,
                Pending::Known { address, block, last } => {
                    thread.last = last;
                    let blocks = &mut self.process_states[process as usize].blocks;
                    if blocks.contains(address) {
                        // The address was handed out meanwhile, so the block is gone after all.
                        self.release(process, block, Release::Replaced);
                    } else {
                        blocks.insert(address, block);
                    }
                }
            }
            self.fail(stack);
            return;
        }
        self.retire(slot, process, pending);
        if address != 0 {
            self.allocate(slot, address, size, stack, now_ms);
        }
    }

    /// The block of a realloc is released.
    fn retire(&mut self, slot: u32, process: ProcessIndex, pending: Pending) {
        match pending {
            Pending::None => {}
            Pending::Unknown { .. } => *self.unknown_frees(process) += 1,
            Pending::Known { address, block, last } => {
                self.release(process, block, how_freed(&block, slot, address, last));
            }
        }
    }

    /// The thread does something else while we wait for the second half of a realloc: that half was
    /// lost, or the call was left by a jump.
    #[inline]
    fn abandon_realloc(&mut self, slot: u32) {
        let thread = self.threads.get(slot);
        if thread.pending != Pending::None {
            let process = thread.process;
            let pending = std::mem::replace(&mut thread.pending, Pending::None);
            self.retire(slot, process, pending);
        }
    }

    #[inline]
    fn release(&mut self, process: ProcessIndex, block: Block, how: Release) {
        let Block { size, stack, .. } = block;
        self.stacks.released(stack, size, how == Release::Temporary);
        let totals = &mut self.totals;
        let (blocks, bytes) = match how {
            Release::Free | Release::Temporary => (&mut totals.free_calls, &mut totals.freed_bytes),
            Release::Replaced => (&mut totals.replaced_blocks, &mut totals.replaced_bytes),
            Release::Exec => (&mut totals.exec_dropped_blocks, &mut totals.exec_dropped_bytes),
        };
        *blocks += 1;
        *bytes = bytes.wrapping_add(size);
        totals.temporary_calls += u64::from(how == Release::Temporary);
        let entry = &mut self.process_entries[process as usize];
        entry.live_blocks -= 1;
        entry.live_bytes = entry.live_bytes.wrapping_sub(size);
        self.changes.processes.mark(process);
    }

    fn fork(&mut self, pid: u32, child: u32) {
        self.process(pid);
        if let Some(&old) = self.by_pid.get(&child)
            && !self.process_entries[old as usize].exited
        {
            self.end_process(old);
        }
        self.add_process(child, Some(pid));
    }

    fn exec(&mut self, pid: u32) {
        let process = self.process(pid);
        let state = &mut self.process_states[process as usize];
        state.forked = false;
        state.living_threads = 0;
        for block in std::mem::take(&mut state.blocks).into_blocks() {
            self.release(process, block, Release::Exec);
        }
        // Exec ends all threads but one, and what that one was doing.
        for (_, slot) in self.threads.remove_process(process) {
            if let Pending::Known { block, .. } = slot.pending {
                self.release(process, block, Release::Exec);
            }
        }
        self.new_processes.push(process);
    }

    fn exit(&mut self, pid: u32, tid: u32, last: bool) {
        if let Some(index) = self.threads.find(pid, tid) {
            self.abandon_realloc(index);
            if let Some(slot) = self.threads.remove(pid, tid) {
                // The last thing that a thread does under glibc is to hand its cache of free blocks,
                // and the cache itself, back by calls of free (`tcache_thread_shutdown`, since
                // 2.26). The program had freed those blocks before: no frees of its own. The main
                // thread goes without, unless it ends by pthread_exit.
                if tid != pid {
                    *self.unknown_frees(slot.process) -= u64::from(slot.unknown_run);
                }
                self.process_states[slot.process as usize].living_threads -= 1;
            }
        }
        if last
            && let Some(&process) = self.by_pid.get(&pid)
            && !self.process_entries[process as usize].exited
        {
            self.end_process(process);
        }
    }

    fn end_process(&mut self, process: ProcessIndex) {
        if self.process_states[process as usize].living_threads > 0 {
            for (index, slot) in self.threads.remove_process(process) {
                self.retire(index, process, slot.pending);
            }
        }
        // What is left of it is leaked: nothing can free it any more, only the numbers stay.
        self.process_states[process as usize] = ProcessState::default();
        self.process_entries[process as usize].exited = true;
        self.changes.processes.mark(process);
    }

    /// The slot of a thread, new at first sight.
    #[inline]
    fn slot(&mut self, pid: u32, tid: u32) -> u32 {
        match self.threads.find(pid, tid) {
            Some(slot) => slot,
            None => self.add_thread(pid, tid),
        }
    }

    #[cold]
    fn add_thread(&mut self, pid: u32, tid: u32) -> u32 {
        let process = self.process(pid);
        let thread = self.add_thread_entry(process, tid);
        self.process_states[process as usize].living_threads += 1;
        self.threads.add(Slot {
            pid,
            tid,
            process,
            thread,
            last: 0,
            pending: Pending::None,
            unknown_run: 0,
        })
    }

    fn add_thread_entry(&mut self, process: ProcessIndex, tid: u32) -> ThreadIndex {
        let state = &mut self.process_states[process as usize];
        let next = self.thread_entries.len();
        let shared = next >= self.max_thread_entries;
        if shared && let Some(other) = state.other_threads {
            return other;
        }
        let index = u32::try_from(next).expect("fewer than 2^32 threads");
        if shared {
            state.other_threads = Some(index);
        } else {
            self.new_threads.push(index);
        }
        let pid = self.process_entries[process as usize].pid;
        let tid = if shared { 0 } else { tid };
        self.thread_entries.push(Thread { pid, tid, ..Thread::default() });
        self.changes.threads.mark(index);
        index
    }

    /// The living process with this id, new at first sight.
    fn process(&mut self, pid: u32) -> ProcessIndex {
        match self.by_pid.get(&pid) {
            Some(&process) if !self.process_entries[process as usize].exited => process,
            _ => self.add_process(pid, None),
        }
    }

    fn add_process(&mut self, pid: u32, parent: Option<u32>) -> ProcessIndex {
        let index = u32::try_from(self.process_entries.len()).expect("fewer than 2^32 processes");
        self.process_entries.push(Process { pid, parent, ..Process::default() });
        self.process_states
            .push(ProcessState { forked: parent.is_some(), ..ProcessState::default() });
        self.by_pid.insert(pid, index);
        self.new_processes.push(index);
        self.changes.processes.mark(index);
        index
    }
}

/// Temporary needs both: the thread's last event allocated this address, and the block there is
/// still the one that this thread allocated (it may have been freed and allocated again by others).
#[inline]
fn how_freed(block: &Block, slot: u32, address: u64, last: u64) -> Release {
    if last == address && block.thread == slot { Release::Temporary } else { Release::Free }
}
