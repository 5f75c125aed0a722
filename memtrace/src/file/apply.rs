//! Flushes → profile.

use thiserror::Error;

use super::error::Damage;
use super::record::{self, Record};
use crate::profile::{Cost, Line, Location, Module, Process, Profile, Stack, Thread, TimePoint};

/// Why a flush was not applied.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum ApplyError {
    /// Records that no recorder writes. The profile is as before.
    #[error("{0}")]
    Damage(#[from] Damage),
    /// The profile would take more memory than allowed. It is half changed.
    #[error("the recording is too large")]
    TooLarge,
}

/// A profile that grows flush by flush.
pub(super) struct Builder {
    profile: Profile,
    /// One per stack: the flush that last set its cost.
    cost_set_in: Vec<u64>,
    /// Number of the present flush, from 1.
    flush: u64,
    /// The last flush that moved the peak.
    peak_moved_in: u64,
    /// About what the profile takes.
    memory_bytes: u64,
    memory_limit_bytes: u64,
}

/// Lengths of the tables while a flush is checked.
struct Lengths {
    strings: usize,
    modules: usize,
    locations: usize,
    stacks: usize,
    processes: usize,
    threads: usize,
}

impl Builder {
    pub(super) fn new(memory_limit_bytes: u64) -> Self {
        Self {
            profile: Profile::default(),
            cost_set_in: Vec::new(),
            flush: 0,
            peak_moved_in: 0,
            memory_bytes: 0,
            memory_limit_bytes,
        }
    }

    /// Memory that may still be taken.
    pub(super) fn memory_left(&self) -> u64 {
        self.memory_limit_bytes.saturating_sub(self.memory_bytes)
    }

    /// Flushes applied so far.
    pub(super) fn flushes(&self) -> u64 {
        self.flush
    }

