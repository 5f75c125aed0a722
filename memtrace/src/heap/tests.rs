//! One test a rule of the model.

use memtrace_common::point::Function;
use memtrace_common::stack::StackEnd;

use super::{Heap, MAX_THREAD_ENTRIES, Peak};
use crate::profile::{Cost, Process, Totals};
use crate::stream::event::{Addresses, Event};

/// A heap and the shorthands of events; pid and tid 1 unless said otherwise.
#[derive(Default)]
struct Run {
    heap: Heap,
    now_ms: u64,
}

impl Run {
    fn event(&mut self, event: Event<'_>) {
        self.now_ms += 1;
        self.heap.apply(&event, self.now_ms);
    }

    fn alloc_by(&mut self, pid: u32, tid: u32, address: u64, size: u64, stack: u64) {
        let function = Function::Malloc;
        self.event(Event::Alloc { pid, tid, address, size, stack, function });
    }

    fn alloc(&mut self, address: u64, size: u64, stack: u64) {
        self.alloc_by(1, 1, address, size, stack);
    }

    fn fail(&mut self, stack: u64) {
        let function = Function::Malloc;
        self.event(Event::AllocFailed { pid: 1, tid: 1, size: 1 << 40, stack, function });
    }

    fn free_by(&mut self, pid: u32, tid: u32, address: u64) {
        self.event(Event::Free { pid, tid, address });
    }

    fn free(&mut self, address: u64) {
        self.free_by(1, 1, address);
    }

    fn begin_by(&mut self, pid: u32, tid: u32, address: u64) {
        self.event(Event::ReallocBegin { pid, tid, address });
    }

    fn end_by(&mut self, pid: u32, tid: u32, address: u64, size: u64, stack: u64) {
        let function = Function::Realloc;
        self.event(Event::ReallocEnd { pid, tid, address, size, stack, function });
    }

    fn realloc(&mut self, old: u64, new: u64, size: u64, stack: u64) {
        self.begin_by(1, 1, old);
        self.end_by(1, 1, new, size, stack);
    }

    fn exit(&mut self, pid: u32, tid: u32, last: bool) {
        self.event(Event::Exit { pid, tid, last });
    }

    fn cost(&self, stack: u64) -> Cost {
        self.heap.cost(self.heap.find_stack(stack).expect("a stack that was seen"))
    }

    fn live(&self) -> (u64, u64) {
        (self.heap.live_blocks(), self.heap.live_bytes())
    }

    fn totals(&self) -> Totals {
        self.heap.totals()
    }

    fn process(&self, index: usize) -> &Process {
        &self.heap.processes()[index]
    }
}

#[test]
fn alloc_and_free_are_counted_at_the_allocating_stack() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.alloc(0x20, 30, 8);
    run.free(0x10);
    assert_eq!(run.live(), (1, 30));
    let cost = run.cost(7);
    assert_eq!(
        (cost.alloc_calls, cost.alloc_bytes, cost.free_calls, cost.freed_bytes),
        (1, 100, 1, 100)
    );
    assert_eq!(run.cost(8).live_bytes(), 30);
    let totals = run.totals();
    assert_eq!((totals.alloc_calls, totals.alloc_bytes), (2, 130));
    assert_eq!((totals.free_calls, totals.freed_bytes), (1, 100));
    assert_eq!((totals.leaked_blocks, totals.leaked_bytes), (1, 30));
    assert_eq!(run.process(0).alloc_bytes, 130);
    assert_eq!((run.process(0).live_blocks, run.process(0).live_bytes), (1, 30));
    assert_eq!((run.heap.threads()[0].alloc_calls, run.heap.threads()[0].alloc_bytes), (2, 130));
}

#[test]
fn malloc_of_zero_bytes_is_a_call_with_a_live_block() {
    let mut run = Run::default();
    run.alloc(0x10, 0, 7);
    assert_eq!(run.live(), (1, 0));
    assert_eq!((run.cost(7).live_blocks(), run.cost(7).alloc_bytes), (1, 0));
    run.free(0x10);
    assert_eq!(run.live(), (0, 0));
    assert_eq!(run.totals().unknown_frees, 0);
}

