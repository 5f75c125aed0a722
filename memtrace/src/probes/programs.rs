//! The BPF object: loaded, configured, and its maps handed out. aya's types end here and in
//! `stream`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::{
    Ebpf, EbpfError, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::{ProgramError, RawTracePoint, UProbe},
};
use memtrace_common::{
    counter::Counter,
    limits::{HOLD_UNTIL_KNOWN, POINT_TABLES, POINTS_PER_TABLE},
    point::Point,
};

use super::unwind::{UnwindTables, UnwindTablesError};
use crate::{kernel::btf::Btf, stream::RingReader};

/// The compiled `memtrace-ebpf`, put there by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/memtrace-ebpf"));

/// Entry programs, one for each point table.
const ENTRY: [&str; POINT_TABLES] =
    ["heap_entry_0", "heap_entry_1", "heap_entry_2", "heap_entry_3"];
const RETURN: &str = "heap_return";
/// Book-keeping programs and their raw tracepoints.
const LIFE: [(&str, &str); 3] = [
    ("life_fork", "sched_process_fork"),
    ("life_exec", "sched_process_exec"),
    ("life_exit", "sched_process_exit"),
];

/// Why the BPF side could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read the kernel's type information: {0}")]
    Btf(#[from] crate::kernel::btf::BtfError),
    #[error("cannot load the BPF object ({0}); needs root or CAP_BPF and CAP_PERFMON")]
    Object(#[source] Box<EbpfError>),
    #[error("cannot load the BPF program {name}: {source}")]
    Program { name: &'static str, source: Box<ProgramError> },
    #[error("cannot use the BPF map {name}: {source}")]
    Map { name: &'static str, source: Box<MapError> },
    #[error("the embedded BPF object lacks {0}; rebuild memtrace")]
    Missing(&'static str),
}

/// How the programs are to behave.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Stop allocating threads rather than lose events.
    pub lossless: bool,
    /// Size of the ring buffer in bytes: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// BPF-side log lines up to this level; `Off` costs nothing.
    pub log: log::LevelFilter,
}

/// Log lines of the BPF programs, for the `log` crate's logger.
pub type KernelLog = aya_log::EbpfLogger<&'static dyn log::Log>;

/// A point's raw map value.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct PodPoint(Point);
// SAFETY: two bytes without padding, any value of which is valid.
unsafe impl Pod for PodPoint {}

/// The loaded programs. Dropping it unloads those that nothing else holds.
pub struct Programs {
    ebpf: Ebpf,
    points: Array<MapData, PodPoint>,
    processes: HashMap<MapData, u32, u64>,
    stopped: HashMap<MapData, u32, u64>,
    /// The same map once more, since aya's typed maps don't show theirs.
    stopped_fd: OwnedFd,
    counters: PerCpuArray<MapData, u64>,
}

impl Programs {
    /// Loads every program, with the kernel's own field offsets, and attaches the book-keeping ones.
    pub fn load(settings: Settings, btf: &Btf) -> Result<Self, LoadError> {
        let task_tgid = btf.offset_of("task_struct", "tgid")?;
        let task_signal = btf.offset_of("task_struct", "signal")?;
        let signal_live = btf.offset_of("signal_struct", "live")?;
        let lossless = u8::from(settings.lossless);
        let wakeup_bytes = u64::from(settings.ring_bytes) / 4;
        let stop_bytes = u64::from(settings.ring_bytes) / 2;
        // aya-log numbers its levels as `log` does, with 0 for none.
        let log_level = settings.log as u8;
        let mut ebpf = EbpfLoader::new()
            .override_global("LOSSLESS", &lossless, true)
            .override_global("WAKEUP_BYTES", &wakeup_bytes, true)
            .override_global("STOP_BYTES", &stop_bytes, true)
            .override_global("TASK_TGID", &task_tgid, true)
            .override_global("TASK_SIGNAL", &task_signal, true)
            .override_global("SIGNAL_LIVE", &signal_live, true)
            .override_global(aya_log::LEVEL, &log_level, true)
            .map_max_entries("RING", settings.ring_bytes)
            .load(OBJECT)
            .map_err(|source| LoadError::Object(Box::new(source)))?;
        for name in ENTRY.into_iter().chain([RETURN]) {
            uprobe(&mut ebpf, name)?
                .load()
                .map_err(|source| LoadError::Program { name, source: Box::new(source) })?;
        }
        for (name, tracepoint) in LIFE {
            let program: &mut RawTracePoint = ebpf
                .program_mut(name)
                .and_then(|program| program.try_into().ok())
                .ok_or(LoadError::Missing(name))?;
            program
                .load()
                .and_then(|()| program.attach(tracepoint))
                .map_err(|source| LoadError::Program { name, source: Box::new(source) })?;
        }
        let Some(Map::HashMap(stopped)) = ebpf.map("STOPPED") else {
            return Err(LoadError::Missing("STOPPED"));
        };
        let stopped_fd = stopped.fd().as_fd().try_clone_to_owned().map_err(|source| {
            let source = Box::new(MapError::IoError(source));
            LoadError::Map { name: "STOPPED", source }
        })?;
        Ok(Self {
            stopped_fd,
            points: map(&mut ebpf, "POINTS")?,
            processes: map(&mut ebpf, "PROCESSES")?,
            stopped: map(&mut ebpf, "STOPPED")?,
            counters: map(&mut ebpf, "COUNTERS")?,
            ebpf,
        })
    }

    /// The unwinder's tables; can be taken once.
    pub fn take_unwind_tables(&mut self) -> Result<UnwindTables, UnwindTablesError> {
        UnwindTables::new(&mut self.ebpf)
    }

    /// The ring's reading end; can be taken once.
    pub fn take_ring(&mut self) -> Result<RingReader, LoadError> {
        map::<RingBuf<MapData>>(&mut self.ebpf, "RING").map(RingReader::new)
    }

    /// The reading end of the programs' own log lines; can be taken once.
    pub fn take_log(&mut self) -> Result<KernelLog, LoadError> {
        aya_log::EbpfLogger::init(&mut self.ebpf).map_err(|_| LoadError::Missing("AYA_LOGS"))
    }

    /// Declares the probe point of a table for addresses with these low 12 bits.
    pub fn set_point(&mut self, table: usize, low: u16, point: Point) -> Result<(), LoadError> {
        let index = table * POINTS_PER_TABLE + usize::from(low) % POINTS_PER_TABLE;
        self.points
            .set(index as u32, PodPoint(point), 0)
            .map_err(|source| LoadError::Map { name: "POINTS", source: Box::new(source) })
    }

    /// Includes a process (thread group id) in the book-keeping.
    pub fn add_process(&mut self, pid: u32) -> Result<(), LoadError> {
        self.processes
            .insert(pid, 1, 0)
            .map_err(|source| LoadError::Map { name: "PROCESSES", source: Box::new(source) })
    }

    /// Has a process stopped at its first allocation after an exec, before that happens, so that its
    /// mappings can be told to the unwinder; its count of [`stops`](Self::stops) then grows.
    pub fn hold_until_known(&mut self, pid: u32) -> Result<(), LoadError> {
        self.processes
            .insert(pid, u64::from(HOLD_UNTIL_KNOWN), 0)
            .map_err(|source| LoadError::Map { name: "PROCESSES", source: Box::new(source) })
    }

    /// The program for the entry points of a table.
    pub fn entry(&self, table: usize) -> Result<BorrowedFd<'_>, LoadError> {
        program_fd(&self.ebpf, ENTRY[table])
    }

    /// The program for all return points.
    pub fn returned(&self) -> Result<BorrowedFd<'_>, LoadError> {
        program_fd(&self.ebpf, RETURN)
    }

    /// The map behind [`stops`](Self::stops): key tgid (u32), value u64.
    pub fn stopped_fd(&self) -> BorrowedFd<'_> {
        self.stopped_fd.as_fd()
    }

    /// How often each process was stopped so far.
    pub fn stops(&self) -> Vec<(u32, u64)> {
        self.stopped.iter().filter_map(Result::ok).collect()
    }

    /// Every counter, summed over the CPUs, in slot order.
    pub fn counters(&self) -> Result<[u64; Counter::COUNT as usize], LoadError> {
        let mut sums = [0; Counter::COUNT as usize];
        for (index, sum) in sums.iter_mut().enumerate() {
            let values = self
                .counters
                .get(&(index as u32), 0)
                .map_err(|source| LoadError::Map { name: "COUNTERS", source: Box::new(source) })?;
            *sum = values.iter().sum();
        }
        Ok(sums)
    }
}

fn map<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, LoadError> {
    let map = ebpf.take_map(name).ok_or(LoadError::Missing(name))?;
    T::try_from(map).map_err(|source| LoadError::Map { name, source: Box::new(source) })
}

fn uprobe<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut UProbe, LoadError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(LoadError::Missing(name))
}

fn program_fd<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, LoadError> {
    ebpf.program(name)
        .ok_or(LoadError::Missing(name))?
        .fd()
        .map(|fd| fd.as_fd())
        .map_err(|source| LoadError::Program { name, source: Box::new(source) })
}
