//! Fills the maps that the kernel-side unwinder reads.
//!
//! [`UnwindTables`] holds one table per distinct binary, shared by all processes that map it, and
//! one mapping list per process, shared with forked children that have changed nothing. Call
//! [`UnwindTables::update`] when a process is new, after an exec, and whenever its executable
//! mappings may have changed; [`UnwindTables::forked`] and [`UnwindTables::remove`] as processes
//! come and go.
//!
//! The kernel reads while this writes. Space is used again only [`QUARANTINE`] after it was given
//! up, mapping entries carry their list's generation, rules are only ever added.

mod array;
mod files;
mod mappings;
mod rules;
mod space;
mod store;

use std::{
    io,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{HashMap as BpfHashMap, Map, MapData, MapError},
};
use memtrace_common::unwind::Process;

pub use files::FileProblem;
pub use store::{Store, Totals};

use array::WordArray;
use store::ProcessMap;

/// How long given-up space stays untouched: longer than any unwinding that may still read it.
pub const QUARANTINE: Duration = Duration::from_secs(3);

/// Why the tables can't be used at all. Frame pointers remain.
#[derive(Debug, thiserror::Error)]
pub enum UnwindTablesError {
    /// The BPF object has no such map.
    #[error("the BPF object has no usable map {name}")]
    NoMap { name: &'static str },
    /// A map could not be mapped into this process.
    #[error("cannot mmap the BPF map {name}: {source}")]
    Mmap { name: &'static str, source: io::Error },
    /// The process table could not be opened or written.
    #[error("cannot use the BPF map {name}: {source}")]
    Map { name: &'static str, source: MapError },
    /// The process is gone or may not be looked at.
    #[error("cannot read the mappings of pid {pid}: {source}")]
    Process { pid: u32, source: io::Error },
}

/// What an update of one process came to.
#[derive(Debug, Default)]
pub struct Update {
    /// Executable mappings of the process.
    pub mappings: u32,
    /// Mappings that found no room in the kernel's list.
    pub mappings_left_out: u32,
    /// True when the list is a new one.
    pub changed: bool,
    /// Files without a table, and why. Frames in them need frame pointers.
    pub without_table: Vec<FileProblem>,
}

/// The unwinder's maps.
pub struct UnwindTables {
    store: Store<BpfProcesses>,
}

struct BpfProcesses(BpfHashMap<MapData, u32, [u32; 4]>);

impl ProcessMap for BpfProcesses {
    fn set(&mut self, process: Process) -> Result<(), UnwindTablesError> {
        let Process { generation, first, count, pid } = process;
        self.0
            .insert(pid, [generation, first, count, pid], 0)
            .map_err(|source| UnwindTablesError::Map { name: PROCESSES, source })
    }

    fn remove(&mut self, pid: u32) {
        // Already gone is what was wanted: the kernel side removes processes that exec or exit.
        let _gone = self.0.remove(&pid);
    }
}

const ROWS: &str = "UNWIND_ROWS";
const PAGE_ROWS: &str = "UNWIND_PAGE_ROWS";
const RULE_BITS: &str = "UNWIND_RULE_BITS";
const MAPPING_LISTS: &str = "UNWIND_MAPPING_LISTS";
const PROCESSES: &str = "UNWIND_PROCESSES";

impl UnwindTables {
    /// Takes the unwinder's maps out of a loaded BPF object.
    ///
    /// # Errors
    /// All but [`UnwindTablesError::Process`].
    pub fn new(bpf: &mut Ebpf) -> Result<Self, UnwindTablesError> {
        let map = bpf.take_map(PROCESSES).ok_or(UnwindTablesError::NoMap { name: PROCESSES })?;
        let processes = BpfHashMap::try_from(map)
            .map_err(|source| UnwindTablesError::Map { name: PROCESSES, source })?;
        let rows = array(bpf, ROWS)?;
        let pages = array(bpf, PAGE_ROWS)?;
        let rules = array(bpf, RULE_BITS)?;
        let lists = array(bpf, MAPPING_LISTS)?;
        Ok(Self { store: Store::new(rows, pages, rules, lists, BpfProcesses(processes)) })
    }

    /// Reads the process' executable mappings and makes the kernel side use them, with tables for
    /// all files among them that are new.
    ///
    /// # Errors
    /// [`UnwindTablesError::Process`], [`UnwindTablesError::Map`]. A file that can't be read is no
    /// error: see [`Update::without_table`].
    pub fn update(&mut self, pid: u32) -> Result<Update, UnwindTablesError> {
        self.store.update(pid, Instant::now())
    }

    /// A new process that still has its parent's mappings. Does nothing if the parent is unknown.
    ///
    /// # Errors
    /// [`UnwindTablesError::Map`].
    pub fn forked(&mut self, parent: u32, child: u32) -> Result<(), UnwindTablesError> {
        self.store.forked(parent, child)
    }

    /// Forgets a process that has ended.
    pub fn remove(&mut self, pid: u32) {
        self.store.remove(pid, Instant::now());
    }

    /// How full the maps are, and what found no room.
    pub fn totals(&self) -> Totals {
        self.store.totals()
    }
}

fn array(bpf: &mut Ebpf, name: &'static str) -> Result<WordArray, UnwindTablesError> {
    match bpf.take_map(name) {
        Some(Map::Array(data)) => {
            WordArray::map(data).map_err(|source| UnwindTablesError::Mmap { name, source })
        }
        _ => Err(UnwindTablesError::NoMap { name }),
    }
}
