//! What happens to address spaces, as it happens: code mapped by dlopen, exec or a JIT, forks.
//!
//! A perf "dummy" event a CPU, which counts nothing and only carries side-band records. System-wide,
//! since an event that is inherited cannot have a buffer for all CPUs; it costs other programs one
//! record for each executable mapping they make and nothing else. Measured delay from mmap to
//! record: under 0.1 ms.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use perf_event::{Builder, Clock, Sampler, events::Software};
use perf_event_data::Record;
use rustc_hash::FxHashSet;
use rustix::event::epoll;

/// Buffer a CPU, bytes: room for some 2,000 records between two reads.
const BUFFER_BYTES: usize = 256 << 10;

/// An executable mapping that a process has just made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMapping {
    pub pid: u32,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub time_ns: u64,
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Offset in the file, bytes.
    pub file_offset: u64,
    pub device_major: u32,
    pub device_minor: u32,
    pub inode: u64,
    /// As the process sees it, raw bytes; `//anon`, `[vdso]` for what is no file.
    pub path: Vec<u8>,
}

/// What happens to the address spaces of the processes that are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpaceEvent {
    New(NewMapping),
    /// The process is about to get a new program: all it had mapped is gone.
    Exec {
        pid: u32,
        /// As in [`NewMapping`].
        time_ns: u64,
    },
    /// A process began with a copy of its parent's mappings.
    Fork {
        parent: u32,
        child: u32,
        /// As in [`NewMapping`].
        time_ns: u64,
    },
    /// This many records did not fit the buffer: mappings must be read again from /proc.
    Lost {
        records: u64,
        /// As in [`NewMapping`].
        time_ns: u64,
    },
}

impl SpaceEvent {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub fn time_ns(&self) -> u64 {
        match self {
            Self::New(new) => new.time_ns,
            Self::Exec { time_ns, .. }
            | Self::Fork { time_ns, .. }
            | Self::Lost { time_ns, .. } => *time_ns,
        }
    }
}

/// The open events, one a CPU.
pub struct MappingEvents {
    samplers: Vec<Sampler>,
    /// An epoll of all of them.
    any: OwnedFd,
    followed: FxHashSet<u32>,
}

impl AsFd for MappingEvents {
    /// Readable when a mapping was made.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.any.as_fd()
    }
}

impl MappingEvents {
    /// Opens the events on every online CPU. Needs CAP_PERFMON, or perf_event_paranoid below 1.
    pub fn open() -> io::Result<Self> {
        let mut samplers = Vec::new();
        let any = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for cpu in online_cpus()? {
            let mut builder = Builder::new(Software::DUMMY);
            builder
                .any_pid()
                .one_cpu(cpu)
                .include_kernel()
                .include_hv()
                .mmap(true)
                .mmap2(true)
                .comm(true)
                .comm_exec(true)
                .task(true)
                .sample_id_all(true)
                .sample(perf_event::SampleFlag::TIME)
                .clockid(Clock::MONOTONIC)
                .wakeup_watermark(1)
                .enabled(true);
            let sampler = builder.build()?.sampled(BUFFER_BYTES)?;
            // SAFETY: the sampler owns the descriptor and outlives this borrow.
            let fd = unsafe { BorrowedFd::borrow_raw(sampler.as_raw_fd()) };
            epoll::add(&any, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
            samplers.push(sampler);
        }
        Ok(Self { samplers, any, followed: FxHashSet::default() })
    }

    /// Reports a process from now on, and all that it forks.
    pub fn follow(&mut self, pid: u32) {
        self.followed.insert(pid);
    }

    /// Reports a process no more.
    pub fn forget(&mut self, pid: u32) {
        self.followed.remove(&pid);
    }

    /// Takes what has come since the last call, in the order in which it happened.
    pub fn drain(&mut self) -> Vec<SpaceEvent> {
        let mut events = Vec::new();
        for sampler in &mut self.samplers {
            while let Some(raw) = sampler.next_record() {
                let Ok(record) = raw.parse_record() else { continue };
                let time_ns = trailing_time(&raw.to_contiguous());
                let is_exec = raw.misc() & PERF_RECORD_MISC_COMM_EXEC != 0;
                match record {
                    Record::Mmap2(mmap) => events.push(SpaceEvent::New(NewMapping {
                        pid: mmap.pid,
                        time_ns,
                        start: mmap.addr,
                        len: mmap.len,
                        file_offset: mmap.pgoff,
                        device_major: mmap.maj().unwrap_or_default(),
                        device_minor: mmap.min().unwrap_or_default(),
                        inode: mmap.ino().unwrap_or_default(),
                        path: mmap.filename.to_vec(),
                    })),
                    Record::Comm(comm) if is_exec => {
                        events.push(SpaceEvent::Exec { pid: comm.pid, time_ns });
                    }
                    // A thread has its process's pid.
                    Record::Fork(fork) if fork.pid != fork.ppid => events.push(SpaceEvent::Fork {
                        parent: fork.ppid,
                        child: fork.pid,
                        time_ns,
                    }),
                    Record::Lost(lost) => {
                        events.push(SpaceEvent::Lost { records: lost.lost, time_ns });
                    }
                    _ => {}
                }
            }
        }
        events.sort_by_key(SpaceEvent::time_ns);
        events.retain(|event| match *event {
            SpaceEvent::New(NewMapping { pid, .. }) | SpaceEvent::Exec { pid, .. } => {
                self.followed.contains(&pid)
            }
            SpaceEvent::Fork { parent, child, .. } => {
                let ours = self.followed.contains(&parent);
                if ours {
                    self.followed.insert(child);
                }
                ours
            }
            SpaceEvent::Lost { .. } => true,
        });
        events
    }
}

/// In a comm record's `misc`: the name changed by an exec (include/uapi/linux/perf_event.h).
const PERF_RECORD_MISC_COMM_EXEC: u16 = 1 << 13;

/// With `sample_id_all` and the time as the only sample field, a record ends in its time.
fn trailing_time(record: &[u8]) -> u64 {
    record.last_chunk::<8>().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

/// CPU numbers from `/sys/devices/system/cpu/online`, e.g. `0-3,8`.
fn online_cpus() -> io::Result<Vec<usize>> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    parse_cpu_list(&text).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("unreadable CPU list {text:?}"))
    })
}

fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::AsRawFd,
        time::{Duration, Instant},
    };

    use super::{MappingEvents, SpaceEvent, parse_cpu_list};

    #[test]
    fn live_a_child_is_followed_from_fork_over_exec_to_its_mappings_in_this_order() {
        let mut events = MappingEvents::open().expect("needs root (CAP_PERFMON)");
        events.follow(std::process::id());
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let seen = events.drain();
        let at = |wanted: &dyn Fn(&SpaceEvent) -> bool| seen.iter().position(wanted).unwrap();
        let forked = at(&|e| matches!(e, SpaceEvent::Fork { child, .. } if *child == pid));
        let executed = at(&|e| matches!(e, SpaceEvent::Exec { pid: of, .. } if *of == pid));
        let mapped = at(&|e| matches!(e, SpaceEvent::New(new) if new.pid == pid));
        assert!(forked < executed && executed < mapped, "{seen:?}");
    }

    #[test]
    fn live_an_executable_mapping_is_reported_with_file_and_time() {
        let mut events = MappingEvents::open().expect("needs root (CAP_PERFMON)");
        events.follow(std::process::id());
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        // SAFETY: maps a page of our own program, read and execute only, and unmaps it at once.
        let address = unsafe {
            let address = libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_EXEC,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                4096,
            );
            assert_ne!(address, libc::MAP_FAILED);
            libc::munmap(address, 4096);
            address as u64
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut seen = Vec::new();
        while Instant::now() < deadline {
            seen.extend(events.drain());
            let found = seen.iter().find_map(|event| match event {
                SpaceEvent::New(new) if new.start == address => Some(new),
                _ => None,
            });
            if let Some(new) = found {
                assert_eq!((new.len, new.file_offset), (4096, 4096));
                assert!(new.time_ns > 0 && new.inode > 0);
                let exe = std::fs::read_link("/proc/self/exe").unwrap();
                assert_eq!(new.path, exe.into_os_string().into_encoded_bytes());
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("no such mapping among {seen:?}");
    }

    #[test]
    fn cpu_lists_are_ranges_and_single_numbers() {
        assert_eq!(parse_cpu_list("0-1\n"), Some(vec![0, 1]));
        assert_eq!(parse_cpu_list("0,2-4,9"), Some(vec![0, 2, 3, 4, 9]));
        assert_eq!(parse_cpu_list(""), None);
        assert_eq!(parse_cpu_list("0-x"), None);
    }
}
