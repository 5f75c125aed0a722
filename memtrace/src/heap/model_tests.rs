//! The model against one that is slow and plain: full copies at every peak, blocks with serial
//! numbers, tables by process number and address.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use memtrace_common::point::Function;
use proptest::prelude::{Just, ProptestConfig, Strategy, prop_assert_eq, prop_oneof, proptest};

use super::Heap;
use crate::profile::{Cost, Totals};
use crate::stream::event::Event;

#[derive(Clone, Debug)]
struct NaiveBlock {
    serial: u64,
    size: u64,
    stack: u64,
}

/// (address, block if known, `last` before), for a realloc between its halves.
type NaivePending = (u64, Option<NaiveBlock>, Option<u64>);

#[derive(Default)]
struct Naive {
    /// Number of the living process with this pid, and whether it is forked.
    processes: BTreeMap<u32, (usize, bool)>,
    process_count: usize,
    blocks: BTreeMap<(usize, u64), NaiveBlock>,
    /// Blocks of ended processes: (process, block).
    leaked: Vec<(usize, NaiveBlock)>,
    /// By (process, tid): serial of the block that the last event allocated.
    last: BTreeMap<(usize, u32), u64>,
    pending: BTreeMap<(usize, u32), NaivePending>,
    /// By (process, tid): frees of unknown blocks since it did anything else.
    unknown_runs: BTreeMap<(usize, u32), u64>,
    costs: BTreeMap<u64, Cost>,
    peak_shares: BTreeMap<u64, (u64, u64)>,
    totals: Totals,
    serial: u64,
}

impl Naive {
    fn process(&mut self, pid: u32) -> (usize, bool) {
        if let Some(process) = self.processes.get(&pid) {
            return *process;
        }
        self.start(pid, false)
    }

    fn start(&mut self, pid: u32, forked: bool) -> (usize, bool) {
        let process = (self.process_count, forked);
        self.process_count += 1;
        self.processes.insert(pid, process);
        process
    }

    /// Everything live, counted anew.
    fn live(&self) -> BTreeMap<u64, (u64, u64)> {
        let mut live = BTreeMap::new();
        let blocks = self.blocks.values();
        let pending = self.pending.values().filter_map(|(_, block, _)| block.as_ref());
        let leaked = self.leaked.iter().map(|(_, block)| block);
        for block in blocks.chain(pending).chain(leaked) {
            let (bytes, blocks) = live.entry(block.stack).or_insert((0, 0));
            *bytes += block.size;
            *blocks += 1;
        }
        live
    }

    fn live_bytes(&self) -> u64 {
        self.live().values().map(|(bytes, _)| bytes).sum()
    }

    fn allocate(&mut self, process: usize, tid: u32, address: u64, size: u64, stack: u64, ms: u64) {
        if let Some(old) = self.blocks.remove(&(process, address)) {
            self.release(&old);
            self.totals.replaced_blocks += 1;
            self.totals.replaced_bytes += old.size;
        }
        self.unknown_runs.remove(&(process, tid));
        self.serial += 1;
        let block = NaiveBlock { serial: self.serial, size, stack };
        self.last.insert((process, tid), block.serial);
        self.blocks.insert((process, address), block);
        let cost = self.costs.entry(stack).or_default();
        cost.alloc_calls += 1;
        cost.alloc_bytes += size;
        self.totals.alloc_calls += 1;
        self.totals.alloc_bytes += size;
        let live = self.live_bytes();
        if live > self.totals.peak_bytes {
            self.totals.peak_bytes = live;
            self.totals.peak_ms = ms;
            self.peak_shares = self.live();
        }
    }

    fn release(&mut self, block: &NaiveBlock) {
        let cost = self.costs.entry(block.stack).or_default();
        cost.free_calls += 1;
        cost.freed_bytes += block.size;
    }

    fn free(&mut self, forked: bool, block: Option<NaiveBlock>, last: Option<u64>) {
        match block {
            Some(block) => {
                self.release(&block);
                self.totals.free_calls += 1;
                self.totals.freed_bytes += block.size;
                if last == Some(block.serial) {
                    self.totals.temporary_calls += 1;
                    let cost = self.costs.entry(block.stack).or_default();
                    cost.temporary_calls += 1;
                    cost.temporary_bytes += block.size;
                }
            }
            None if forked => self.totals.inherited_frees += 1,
            None => self.totals.unknown_frees += 1,
        }
    }

    fn settle(&mut self, process: (usize, bool), tid: u32) {
        if let Some((_, block, last)) = self.pending.remove(&(process.0, tid)) {
            self.free(process.1, block, last);
        }
    }

