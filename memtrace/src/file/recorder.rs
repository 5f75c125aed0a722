//! A recording under way: the model and the tables, and what of them has not been written yet.

use std::borrow::Cow;

use memtrace_common::stack::StackEnd;

use super::delta::Delta;
use super::error::WriteError;
use super::record::{self, Record};
use super::writer::Writer;
use crate::heap::{Heap, ProcessIndex, ThreadIndex};
use crate::profile::dirty::Dirty;
use crate::profile::{
    LocationId, Losses, MAX_STRING_BYTES, Meta, Profile, StackId, Tables, TimePoint, Timeline,
    Totals, cut,
};
use crate::stream::event::{Event, StackKey};

/// Everything a recording session collects. Feed it events, frames, names, samples and losses;
/// flush it to a [`Writer`] every second.
///
/// A flush that fails loses nothing: the next one holds its changes too.
#[derive(Default)]
pub struct Recorder {
    pub heap: Heap,
    pub tables: Tables,
    timeline: Timeline,
    meta: Meta,
    losses: Losses,
    peak_rss_bytes: u64,
    now_ms: u64,
    /// The peak that the time line has a point for.
    sampled_peak_bytes: u64,
    /// Stacks without a Stack record so far; those below `explained_below` that are not listed have
    /// one.
    unexplained: Vec<StackId>,
    explained_below: StackId,
    meta_changed: bool,
    changed_commands: Dirty,
    changed_names: Dirty,
    written: Lengths,
    in_flight: Option<InFlight>,
}

/// How much of the tables that only grow has been written.
#[derive(Clone, Copy, Default)]
struct Lengths {
    strings: usize,
    modules: usize,
    locations: usize,
}

/// What a delta covers, to be put back when it can't be written.
struct InFlight {
    written_before: Lengths,
    meta: bool,
    lines: Vec<u32>,
    stacks: Vec<u32>,
    costs: Vec<u32>,
    processes: Vec<u32>,
    commands: Vec<u32>,
    threads: Vec<u32>,
    names: Vec<u32>,
    timeline_from: usize,
    peak_moved: bool,
}

/// What a flush did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Bytes written.
    pub written_bytes: u64,
    /// True when the file was rewritten compactly.
    pub compacted: bool,
}

impl Recorder {
    /// A recording without events.
    pub fn new(meta: Meta) -> Self {
        let mut recorder = Self { meta_changed: true, ..Self::default() };
        recorder.set_meta(meta);
        recorder
    }

    /// Takes one event in. `now_ms` is milliseconds since the recording began. A Stack event needs
    /// its frames looked up and handed to [`explain`](Self::explain) before, when
    /// [`is_unexplained`](Self::is_unexplained) says so.
    #[inline]
    pub fn apply(&mut self, event: &Event<'_>, now_ms: u64) {
        self.heap.apply(event, now_ms);
        self.now_ms = now_ms;
    }