#[test]
fn sizes_are_counted_by_highest_bit() {
    let mut run = Run::default();
    for (n, size) in (1..).zip([0, 1, 2, 3, 4, 255, 256]) {
        run.alloc(n, size, 7);
    }
    assert_eq!(run.heap.sizes().calls, [1, 1, 2, 1, 0, 0, 0, 0, 1, 1]);
}

#[test]
fn one_address_in_two_processes_is_two_blocks() {
    let mut run = Run::default();
    run.alloc_by(1, 1, 0x10, 5, 7);
    run.alloc_by(2, 2, 0x10, 6, 8);
    run.free_by(2, 2, 0x10);
    assert_eq!(run.cost(7).live_bytes(), 5);
    assert_eq!(run.cost(8).live_bytes(), 0);
    assert_eq!(run.totals().replaced_blocks, 0);
}

#[test]
fn free_of_unknown_block_is_counted_not_subtracted() {
    let mut run = Run::default();
    run.alloc(0x10, 5, 7);
    run.free(0x20);
    assert_eq!(run.live(), (1, 5));
    let totals = run.totals();
    assert_eq!((totals.unknown_frees, totals.inherited_frees, totals.free_calls), (1, 0, 0));
}

#[test]
fn failed_allocation_counts_at_its_stack_only() {
    let mut run = Run::default();
    run.fail(7);
    assert_eq!(run.cost(7), Cost { failed_calls: 1, ..Cost::default() });
    assert_eq!(run.totals(), Totals { failed_calls: 1, ..Totals::default() });
}

#[test]
fn realloc_is_a_free_and_an_allocation_at_the_realloc_s_stack() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.alloc(0x90, 1, 7);
    run.realloc(0x10, 0x20, 150, 8);
    assert_eq!(run.cost(7).live_bytes(), 1);
    assert_eq!(run.cost(8).live_bytes(), 150);
    // Free first: both copies are never live together.
    assert_eq!(run.totals().peak_bytes, 151);
    assert_eq!((run.totals().alloc_calls, run.totals().free_calls), (3, 1));
    run.free(0x20);
    assert_eq!(run.live(), (1, 1));
}

#[test]
fn realloc_in_place_keeps_one_block() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.realloc(0x10, 0x10, 10, 8);
    assert_eq!(run.live(), (1, 10));
    assert_eq!(run.totals().replaced_blocks, 0);
}

#[test]
fn failed_realloc_keeps_the_old_block() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.begin_by(1, 1, 0x10);
    assert_eq!(run.live(), (1, 100), "live until the realloc has succeeded");
    run.end_by(1, 1, 0, 1 << 50, 8);
    assert_eq!(run.live(), (1, 100));
    assert_eq!(run.cost(8), Cost { failed_calls: 1, ..Cost::default() });
    run.free(0x10);
    assert_eq!(run.live(), (0, 0));
    assert_eq!(run.totals().unknown_frees, 0);
}

#[test]
fn realloc_to_zero_bytes_that_returns_null_is_a_free() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.realloc(0x10, 0, 0, 8);
    assert_eq!(run.live(), (0, 0));
    let totals = run.totals();
    assert_eq!((totals.alloc_calls, totals.free_calls, totals.failed_calls), (1, 1, 0));
}

#[test]
fn realloc_of_an_unknown_block_is_an_unknown_free_and_an_allocation() {
    let mut run = Run::default();
    run.realloc(0x10, 0x20, 5, 7);
    assert_eq!(run.live(), (1, 5));
    assert_eq!(run.totals().unknown_frees, 1);
}

#[test]
fn failed_realloc_of_an_unknown_block_frees_nothing() {
    let mut run = Run::default();
    run.realloc(0x10, 0, 5, 7);
    assert_eq!(run.totals(), Totals { failed_calls: 1, ..Totals::default() });
}

#[test]
fn realloc_end_without_its_begin_is_an_allocation() {
    let mut run = Run::default();
    run.end_by(1, 1, 0x10, 5, 7);
    assert_eq!(run.live(), (1, 5));
    assert_eq!(run.totals().unknown_frees, 0);
}