    /// Applies the chunks of one flush: all of them, or none.
    pub(super) fn apply(&mut self, chunks: &[Vec<u8>]) -> Result<(), ApplyError> {
        self.check(chunks)?;
        self.flush += 1;
        for chunk in chunks {
            for_each(chunk, |record| {
                self.apply_record(record);
                if self.memory_bytes > self.memory_limit_bytes {
                    return Err(ApplyError::TooLarge);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The profile after the last flush.
    pub(super) fn into_profile(mut self) -> Profile {
        // A stack whose cost was not written since the peak moved has not changed since then.
        for (cost, set_in) in self.profile.costs.iter_mut().zip(self.cost_set_in) {
            if set_in < self.peak_moved_in {
                cost.peak_bytes = cost.live_bytes();
                cost.peak_blocks = cost.live_blocks();
            }
        }
        self.profile
    }

    /// Makes sure that every record can be decoded and refers to what is there.
    fn check(&self, chunks: &[Vec<u8>]) -> Result<(), ApplyError> {
        let mut len = Lengths {
            strings: self.profile.strings.len(),
            modules: self.profile.modules.len(),
            locations: self.profile.locations.len(),
            stacks: self.profile.stacks.len(),
            processes: self.profile.processes.len(),
            threads: self.profile.threads.len(),
        };
        let mut timeline_seen = false;
        for chunk in chunks {
            for_each(chunk, |record| {
                let sound = match &record {
                    Record::Timeline { from, points } => {
                        let first = !std::mem::replace(&mut timeline_seen, true);
                        first && self.timeline_fits(*from, points)
                    }
                    record => len.admit(record),
                };
                if sound { Ok(()) } else { Err(ApplyError::Damage(Damage::Content)) }
            })?;
        }
        Ok(())
    }

    fn timeline_fits(&self, from: u32, points: &[record::TimePoint]) -> bool {
        let Some(kept) = self.profile.timeline.get(..from as usize) else { return false };
        let mut last = kept.last().map_or(0, |point| point.ms);
        points.iter().all(|point| point.0.ms >= std::mem::replace(&mut last, point.0.ms))
    }

    /// Applies a record that passed `check`.
    fn apply_record(&mut self, record: Record<'_>) {
        let profile = &mut self.profile;
        let before: usize;
        let after: usize;
        match record {
            Record::Meta(meta) => {
                (before, after) = (strings(&profile.meta.command), strings(&meta.0.command));
                profile.meta = meta.0;
            }
            Record::String(string) => {
                (before, after) = (0, size_of::<String>() + string.len());
                profile.strings.push(string.into_owned());
            }
            Record::Module { path, build_id } => {
                (before, after) = (0, size_of::<Module>());
                profile.modules.push(Module { path, build_id });
            }
            Record::Location { module, address } => {
                (before, after) = (0, size_of::<Location>());
                profile.locations.push(Location { module, address, lines: Vec::new() });
            }
            Record::Lines { location, lines } => {
                let place = &mut profile.locations[location as usize].lines;
                before = size_of_val(&place[..]);
                after = lines.len() * size_of::<Line>();
                *place = lines.into_iter().map(record::Line::into_profile).collect();
            }
            Record::Stack { id, pid, end, locations } => {
                let stack = Stack { locations: locations.into_owned(), end, pid };
                let each = size_of::<Stack>() + size_of::<Cost>() + size_of::<u64>();
                after = each + size_of_val(&stack.locations[..]);
                if let Some(place) = profile.stacks.get_mut(id as usize) {
                    before = each + size_of_val(&place.locations[..]);
                    *place = stack;
                } else {
                    before = 0;
                    profile.stacks.push(stack);
                    profile.costs.push(Cost::default());
                    self.cost_set_in.push(self.flush);
                }
            }
            Record::PeakMoved => {
                (before, after) = (0, 0);
                self.peak_moved_in = self.flush;
            }
            Record::Cost { stack, cost } => {
                (before, after) = (0, 0);
                profile.costs[stack as usize] = cost.0;
                self.cost_set_in[stack as usize] = self.flush;
            }
            Record::Totals(totals) => {
                (before, after) = (0, 0);
                profile.totals = totals.0;
            }
            Record::Losses(losses) => {
                (before, after) = (0, 0);
                profile.losses = losses.0;
            }
            Record::Timeline { from, points } => {
                before = size_of_val(&profile.timeline[from as usize..]);
                after = points.len() * size_of::<TimePoint>();
                profile.timeline.truncate(from as usize);
                profile.timeline.extend(points.into_iter().map(|point| point.0));
            }
            Record::Process {
                index,
                pid,
                parent,
                live_bytes,
                live_blocks,
                alloc_calls,
                alloc_bytes,
                exited,
            } => {
                before = 0;
                after = grow(&mut profile.processes, index);
                let place: &mut Process = &mut profile.processes[index as usize];
                let command = std::mem::take(&mut place.command);
                *place = Process {
                    pid,
                    parent,
                    command,
                    live_bytes,
                    live_blocks,
                    alloc_calls,
                    alloc_bytes,
                    exited,
                };
            }
            Record::Command { index, command } => {
                let place = &mut profile.processes[index as usize].command;
                (before, after) = (strings(place), strings(&command));
                *place = command.into_owned();
            }
            Record::Thread { index, pid, tid, alloc_calls, alloc_bytes } => {
                before = 0;
                after = grow(&mut profile.threads, index);
                let place: &mut Thread = &mut profile.threads[index as usize];
                let name = std::mem::take(&mut place.name);
                *place = Thread { pid, tid, name, alloc_calls, alloc_bytes };
            }
            Record::ThreadName { index, name } => {
                let place = &mut profile.threads[index as usize].name;
                (before, after) = (place.len(), name.len());
                *place = name.into_owned();
            }
            Record::Sizes(calls) => {
                (before, after) = (size_of_val(&profile.sizes.calls[..]), size_of_val(&calls[..]));
                profile.sizes.calls = calls.into_owned();
            }
        }
        self.memory_bytes = (self.memory_bytes + after as u64).saturating_sub(before as u64);
    }
}

impl Lengths {
    /// True when the record refers to what is there; what it adds is there afterwards.
    fn admit(&mut self, record: &Record<'_>) -> bool {
        let string = |id: u32| (id as usize) < self.strings;
        match record {
            Record::Meta(_)
            | Record::PeakMoved
            | Record::Totals(_)
            | Record::Losses(_)
            | Record::Timeline { .. }
            | Record::Sizes(_) => true,
            Record::String(_) => {
                self.strings += 1;
                true
            }
            Record::Module { path, build_id } => {
                self.modules += 1;
                string(*path) && string(*build_id)
            }
            Record::Location { module, .. } => {
                self.locations += 1;
                module.is_none_or(|module| (module as usize) < self.modules)
            }
            Record::Lines { location, lines } => {
                (*location as usize) < self.locations
                    && lines.iter().flat_map(record::Line::strings).all(string)
            }
            Record::Stack { id, locations, .. } => {
                let known = |location: &u32| (*location as usize) < self.locations;
                locations.iter().all(known) && next(&mut self.stacks, *id)
            }
            Record::Cost { stack, .. } => (*stack as usize) < self.stacks,
            Record::Process { index, .. } => next(&mut self.processes, *index),
            Record::Command { index, .. } => (*index as usize) < self.processes,
            Record::Thread { index, .. } => next(&mut self.threads, *index),
            Record::ThreadName { index, .. } => (*index as usize) < self.threads,
        }
    }
}

/// True when the index is in a table of this length or the next one, which it then holds too.
fn next(len: &mut usize, index: u32) -> bool {
    let index = index as usize;
    if index == *len {
        *len += 1;
    }
    index < *len
}

/// Makes room for the index, which is in the table or the next one; returns the memory it took.
fn grow<T: Default>(table: &mut Vec<T>, index: u32) -> usize {
    if index as usize == table.len() {
        table.push(T::default());
        size_of::<T>()
    } else {
        0
    }
}

fn strings(strings: &[String]) -> usize {
    strings.iter().map(|string| size_of::<String>() + string.len()).sum()
}

/// Decodes the records of a chunk.
fn for_each<'a>(
    mut chunk: &'a [u8],
    mut apply: impl FnMut(Record<'a>) -> Result<(), ApplyError>,
) -> Result<(), ApplyError> {
    while !chunk.is_empty() {
        let (record, rest) =
            postcard::take_from_bytes(chunk).map_err(|_| ApplyError::Damage(Damage::Content))?;
        chunk = rest;
        apply(record)?;
    }
    Ok(())
}