    /// Takes several events in, in their order; faster than one by one, see [`Heap::apply_all`].
    pub fn apply_all(&mut self, events: &[Event<'_>], now_ms: u64) {
        self.heap.apply_all(events, now_ms);
        self.now_ms = now_ms;
    }

    /// True when the frames behind a key are not known yet.
    pub fn is_unexplained(&self, key: StackKey) -> bool {
        self.heap.find_stack(key).is_none_or(|id| self.tables.wants_stack(id))
    }

    /// Sets the frames behind a key, innermost first, as locations of [`Self::tables`]. A stack of
    /// the process with the same frames and end that is known already is the same stack: call it
    /// before the first event with this key is applied.
    pub fn explain(&mut self, key: StackKey, pid: u32, end: StackEnd, locations: &[LocationId]) {
        if self.heap.find_stack(key).is_none()
            && let Some(same) = self.tables.find_stack(pid, end, locations)
        {
            self.heap.alias_stack(key, same);
            return;
        }
        let id = self.heap.stack_id(key, pid);
        self.add_missing_stacks();
        self.tables.set_stack(id, pid, end, locations);
    }

    /// Replaces the metadata. The command line is cut after 64 KiB.
    pub fn set_meta(&mut self, mut meta: Meta) {
        cut_command(&mut meta.command);
        self.meta_changed |= self.meta != meta;
        self.meta = meta;
    }

    /// The metadata.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Replaces the losses, which are sums since the beginning. `unknown_stacks` is worked out here
    /// and need not be set.
    pub fn set_losses(&mut self, losses: Losses) {
        self.losses = losses;
    }

    /// The losses as last set, with `unknown_stacks` as of now.
    pub fn losses(&mut self) -> Losses {
        self.refresh_unexplained();
        self.losses
    }

    /// Sets a process's command line, cut after 64 KiB; see [`Heap::take_new_processes`].
    pub fn set_command(&mut self, process: ProcessIndex, mut command: Vec<String>) {
        cut_command(&mut command);
        self.heap.set_command(process, command);
        self.changed_commands.mark(process);
    }

    /// Sets a thread's name; see [`Heap::take_new_threads`].
    pub fn set_thread_name(&mut self, thread: ThreadIndex, name: &str) {
        if self.heap.threads()[thread as usize].name != name {
            self.heap.set_thread_name(thread, cut(name, MAX_STRING_BYTES).to_owned());
            self.changed_names.mark(thread);
        }
    }

    /// Adds a point to the time line, and one for the peak when it moved since the last sample.
    /// `rss_bytes` is the resident set of all targets together, 0 when it could not be read.
    pub fn sample(&mut self, now_ms: u64, rss_bytes: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.peak_rss_bytes = self.peak_rss_bytes.max(rss_bytes);
        let peak = self.heap.peak();
        if peak.bytes > self.sampled_peak_bytes {
            self.sampled_peak_bytes = peak.bytes;
            self.timeline.push(TimePoint {
                ms: peak.ms,
                live_bytes: peak.bytes,
                live_blocks: peak.blocks,
                alloc_calls: peak.alloc_calls,
                rss_bytes,
            });
        }
        self.timeline.push(TimePoint {
            ms: now_ms,
            live_bytes: self.heap.live_bytes(),
            live_blocks: self.heap.live_blocks(),
            alloc_calls: self.heap.totals().alloc_calls,
            rss_bytes,
        });
    }

    /// The time line so far.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Sums so far, `duration_ms` being the time of the last event or sample.
    pub fn totals(&self) -> Totals {
        Totals {
            duration_ms: self.now_ms,
            peak_rss_bytes: self.peak_rss_bytes,
            ..self.heap.totals()
        }
    }

    /// The state of now as a profile, not complete.
    pub fn profile(&mut self) -> Profile {
        self.refresh_unexplained();
        self.add_missing_stacks();
        let stacks = 0..self.heap.stack_count() as StackId;
        Profile {
            meta: self.meta.clone(),
            complete: false,
            strings: self.tables.strings.clone(),
            modules: self.tables.modules.clone(),
            locations: self.tables.locations.clone(),
            stacks: self.tables.stacks.clone(),
            costs: stacks.map(|stack| self.heap.cost(stack)).collect(),
            totals: self.totals(),
            losses: self.losses,
            timeline: self.timeline.points().to_vec(),
            processes: self.heap.processes().to_vec(),
            threads: self.heap.threads().to_vec(),
            sizes: self.heap.sizes(),
        }
    }

    /// Writes what changed since the last flush. When the file has grown far beyond what it says,
    /// it is replaced by a compact one first.
    ///
    /// # Errors
    ///
    /// [`WriteError::Write`]: the file ends with the last flush that succeeded, and the next call
    /// writes the changes of this one too.
    pub fn flush(&mut self, writer: &mut Writer) -> Result<Flushed, WriteError> {
        if writer.wants_compaction() {
            let everything = self.take_everything();
            match writer.compact(&everything) {
                Ok(written_bytes) => {
                    self.confirm();
                    return Ok(Flushed { written_bytes, compacted: true });
                }
                Err(_) => self.reject(),
            }
        }
        let delta = self.take_delta();
        let result = writer.append(&delta);
        match result {
            Ok(written_bytes) => {
                self.confirm();
                Ok(Flushed { written_bytes, compacted: false })
            }
            Err(error) => {
                self.reject();
                Err(error)
            }
        }
    }

    /// Writes what is left and the closing chunk.
    ///
    /// # Errors
    ///
    /// As [`flush`](Self::flush); may be called again.
    pub fn finish(&mut self, writer: &mut Writer) -> Result<Flushed, WriteError> {
        let delta = self.take_delta();
        match writer.finish(&delta) {
            Ok(written_bytes) => {
                self.confirm();
                Ok(Flushed { written_bytes, compacted: false })
            }
            Err(error) => {
                self.reject();
                Err(error)
            }
        }
    }

    /// The changes since the last delta. Until [`confirm`](Self::confirm) or
    /// [`reject`](Self::reject) is called, events can be taken in but no other delta can be taken:
    /// a delta that is taken over one without an answer takes that one as written.
    ///
    /// [`flush`](Self::flush) does all of this; use the parts to write on another thread.
    pub fn take_delta(&mut self) -> Delta {
        let taken = self.take_changes();
        let from = taken.written_before;
        let mut delta = Delta::default();
        if taken.meta {
            delta.push(&Record::Meta(record::Meta(self.meta.clone())));
        }
        self.push_new_tables(&mut delta, from);
        for id in taken.lines.iter().copied() {
            self.push_lines(&mut delta, id);
        }
        for id in taken.stacks.iter().copied() {
            self.push_stack(&mut delta, id);
        }
        if taken.peak_moved {
            delta.push(&Record::PeakMoved);
        }
        for stack in taken.costs.iter().copied() {
            self.push_cost(&mut delta, stack);
        }
        for index in taken.processes.iter().copied() {
            self.push_process(&mut delta, index);
        }
        for index in taken.commands.iter().copied() {
            self.push_command(&mut delta, index);
        }
        for index in taken.threads.iter().copied() {
            self.push_thread(&mut delta, index);
        }
        for index in taken.names.iter().copied() {
            self.push_thread_name(&mut delta, index);
        }
        self.push_sums(&mut delta, taken.timeline_from);
        self.in_flight = Some(taken);
        delta
    }

    /// The whole state, for a file that begins with it. Otherwise as
    /// [`take_delta`](Self::take_delta).
    pub fn take_everything(&mut self) -> Delta {
        let taken = self.take_changes();
        let mut delta = Delta::default();
        delta.push(&Record::Meta(record::Meta(self.meta.clone())));
        self.push_new_tables(&mut delta, Lengths::default());
        for (id, location) in (0..).zip(&self.tables.locations) {
            if !location.lines.is_empty() {
                self.push_lines(&mut delta, id);
            }
        }
        for id in 0..self.tables.stacks.len() as StackId {
            self.push_stack(&mut delta, id);
            self.push_cost(&mut delta, id);
        }
        for (index, process) in (0..).zip(self.heap.processes()) {
            self.push_process(&mut delta, index);
            if !process.command.is_empty() {
                self.push_command(&mut delta, index);
            }
        }
        for (index, thread) in (0..).zip(self.heap.threads()) {
            self.push_thread(&mut delta, index);
            if !thread.name.is_empty() {
                self.push_thread_name(&mut delta, index);
            }
        }
        self.push_sums(&mut delta, 0);
        self.in_flight = Some(taken);
        delta
    }

    /// The last delta is on disk.
    pub fn confirm(&mut self) {
        self.in_flight = None;
    }

    /// The last delta could not be written: its changes are part of the next one again.
    pub fn reject(&mut self) {
        let Some(taken) = self.in_flight.take() else { return };
        self.written = taken.written_before;
        self.meta_changed |= taken.meta;
        self.tables.changed_lines.mark_all(&taken.lines);
        self.tables.changed_stacks.mark_all(&taken.stacks);
        self.heap.changed_stacks().mark_all(&taken.costs);
        self.heap.changes().processes.mark_all(&taken.processes);
        self.heap.changes().threads.mark_all(&taken.threads);
        self.changed_commands.mark_all(&taken.commands);
        self.changed_names.mark_all(&taken.names);
        self.timeline.mark_changed_from(taken.timeline_from);
        *self.heap.peak_moved() |= taken.peak_moved;
    }

    fn take_changes(&mut self) -> InFlight {
        self.refresh_unexplained();
        self.add_missing_stacks();
        let now = Lengths {
            strings: self.tables.strings.len(),
            modules: self.tables.modules.len(),
            locations: self.tables.locations.len(),
        };
        let written_before = std::mem::replace(&mut self.written, now);
        let changes = self.heap.changes();
        let (processes, threads) = (changes.processes.take(), changes.threads.take());
        InFlight {
            written_before,
            meta: std::mem::take(&mut self.meta_changed),
            lines: self.tables.changed_lines.take(),
            stacks: self.tables.changed_stacks.take(),
            costs: self.heap.changed_stacks().take(),
            processes,
            commands: self.changed_commands.take(),
            threads,
            names: self.changed_names.take(),
            timeline_from: self.timeline.take_changed_from(),
            peak_moved: std::mem::take(self.heap.peak_moved()),
        }
    }

    /// Stacks that events named since the last call get a place in the tables.
    fn add_missing_stacks(&mut self) {
        for id in self.tables.stacks.len()..self.heap.stack_count() {
            let (_, pid) = self.heap.stack_origin(id as StackId);
            self.tables.add_stack(pid);
        }
    }

    /// Counts the allocations whose stack's record has not come.
    fn refresh_unexplained(&mut self) {
        let count = self.heap.stack_count() as StackId;
        let (heap, tables) = (&self.heap, &self.tables);
        // Key 0 means that there is no stack, so none is missing.
        self.unexplained
            .extend((self.explained_below..count).filter(|stack| heap.stack_origin(*stack).0 != 0));
        self.explained_below = count;
        self.unexplained.retain(|stack| tables.wants_stack(*stack));
        self.losses.unknown_stacks =
            self.unexplained.iter().map(|stack| heap.cost(*stack).alloc_calls).sum();
    }

    fn push_new_tables(&self, delta: &mut Delta, from: Lengths) {
        for string in &self.tables.strings[from.strings..] {
            delta.push(&Record::String(Cow::Borrowed(string)));
        }
        for module in &self.tables.modules[from.modules..] {
            delta.push(&Record::Module { path: module.path, build_id: module.build_id });
        }
        for location in &self.tables.locations[from.locations..] {
            delta.push(&Record::Location { module: location.module, address: location.address });
        }
    }

    fn push_lines(&self, delta: &mut Delta, location: u32) {
        let lines = &self.tables.locations[location as usize].lines;
        let lines = lines.iter().map(record::Line::from_profile).collect();
        delta.push(&Record::Lines { location, lines });
    }

    fn push_stack(&self, delta: &mut Delta, id: StackId) {
        let stack = &self.tables.stacks[id as usize];
        let locations = Cow::Borrowed(&stack.locations[..]);
        delta.push(&Record::Stack { id, pid: stack.pid, end: stack.end, locations });
    }

    fn push_cost(&self, delta: &mut Delta, stack: StackId) {
        delta.push(&Record::Cost { stack, cost: record::Cost(self.heap.cost(stack)) });
    }

    fn push_process(&self, delta: &mut Delta, index: u32) {
        let process = &self.heap.processes()[index as usize];
        delta.push(&Record::Process {
            index,
            pid: process.pid,
            parent: process.parent,
            live_bytes: process.live_bytes,
            live_blocks: process.live_blocks,
            alloc_calls: process.alloc_calls,
            alloc_bytes: process.alloc_bytes,
            exited: process.exited,
        });
    }

    fn push_command(&self, delta: &mut Delta, index: u32) {
        let command = Cow::Borrowed(&self.heap.processes()[index as usize].command[..]);
        delta.push(&Record::Command { index, command });
    }

    fn push_thread(&self, delta: &mut Delta, index: u32) {
        let thread = &self.heap.threads()[index as usize];
        delta.push(&Record::Thread {
            index,
            pid: thread.pid,
            tid: thread.tid,
            alloc_calls: thread.alloc_calls,
            alloc_bytes: thread.alloc_bytes,
        });
    }

    fn push_thread_name(&self, delta: &mut Delta, index: u32) {
        let name = Cow::Borrowed(&self.heap.threads()[index as usize].name[..]);
        delta.push(&Record::ThreadName { index, name });
    }

    fn push_sums(&self, delta: &mut Delta, timeline_from: usize) {
        delta.push(&Record::Totals(record::Totals(self.totals())));
        delta.push(&Record::Losses(record::Losses(self.losses)));
        delta.push(&Record::Sizes(Cow::Owned(self.heap.sizes().calls)));
        let points = &self.timeline.points()[timeline_from..];
        if !points.is_empty() {
            delta.push(&Record::Timeline {
                from: timeline_from as u32,
                points: points.iter().copied().map(record::TimePoint).collect(),
            });
        }
    }
}

/// Cuts a command line after [`MAX_STRING_BYTES`], an argument's end counting as a byte.
fn cut_command(command: &mut Vec<String>) {
    let mut left = MAX_STRING_BYTES;
    command.retain_mut(|argument| {
        let keep = left > 0;
        argument.truncate(cut(argument, left).len());
        left -= (argument.len() + 1).min(left);
        keep
    });
}