#[test]
fn an_address_under_realloc_can_be_given_to_another_thread() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.begin_by(1, 1, 0x10);
    run.alloc_by(1, 2, 0x10, 5, 9);
    assert_eq!(run.live(), (2, 105));
    run.end_by(1, 1, 0x20, 200, 8);
    assert_eq!(run.live(), (2, 205));
    assert_eq!((run.cost(7).live_bytes(), run.cost(9).live_bytes()), (0, 5));
    assert_eq!(run.totals().replaced_blocks, 0);
    run.free_by(1, 2, 0x10);
    assert_eq!(run.cost(9).temporary_calls, 1);
}

#[test]
fn failed_realloc_whose_address_was_handed_out_gives_the_old_block_up() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.begin_by(1, 1, 0x10);
    run.alloc_by(1, 2, 0x10, 5, 9);
    run.end_by(1, 1, 0, 200, 8);
    assert_eq!(run.live(), (1, 5));
    assert_eq!((run.totals().replaced_blocks, run.totals().replaced_bytes), (1, 100));
}

#[test]
fn thread_that_dies_inside_realloc_has_released_the_block() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.begin_by(1, 2, 0x10);
    run.exit(1, 2, false);
    assert_eq!(run.live(), (0, 0));
    assert_eq!(run.totals().free_calls, 1);
}

#[test]
fn process_that_dies_inside_realloc_has_released_the_block_also_when_the_thread_s_end_is_lost() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.begin_by(1, 2, 0x10);
    run.exit(1, 1, true);
    assert_eq!(run.live(), (0, 0));
}

#[test]
fn realloc_whose_end_was_lost_is_settled_by_the_thread_s_next_event() {
    for what in 0..4 {
        let mut run = Run::default();
        run.alloc(0x10, 100, 7);
        run.begin_by(1, 1, 0x10);
        match what {
            0 => run.alloc(0x20, 1, 8),
            1 => run.free(0x30),
            2 => run.begin_by(1, 1, 0x30),
            _ => run.fail(8),
        }
        assert_eq!(run.cost(7).live_blocks(), 0, "event {what}");
    }
}

#[test]
fn block_freed_by_the_same_thread_s_next_event_is_temporary() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.free(0x10);
    assert_eq!((run.cost(7).temporary_calls, run.cost(7).temporary_bytes), (1, 100));
    assert_eq!(run.totals().temporary_calls, 1);
}

#[test]
fn block_freed_after_another_event_of_the_thread_is_not_temporary() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.alloc(0x20, 1, 8);
    run.free(0x10);
    run.free(0x20);
    assert_eq!(run.totals().temporary_calls, 0);
    run.alloc(0x10, 100, 7);
    run.free(0x77);
    run.free(0x10);
    assert_eq!(run.totals().temporary_calls, 0, "an unknown free is an event too");
}

#[test]
fn events_of_other_threads_don_t_end_the_chain() {
    let mut run = Run::default();
    run.alloc_by(1, 1, 0x10, 100, 7);
    run.alloc_by(1, 2, 0x20, 1, 8);
    run.free_by(1, 1, 0x10);
    assert_eq!(run.cost(7).temporary_calls, 1);
}

#[test]
fn block_freed_by_another_thread_is_not_temporary() {
    let mut run = Run::default();
    run.alloc_by(1, 1, 0x10, 100, 7);
    run.free_by(1, 2, 0x10);
    assert_eq!(run.totals().temporary_calls, 0);
}

#[test]
fn another_thread_s_block_at_the_same_address_is_not_temporary() {
    let mut run = Run::default();
    run.alloc_by(1, 1, 0x10, 100, 7);
    run.free_by(1, 2, 0x10);
    run.alloc_by(1, 2, 0x10, 50, 8);
    run.free_by(1, 1, 0x10);
    assert_eq!(run.totals().temporary_calls, 0);
}

#[test]
fn failed_calls_don_t_end_the_chain() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.fail(8);
    run.realloc(0x10, 0, 1 << 50, 8);
    run.free(0x10);
    assert_eq!(run.cost(7).temporary_calls, 1);
}

#[test]
fn block_that_is_reallocated_at_once_is_temporary_and_so_is_its_successor() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.realloc(0x10, 0x20, 200, 8);
    assert_eq!(run.cost(7).temporary_calls, 1);
    run.free(0x20);
    assert_eq!(run.cost(8).temporary_calls, 1);
}

