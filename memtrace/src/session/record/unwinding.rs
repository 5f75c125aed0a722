//! Keeps the kernel-side unwinder's tables current as processes come, map code and go.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use memtrace_common::stack::StackEnd;
use rustc_hash::FxHashMap;

use crate::{
    probes::unwind::{Totals, UnwindTables, UnwindTablesError},
    stream::event::Event,
};

/// After an update that changed nothing, a process is not updated again for a stack's sake for this
/// long: an address in no mapping may be garbage, whenever one looks.
const PATIENCE: Duration = Duration::from_millis(100);

/// The tables, and which processes' lists are out of date.
pub struct Unwinding {
    tables: UnwindTables,
    stale: BTreeSet<u32>,
    patience: FxHashMap<u32, Instant>,
    /// Files whose frames need frame pointers, and why; for `-v`.
    problems: Vec<String>,
}

impl Unwinding {
    /// Takes over the tables; no process is known.
    pub fn new(tables: UnwindTables) -> Self {
        Self {
            tables,
            stale: BTreeSet::new(),
            patience: FxHashMap::default(),
            problems: Vec::new(),
        }
    }

    /// Makes a process known, with tables for all that it has mapped.
    pub fn add(&mut self, pid: u32) -> Result<(), UnwindTablesError> {
        self.update(pid)?;
        Ok(())
    }

    /// Notes what an event does to the mappings that the kernel side knows.
    pub fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Stack { pid, end: StackEnd::NoMapping | StackEnd::UnknownProcess, .. }
                if self.patience.get(&pid).is_none_or(|until| *until <= Instant::now()) =>
            {
                self.stale.insert(pid);
            }
            // The kernel side has given the child its parent's list already.
            Event::Fork { pid, child } if self.tables.forked(pid, child).is_err() => {
                self.stale.insert(child);
            }
            // The kernel side has forgotten the old list.
            Event::Exec { pid } => {
                self.stale.insert(pid);
            }
            Event::Exit { pid, last: true, .. } => {
                self.tables.remove(pid);
                self.stale.remove(&pid);
                self.patience.remove(&pid);
            }
            _ => {}
        }
    }

    /// Notes that a process has mapped code.
    pub fn mapped(&mut self, pid: u32) {
        self.stale.insert(pid);
    }

    /// Brings the lists that are out of date up to date.
    pub fn refresh(&mut self) {
        for pid in std::mem::take(&mut self.stale) {
            // A process that is gone needs none; one for which there is no room has its stacks
            // ended with that reason.
            let changed = self.update(pid).unwrap_or(false);
            if !changed {
                self.patience.insert(pid, Instant::now() + PATIENCE);
            }
        }
    }

    /// Brings one process's list up to date.
    pub fn refresh_one(&mut self, pid: u32) {
        self.stale.remove(&pid);
        // As in `refresh`.
        let _ = self.update(pid);
    }

    fn update(&mut self, pid: u32) -> Result<bool, UnwindTablesError> {
        let update = self.tables.update(pid)?;
        for problem in update.without_table {
            self.problems.push(format!("{}: {}", problem.path, problem.problem));
        }
        Ok(update.changed)
    }

    /// How full the kernel's tables are.
    pub fn totals(&self) -> Totals {
        self.tables.totals()
    }

    /// Files without a table, since the last call.
    pub fn take_problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }
}
