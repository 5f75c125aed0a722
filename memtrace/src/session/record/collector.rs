//! Events → recording: each goes to the heap model; stacks are placed in files and sent off to be
//! named; what processes map is followed.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd},
};

use anyhow::Result;
use rustc_hash::FxHashSet;

use crate::{
    file::Recorder,
    probes::{
        mappings::{MappingEvents, NewMapping, SpaceEvent},
        unwind::Totals,
    },
    process::{self, Backing, Device, Mapping},
    profile::{self, LocationId, Meta},
    stream::event::{Addresses, Event},
    symbols::AddressSpaces,
};

use super::{
    naming::{Job, Named, Naming},
    unwinding::Unwinding,
};

/// Processes whose resident set is read for one sample; more would take too long.
const MAX_SAMPLED_PROCESSES: usize = 256;

/// Threads whose names are read again at each refresh.
const MAX_NAMED_THREADS: usize = 1024;

/// A recording being filled.
pub struct Collector {
    pub recorder: Recorder,
    mappings: MappingEvents,
    /// Read and not yet applied, in time order.
    coming: VecDeque<SpaceEvent>,
    /// CLOCK_MONOTONIC up to which mappings have been read.
    read_until_ns: u64,
    spaces: AddressSpaces,
    naming: Naming,
    unwinding: Unwinding,
    /// Profile module of each symbols module, by its id.
    modules: Vec<Option<profile::ModuleId>>,
    /// Locations that the naming thread knows of: those below.
    asked_below: LocationId,
    /// Processes alive, targets and their children.
    living: Vec<u32>,
    /// Announced processes, from an exec to their first allocation.
    held: FxHashSet<u32>,
    /// Processes that are held again after each exec.
    announced: FxHashSet<u32>,
    to_anchor: Vec<u32>,
    ended: Vec<u32>,
}

impl Collector {
    /// An empty recording.
    pub fn new(meta: Meta, mappings: MappingEvents, unwinding: Unwinding) -> std::io::Result<Self> {
        Ok(Self {
            recorder: Recorder::new(meta),
            mappings,
            coming: VecDeque::new(),
            read_until_ns: 0,
            spaces: AddressSpaces::default(),
            naming: Naming::start()?,
            unwinding,
            modules: Vec::new(),
            asked_below: 0,
            living: Vec::new(),
            held: FxHashSet::default(),
            announced: FxHashSet::default(),
            to_anchor: Vec::new(),
            ended: Vec::new(),
        })
    }

    /// Begins to follow a process: opens the files it runs from, so that they can be read when it
    /// has ended or replaced them.
    pub fn follow(&mut self, pid: u32) -> Result<()> {
        self.mappings.follow(pid);
        self.spaces.attach(pid)?;
        self.unwinding.add(pid)?;
        self.living.push(pid);
        Ok(())
    }

    /// Announces a process whose program is not running yet.
    pub fn expect(&mut self, pid: u32) {
        self.mappings.follow(pid);
        self.announced.insert(pid);
        self.living.push(pid);
    }

    /// How full the unwinder's tables are, and files without one since the last call.
    pub fn unwinding_report(&mut self) -> (Totals, Vec<String>) {
        (self.unwinding.totals(), self.unwinding.take_problems())
    }