#[test]
fn allocation_at_a_live_address_means_a_lost_free() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.alloc(0x10, 5, 8);
    assert_eq!(run.live(), (1, 5));
    let totals = run.totals();
    assert_eq!((totals.replaced_blocks, totals.replaced_bytes, totals.free_calls), (1, 100, 0));
    assert_eq!((run.cost(7).live_blocks(), run.cost(8).live_blocks()), (0, 1));
    // The old block is gone before the new one comes.
    assert_eq!(totals.peak_bytes, 100);
}

#[test]
fn forked_child_starts_empty_and_its_parent_keeps_its_blocks() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.event(Event::Fork { pid: 1, child: 2 });
    run.free_by(2, 2, 0x10);
    run.begin_by(2, 2, 0x20);
    run.end_by(2, 2, 0x30, 1, 8);
    assert_eq!(run.live(), (2, 101));
    assert_eq!((run.totals().inherited_frees, run.totals().unknown_frees), (2, 0));
    assert_eq!(run.process(1).parent, Some(1));
    run.free(0x10);
    assert_eq!(run.cost(7).live_blocks(), 0);
}

#[test]
fn exec_in_the_child_ends_inheritance() {
    let mut run = Run::default();
    run.event(Event::Fork { pid: 1, child: 2 });
    run.event(Event::Exec { pid: 2 });
    run.free_by(2, 2, 0x10);
    assert_eq!((run.totals().inherited_frees, run.totals().unknown_frees), (0, 1));
}

#[test]
fn exec_empties_the_table_and_counts_apart() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.alloc(0x20, 10, 7);
    run.begin_by(1, 2, 0x20);
    run.alloc_by(2, 2, 0x10, 1, 8);
    run.event(Event::Exec { pid: 1 });
    assert_eq!(run.live(), (1, 1));
    let totals = run.totals();
    assert_eq!((totals.exec_dropped_blocks, totals.exec_dropped_bytes), (2, 110));
    assert_eq!((totals.free_calls, totals.freed_bytes), (0, 0));
    assert_eq!((run.cost(7).free_calls, run.cost(7).freed_bytes), (2, 110));
    run.end_by(1, 1, 0x30, 4, 9);
    assert_eq!(run.live(), (2, 5));
    assert_eq!(run.heap.processes().len(), 2, "exec does not make a new process");
}

#[test]
fn blocks_of_an_ended_process_are_leaked() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.exit(1, 1, true);
    assert_eq!(run.live(), (1, 100));
    assert!(run.process(0).exited);
    assert_eq!(run.process(0).live_bytes, 100);
}

#[test]
fn end_of_one_thread_does_not_end_the_process() {
    let mut run = Run::default();
    run.alloc_by(1, 2, 0x10, 100, 7);
    run.exit(1, 2, false);
    run.free_by(1, 1, 0x10);
    assert_eq!(run.live(), (0, 0));
    assert!(!run.process(0).exited);
}

#[test]
fn pid_reuse_starts_an_empty_heap() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.exit(1, 1, true);
    run.free(0x10);
    run.alloc(0x10, 5, 8);
    assert_eq!(run.live(), (2, 105));
    let totals = run.totals();
    assert_eq!((totals.unknown_frees, totals.replaced_blocks), (1, 0));
    assert_eq!(run.heap.processes().len(), 2);
    assert_eq!((run.process(0).live_bytes, run.process(1).live_bytes), (100, 5));
}

#[test]
fn fork_of_a_pid_whose_end_was_lost_starts_an_empty_heap() {
    let mut run = Run::default();
    run.alloc_by(2, 2, 0x10, 100, 7);
    run.event(Event::Fork { pid: 1, child: 2 });
    run.alloc_by(2, 2, 0x10, 5, 8);
    assert_eq!(run.live(), (2, 105));
    assert_eq!(run.totals().replaced_blocks, 0);
    assert!(run.process(0).exited);
}

#[test]
fn new_thread_with_a_dead_thread_s_id_does_not_inherit_its_chain() {
    let mut run = Run::default();
    run.alloc_by(1, 2, 0x10, 100, 7);
    run.exit(1, 2, false);
    run.free_by(1, 2, 0x10);
    assert_eq!(run.totals().temporary_calls, 0);
    assert_eq!(run.heap.threads().len(), 2);
}