    fn fail(&mut self, stack: u64) {
        self.costs.entry(stack).or_default().failed_calls += 1;
        self.totals.failed_calls += 1;
    }

    fn end(&mut self, pid: u32) {
        let Some(process) = self.processes.remove(&pid) else { return };
        let tids: Vec<_> =
            self.pending.keys().filter(|key| key.0 == process.0).map(|key| key.1).collect();
        for tid in tids {
            self.settle(process, tid);
        }
        self.last.retain(|key, _| key.0 != process.0);
        self.unknown_runs.retain(|key, _| key.0 != process.0);
        let keys: Vec<_> = self.blocks.keys().filter(|key| key.0 == process.0).copied().collect();
        for key in keys {
            let block = self.blocks.remove(&key).expect("a key just listed");
            self.leaked.push((process.0, block));
        }
    }

    fn apply(&mut self, event: &Event<'_>, ms: u64) {
        match *event {
            Event::Alloc { pid, tid, address, size, stack, .. } => {
                let process = self.process(pid);
                self.settle(process, tid);
                self.allocate(process.0, tid, address, size, stack, ms);
            }
            Event::AllocFailed { pid, tid, stack, .. } => {
                let process = self.process(pid);
                self.settle(process, tid);
                self.fail(stack);
            }
            Event::Free { pid, tid, address } => {
                let process = self.process(pid);
                self.settle(process, tid);
                let last = self.last.remove(&(process.0, tid));
                let block = self.blocks.remove(&(process.0, address));
                match block {
                    Some(_) => drop(self.unknown_runs.remove(&(process.0, tid))),
                    None => *self.unknown_runs.entry((process.0, tid)).or_default() += 1,
                }
                self.free(process.1, block, last);
            }
            Event::ReallocBegin { pid, tid, address } => {
                let process = self.process(pid);
                self.settle(process, tid);
                let last = self.last.remove(&(process.0, tid));
                self.unknown_runs.remove(&(process.0, tid));
                let block = self.blocks.remove(&(process.0, address));
                self.pending.insert((process.0, tid), (address, block, last));
            }
            Event::ReallocEnd { pid, tid, address, size, stack, .. } => {
                let process = self.process(pid);
                self.costs.entry(stack).or_default();
                if address != 0 || size == 0 {
                    self.settle(process, tid);
                    if address != 0 {
                        self.allocate(process.0, tid, address, size, stack, ms);
                    }
                    return;
                }
                self.fail(stack);
                if let Some((address, block, last)) = self.pending.remove(&(process.0, tid)) {
                    if let Some(last) = last {
                        self.last.insert((process.0, tid), last);
                    }
                    let Some(block) = block else { return };
                    match self.blocks.entry((process.0, address)) {
                        Entry::Occupied(_) => {
                            self.release(&block);
                            self.totals.replaced_blocks += 1;
                            self.totals.replaced_bytes += block.size;
                        }
                        Entry::Vacant(entry) => {
                            entry.insert(block);
                        }
                    }
                }
            }
            Event::Stack { .. } => {}
            Event::Fork { pid, child } => {
                self.process(pid);
                self.end(child);
                self.start(child, true);
            }
            Event::Exec { pid } => {
                let process = self.process(pid).0;
                self.processes.insert(pid, (process, false));
                let mut gone: Vec<NaiveBlock> = Vec::new();
                self.blocks.retain(|key, block| {
                    if key.0 == process {
                        gone.push(block.clone());
                    }
                    key.0 != process
                });
                self.pending.retain(|key, (_, block, _)| {
                    if key.0 == process {
                        gone.extend(block.take());
                    }
                    key.0 != process
                });
                self.last.retain(|key, _| key.0 != process);
                self.unknown_runs.retain(|key, _| key.0 != process);
                for block in gone {
                    self.release(&block);
                    self.totals.exec_dropped_blocks += 1;
                    self.totals.exec_dropped_bytes += block.size;
                }
            }
            Event::Exit { pid, tid, last } => {
                if let Some(process) = self.processes.get(&pid).copied() {
                    self.settle(process, tid);
                    self.last.remove(&(process.0, tid));
                    let run = self.unknown_runs.remove(&(process.0, tid)).unwrap_or(0);
                    if tid != pid && process.1 {
                        self.totals.inherited_frees -= run;
                    } else if tid != pid {
                        self.totals.unknown_frees -= run;
                    }
                }
                if last {
                    self.end(pid);
                }
            }
        }
    }
}