    /// Processes whose coverage needs to be made sure of: new ones, and such whose leader ended.
    pub fn take_to_anchor(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.to_anchor)
    }

    /// Processes that have ended.
    pub fn take_ended(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.ended)
    }

    /// Takes one event in. `now_ms` is milliseconds since the recording began.
    pub fn event(&mut self, event: &Event<'_>, now_ms: u64) {
        match *event {
            Event::Stack { pid, stack, time_ns, end, addresses } => {
                self.catch_up(time_ns);
                if self.recorder.is_unexplained(stack) {
                    let locations = self.locate(pid, addresses);
                    self.recorder.explain(stack, pid, end, &locations);
                }
            }
            Event::Fork { pid: _, child } => {
                self.living.push(child);
                self.to_anchor.push(child);
            }
            Event::Exit { pid, last: true, .. } => {
                self.spaces.exit(pid);
                self.mappings.forget(pid);
                self.living.retain(|&other| other != pid);
                self.ended.push(pid);
            }
            Event::Exec { pid } if self.announced.contains(&pid) => {
                self.held.insert(pid);
            }
            Event::Exit { pid, tid, last: false } if pid == tid => self.to_anchor.push(pid),
            _ => {}
        }
        self.unwinding.event(event);
        self.recorder.apply(event, now_ms);
    }

    /// Becomes readable when a process has mapped something.
    pub fn mapped_fd(&self) -> BorrowedFd<'_> {
        self.mappings.as_fd()
    }

    /// Reads what processes have mapped. The kernel-side unwinder is told at once, since until then
    /// stacks through new code end there; addresses are looked up in the mappings of their time.
    pub fn read_mappings(&mut self) {
        self.read_until_ns = monotonic_ns();
        let events = self.mappings.drain();
        for event in &events {
            match *event {
                SpaceEvent::New(NewMapping { pid, .. }) => self.unwinding.mapped(pid),
                // The kernel side knows, see `life.rs`.
                SpaceEvent::Exec { .. } | SpaceEvent::Fork { .. } => {}
                SpaceEvent::Lost { .. } => {
                    self.living.iter().for_each(|&pid| self.unwinding.mapped(pid));
                }
            }
        }
        if !events.is_empty() {
            self.unwinding.refresh();
            self.coming.extend(events);
        }
    }

    /// Applies what had happened to address spaces at a time.
    fn catch_up(&mut self, time_ns: u64) {
        if time_ns > self.read_until_ns {
            self.read_mappings();
        }
        while self.coming.front().is_some_and(|event| event.time_ns() <= time_ns) {
            match self.coming.pop_front() {
                Some(SpaceEvent::New(new)) => {
                    let pid = new.pid;
                    self.spaces.map(pid, &mapping(new));
                }
                Some(SpaceEvent::Exec { pid, .. }) => self.spaces.exec(pid),
                Some(SpaceEvent::Fork { parent, child, .. }) => self.spaces.fork(parent, child),
                // Mappings are read again when an address is found in none.
                Some(SpaceEvent::Lost { .. }) | None => {}
            }
        }
    }

    /// Applies all that was read. For when no event is left whose time is before it.
    pub fn apply_mappings(&mut self) {
        self.catch_up(self.read_until_ns);
    }

    /// Tells the kernel-side unwinder of what has changed.
    pub fn refresh_unwinding(&mut self) {
        self.unwinding.refresh();
    }

    /// Tells the kernel-side unwinder of all that a process has mapped which is held for that.
    pub fn make_known(&mut self, pid: u32) {
        if self.held.remove(&pid) {
            self.unwinding.refresh_one(pid);
        }
    }

    fn locate(&mut self, pid: u32, addresses: Addresses<'_>) -> Vec<LocationId> {
        let mut locations = Vec::with_capacity(addresses.iter().len());
        for address in addresses.iter() {
            let Some(resolved) = self.spaces.resolve(pid, address) else {
                locations.push(self.recorder.tables.location(None, address));
                continue;
            };
            let (module, svma) = (resolved.module, resolved.svma);
            let slot = module.id().0 as usize;
            if slot >= self.modules.len() {
                self.modules.resize(slot + 1, None);
            }
            let profile_module = *self.modules[slot].get_or_insert_with(|| {
                self.recorder.tables.module(module.name(), module.build_id_hex())
            });
            let location = self.recorder.tables.location(Some(profile_module), svma);
            if location >= self.asked_below {
                self.naming.ask(Job { location, module: module.clone(), svma });
            }
            // Ids are given in order, so a location not below the last one is new.
            self.asked_below = self.asked_below.max(location + 1);
            locations.push(location);
        }
        locations
    }

    /// Puts the names that are ready into the tables.
    pub fn take_names(&mut self) {
        for named in self.naming.ready() {
            self.set_lines(named);
        }
    }

    /// Waits for the name of one more address; false when all are there.
    pub fn finish_one_name(&mut self) -> bool {
        match self.naming.next() {
            Some(named) => {
                self.set_lines(named);
                true
            }
            None => false,
        }
    }

    /// Addresses still without an answer.
    pub fn open_names(&self) -> usize {
        self.naming.open()
    }

    fn set_lines(&mut self, Named { location, frames }: Named) {
        let tables = &mut self.recorder.tables;
        let lines = frames
            .into_iter()
            .map(|frame| profile::Line {
                function: tables.string(&frame.function),
                file: frame.file.map(|file| tables.string(&file)),
                line: frame.line,
            })
            .collect();
        tables.set_lines(location, lines);
    }

    /// Reads command lines and thread names of what is new.
    pub fn describe_newcomers(&mut self) {
        for index in self.recorder.heap.take_new_processes() {
            let pid = self.recorder.heap.processes()[index as usize].pid;
            if let Ok(command) = process::identity::command_line(pid) {
                self.recorder.set_command(index, command);
            }
        }
        for index in self.recorder.heap.take_new_threads() {
            let (pid, tid) = {
                let thread = &self.recorder.heap.threads()[index as usize];
                (thread.pid, thread.tid)
            };
            if let Ok(name) = process::identity::thread_comm(pid, tid) {
                self.recorder.set_thread_name(index, &name);
            }
        }
    }

    /// Reads names again, which threads mostly get after they have begun to allocate.
    pub fn refresh_thread_names(&mut self) {
        let threads: Vec<_> = self.recorder.heap.living_threads().take(MAX_NAMED_THREADS).collect();
        for (index, pid, tid) in threads {
            if let Ok(name) = process::identity::thread_comm(pid, tid) {
                self.recorder.set_thread_name(index, &name);
            }
        }
    }

    /// Adds a point to the time line.
    pub fn sample(&mut self, now_ms: u64) {
        let rss = self
            .living
            .iter()
            .take(MAX_SAMPLED_PROCESSES)
            .filter_map(|&pid| process::identity::rss_bytes(pid).ok())
            .sum();
        self.recorder.sample(now_ms, rss);
    }
}

/// The clock of stacks and mapping events.
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn mapping(new: NewMapping) -> Mapping {
    Mapping {
        start: new.start,
        end: new.start.saturating_add(new.len),
        offset: new.file_offset,
        device: Device { major: new.device_major, minor: new.device_minor },
        inode: new.inode,
        backing: Backing::from_name(&new.path),
    }
}