#[test]
fn peak_is_the_first_maximum_with_the_shares_of_that_moment() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.alloc(0x20, 50, 8);
    run.free(0x10);
    run.alloc(0x30, 100, 9);
    run.alloc(0x40, 0, 9);
    let share = |stack| (run.cost(stack).peak_bytes, run.cost(stack).peak_blocks);
    assert_eq!((share(7), share(8), share(9)), ((100, 1), (50, 1), (0, 0)));
    assert_eq!(run.heap.peak(), Peak { bytes: 150, blocks: 2, alloc_calls: 2, ms: 2 });
    assert_eq!((run.totals().peak_bytes, run.totals().peak_ms), (150, 2));
    run.alloc(0x50, 1, 9);
    let share = |stack| (run.cost(stack).peak_bytes, run.cost(stack).peak_blocks);
    assert_eq!((share(7), share(8), share(9)), ((0, 0), (50, 1), (101, 3)));
}

#[test]
fn empty_block_at_the_peak_comes_after_it() {
    let mut run = Run::default();
    run.alloc(0x10, 100, 7);
    run.alloc(0x20, 0, 7);
    assert_eq!((run.cost(7).peak_bytes, run.cost(7).peak_blocks), (100, 1));
}

#[test]
fn a_stack_gets_its_id_from_whichever_event_comes_first() {
    let mut run = Run::default();
    run.alloc(0x10, 1, 70);
    run.event(Event::Stack {
        pid: 1,
        stack: 80,
        time_ns: 0,
        end: StackEnd::Complete,
        addresses: Addresses::from_bytes(&[]),
    });
    run.fail(90);
    run.alloc(0x20, 1, 80);
    assert_eq!([70, 80, 90].map(|key| run.heap.find_stack(key)), [Some(0), Some(1), Some(2)]);
    assert_eq!((run.heap.stack_count(), run.heap.stack_origin(1)), (3, (80, 1)));
}

#[test]
fn threads_beyond_the_limit_share_an_entry_a_process() {
    let mut run = Run::default();
    run.heap.max_thread_entries = 2;
    for tid in 1..=5 {
        run.alloc_by(1, tid, tid.into(), 10, 7);
    }
    run.alloc_by(2, 9, 0x10, 1, 7);
    let seen: Vec<_> =
        run.heap.threads().iter().map(|t| (t.pid, t.tid, t.alloc_calls, t.alloc_bytes)).collect();
    assert_eq!(seen, [(1, 1, 1, 10), (1, 2, 1, 10), (1, 0, 3, 30), (2, 0, 1, 1)]);
    assert_eq!(run.heap.take_new_threads(), [0, 1]);
    assert!(Heap::default().max_thread_entries == MAX_THREAD_ENTRIES);
}

#[test]
fn new_processes_and_threads_are_named_once_and_again_after_exec() {
    let mut run = Run::default();
    run.alloc(0x10, 1, 7);
    run.event(Event::Fork { pid: 1, child: 2 });
    assert_eq!(run.heap.take_new_processes(), [0, 1]);
    assert_eq!(run.heap.take_new_threads(), [0]);
    run.alloc(0x20, 1, 7);
    assert!(run.heap.take_new_processes().is_empty() && run.heap.take_new_threads().is_empty());
    run.event(Event::Exec { pid: 2 });
    assert_eq!(run.heap.take_new_processes(), [1]);
}

#[test]
fn frees_that_empty_a_thread_s_cache_at_its_end_are_not_the_program_s() {
    let mut run = Run::default();
    run.free_by(1, 2, 0x10);
    run.alloc_by(1, 2, 0x20, 8, 7);
    run.free_by(1, 2, 0x20);
    run.free_by(1, 2, 0x20);
    run.free_by(1, 2, 0x30);
    assert_eq!(run.totals().unknown_frees, 3);
    run.exit(1, 2, false);
    assert_eq!(run.totals().unknown_frees, 1, "the one before the allocation is the program's");
}

#[test]
fn the_main_thread_s_last_frees_stay_the_program_s() {
    let mut run = Run::default();
    run.alloc(0x20, 8, 7);
    run.free(0x10);
    run.exit(1, 1, true);
    assert_eq!(run.totals().unknown_frees, 1);
}