/// Few ids of each kind, so that everything meets everything.
pub(crate) fn events() -> impl Strategy<Value = Event<'static>> {
    let pid = || 1u32..4;
    let tid = || 1u32..4;
    let address = || 1u64..8;
    let size = || prop_oneof![3 => 0u64..6, 1 => 0u64..3000, 1 => Just(1u64 << 40)];
    let stack = || 0u64..5;
    let function = Function::Malloc;
    prop_oneof![
        12 => (pid(), tid(), address(), size(), stack()).prop_map(
            move |(pid, tid, address, size, stack)| Event::Alloc {
                pid, tid, address, size, stack, function
            }
        ),
        10 => (pid(), tid(), address())
            .prop_map(|(pid, tid, address)| Event::Free { pid, tid, address }),
        4 => (pid(), tid(), address())
            .prop_map(|(pid, tid, address)| Event::ReallocBegin { pid, tid, address }),
        5 => (pid(), tid(), 0u64..8, size(), stack()).prop_map(
            move |(pid, tid, address, size, stack)| Event::ReallocEnd {
                pid, tid, address, size, stack, function
            }
        ),
        1 => (pid(), tid(), size(), stack()).prop_map(move |(pid, tid, size, stack)| {
            Event::AllocFailed { pid, tid, size, stack, function }
        }),
        1 => (pid(), pid())
            .prop_filter("a process can't fork itself", |(pid, child)| pid != child)
            .prop_map(|(pid, child)| Event::Fork { pid, child }),
        1 => pid().prop_map(|pid| Event::Exec { pid }),
        1 => (pid(), tid(), Just(false)).prop_map(|(pid, tid, last)| Event::Exit { pid, tid, last }),
        1 => (pid(), tid(), Just(true)).prop_map(|(pid, tid, last)| Event::Exit { pid, tid, last }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_model_agrees_with_a_plain_one(events in proptest::collection::vec(events(), 0..150)) {
        let mut heap = Heap::default();
        let mut naive = Naive::default();
        for (ms, event) in (0..).zip(&events) {
            heap.apply(event, ms);
            naive.apply(event, ms);

            let live = naive.live();
            let mut totals = naive.totals;
            totals.leaked_bytes = live.values().map(|(bytes, _)| bytes).sum();
            totals.leaked_blocks = live.values().map(|(_, blocks)| blocks).sum();
            prop_assert_eq!(heap.totals(), totals);
            for (stack, cost) in &naive.costs {
                let (peak_bytes, peak_blocks) =
                    naive.peak_shares.get(stack).copied().unwrap_or_default();
                let got = heap.cost(heap.find_stack(*stack).expect("a stack that was used"));
                prop_assert_eq!(got, Cost { peak_bytes, peak_blocks, ..*cost });
                let (bytes, blocks) = live.get(stack).copied().unwrap_or_default();
                prop_assert_eq!((got.live_bytes(), got.live_blocks()), (bytes, blocks));
            }
        }
        // By process, and the sums over everything, fit together.
        let mut by_process: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        let pending = naive.pending.iter().filter_map(|(key, (_, block, _))| {
            block.as_ref().map(|block| (key.0, block))
        });
        let blocks = naive.blocks.iter().map(|(key, block)| (key.0, block));
        let leaked = naive.leaked.iter().map(|(process, block)| (*process, block));
        for (process, block) in pending.chain(blocks).chain(leaked) {
            let sums = by_process.entry(process).or_default();
            sums.0 += 1;
            sums.1 += block.size;
        }
        prop_assert_eq!(heap.processes().len(), naive.process_count);
        for (index, process) in heap.processes().iter().enumerate() {
            let expected = by_process.get(&index).copied().unwrap_or_default();
            prop_assert_eq!((process.live_blocks, process.live_bytes), expected);
        }
        let totals = heap.totals();
        let by_thread: u64 = heap.threads().iter().map(|thread| thread.alloc_calls).sum();
        prop_assert_eq!(by_thread, totals.alloc_calls);
        prop_assert_eq!(heap.sizes().calls.iter().sum::<u64>(), totals.alloc_calls);
        let mut batched = Heap::default();
        for (ms, batch) in (0..).zip(events.chunks(7)) {
            batched.apply_all(batch, ms);
        }
        prop_assert_eq!(batched.totals(), Totals { peak_ms: batched.peak().ms, ..totals });
        prop_assert_eq!(
            totals.alloc_calls,
            totals.free_calls + totals.replaced_blocks + totals.exec_dropped_blocks
                + totals.leaked_blocks
        );
        prop_assert_eq!(
            totals.alloc_bytes,
            totals.freed_bytes + totals.replaced_bytes + totals.exec_dropped_bytes
                + totals.leaked_bytes
        );
    }
}
