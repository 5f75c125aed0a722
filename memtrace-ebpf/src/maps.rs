//! Every map of the programs, with who writes it.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use memtrace_common::{
    counter::Counter,
    limits::{MAX_KNOWN_STACKS, MAX_PROCESSES, MAX_THREADS, POINT_TABLES, POINTS_PER_TABLE},
    point::Point,
};

use crate::thread::Thread;

/// Records for userspace; its size is set at load.
#[map]
pub static RING: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

/// Probe points by table and low 12 address bits. Written by userspace before attaching.
#[map]
pub static POINTS: Array<Point> =
    Array::with_max_entries((POINT_TABLES * POINTS_PER_TABLE) as u32, 0);

/// State of each thread by tid, made at its first event and removed at its exit.
#[map]
pub static THREADS: HashMap<u32, Thread> = HashMap::with_max_entries(MAX_THREADS, 0);

/// Stacks already sent: id → second hash. Least recently used ones make room and are sent again.
#[map]
pub static KNOWN_STACKS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(MAX_KNOWN_STACKS, 0);

/// Recorded processes by tgid. Userspace adds the targets, `life` their children.
#[map]
pub static PROCESSES: HashMap<u32, u64> = HashMap::with_max_entries(MAX_PROCESSES, 0);

/// How often each process was stopped, by tgid, until it ends. A count is never taken back: whoever
/// continues processes compares it with what it has seen before.
#[map]
pub static STOPPED: HashMap<u32, u64> = HashMap::with_max_entries(MAX_PROCESSES, 0);

/// One slot for each [`Counter`].
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);
