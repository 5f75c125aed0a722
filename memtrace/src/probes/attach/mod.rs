//! Breakpoints in chosen processes and all they start, at a cost that does not grow with them.
//!
//! Give it the loaded programs, the places and the processes; from then on every hit in these
//! processes, in threads and processes they start and after an exec runs the programs, until
//! [`Attachment::detach`]. No other process pays anything.
//!
//! How, and why this way (measured on 6.1, 6.12 and 6.18):
//!
//! 1. All entry places of a group, in any number of files, are **one** tracefs uprobe event, all
//!    return places a second. So a hit has one consumer to walk and a thread costs two descriptors.
//!    Places of one event are told apart by the program, from the instruction pointer.
//! 2. Each event is opened for every thread of every target with `inherit`, so that the kernel
//!    itself covers what they fork, clone and exec. Every thread, not the leader alone: a fork
//!    inherits from the forking thread, and a leader can end before its process. A third descriptor
//!    a thread keeps the kernel from mixing up the events of its children, see
//!    [`Attachment::anchor`].
//! 3. These opens carry `enable_on_exec`, which makes the kernel skip the walk over all address
//!    spaces. One last open, on a process that does nothing (the holder), walks once and installs
//!    everything.
//! 4. The program is set on that last event. It belongs to the tracefs event and so serves every
//!    task. Set on an inherited event it would go when the first child exits. As it is set last,
//!    all processes start to be seen at the same moment.
//!
//! Return events come first, before entry events, and go last. A call that is in flight at either
//! end can then only be seen as a return without an entry, which the program must ignore (it must
//! anyway: the kernel runs a return consumer also for other tracers' return probes at the same
//! function), but for one case: a thread that stood between the function's first instruction and
//! the entry place while both were installed gives an entry without a return. The program gives
//! such a pending call up when the thread's stack pointer shows that it has been left.
//!
//! Programs must return 0, which spares the kernel the event's own output.
//!
//! Not covered: a setuid exec of a non-root task drops inherited events on kernels up to 6.12 at
//! least; call [`Attachment::add_process`] when that is seen. Attaching a thread twice is harmless:
//! a program runs once a hit whatever the number of events that cover it.

mod error;
mod holder;
#[cfg(test)]
pub(super) mod live;
pub(crate) mod perf;
#[cfg(test)]
pub(crate) mod rawbpf;
mod threads;
pub(crate) mod tracefs;
pub(crate) mod will;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use memtrace_common::limits::POINT_TABLES;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use error::AttachError;
use error::failed;
use holder::Holder;
use perf::Who;
use threads::{processes, stat, threads_of};
use tracefs::{EventGroup, EventKind, Tracefs, refusal};
pub use will::LastWill;

/// Where a breakpoint goes.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The file whose mappings get it. Only needed while attaching.
    pub file: BorrowedFd<'a>,
    /// Offset in the file, in bytes, of an instruction's first byte.
    pub offset: u64,
}

/// Places served by one pair of programs, which tells them apart by `ip & 0xfff`.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// A loaded program of type `BPF_PROG_TYPE_KPROBE` (aya: `UProbe`) for the entry places.
    pub entry_program: BorrowedFd<'a>,
    /// Likewise, run when a function at one of the return places returns.
    pub return_program: BorrowedFd<'a>,
    /// Where the entry program runs.
    pub entries: Vec<Place<'a>>,
    /// Functions' first instructions, where `[rsp]` is still the return address.
    pub returns: Vec<Place<'a>>,
}

/// What was done, for `record -v`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachReport {
    /// Processes that are attached.
    pub processes: usize,
    /// Threads that are attached, over all processes.
    pub threads: usize,
    /// Tracefs events in use; a thread costs a descriptor for each, and one more.
    pub events: usize,
    /// Processes that had ended before they could be attached.
    pub ended: Vec<i32>,
    /// Events of dead memtraces that were removed.
    pub swept: usize,
    /// From the call to the moment at which every hit is seen.
    pub elapsed: Duration,
}

/// How a detach went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetachReport {
    /// True when the tracefs events are gone; false when another process still holds copies of
    /// the descriptors and they are left for the next memtrace to remove.
    pub events_removed: bool,
    /// From the call to the moment at which the programs run no more.
    pub silent_after: Duration,
    /// From the call to its end.
    pub elapsed: Duration,
}

/// Above this number of processes one system-wide open is cheaper at detach than a walk over the
/// address spaces for each of them; below it bystanders are left in peace. (With one probe point, on
/// 6.18: 100 processes one by one add 70 ms, 500 add 6 s.)
pub(crate) const DIRECT_DETACH_MAX: usize = 32;

#[derive(Debug)]
struct Event {
    id: u64,
    kind: EventKind,
    /// On the holder; carries the program.
    program: Option<OwnedFd>,
}

/// Breakpoints that are in. Dropping it takes them out as [`detach`](Attachment::detach) does.
#[derive(Debug)]
pub struct Attachment {
    group: EventGroup,
    /// Return events before entry events.
    events: Vec<Event>,
    /// Events of each process that is attached by name, of all its threads. Never closed before
    /// the end: that would end what was inherited from them.
    processes: HashMap<i32, Vec<OwnedFd>>,
    /// Events of their descendants.
    anchors: HashMap<i32, Vec<OwnedFd>>,
    holder: Holder,
    will: Option<Arc<LastWill>>,
    report: AttachReport,
}

impl Attachment {
    /// Attaches `groups` (at most [`POINT_TABLES`]) to all threads of `pids`.
    ///
    /// Processes that have ended are listed in the report; it is an error when all have. A child
    /// that one of them forks meanwhile is attached too. The limit of open files is raised to the
    /// hard limit for this process, so start children that should not inherit that before.
    ///
    /// With `will` the watchdog learns what to take down when this process dies. One will serves
    /// one attachment.
    pub fn new(
        groups: &[Group<'_>],
        pids: &[i32],
        will: Option<Arc<LastWill>>,
    ) -> Result<Self, AttachError> {
        let start = Instant::now();
        if groups.iter().all(|group| group.entries.is_empty()) || groups.len() > POINT_TABLES {
            return Err(AttachError::NoPoints);
        }
        let existing = processes().map_err(failed("read /proc"))?;
        let mut alive = Vec::new();
        let mut ended = Vec::new();
        for &pid in pids {
            match stat(pid).map_err(failed("read the process's state in /proc"))? {
                None => ended.push(pid),
                Some(stat) if stat.kernel_thread => return Err(AttachError::KernelThread { pid }),
                Some(_) => alive.push(pid),
            }
        }
        if alive.is_empty() {
            return Err(AttachError::ProcessEnded { pid: pids.first().copied().unwrap_or(0) });
        }
        raise_descriptor_limit();

        let tracefs = Tracefs::open()?;
        let swept = tracefs.sweep()?;
        let mut attachment = Attachment {
            group: EventGroup::new(tracefs)?,
            events: Vec::new(),
            processes: HashMap::new(),
            anchors: HashMap::new(),
            holder: Holder::start().map_err(failed("start a helper process"))?,
            will,
            report: AttachReport {
                processes: 0,
                threads: 0,
                events: 0,
                ended,
                swept,
                elapsed: Duration::ZERO,
            },
        };
        attachment.publish_helpers();
        attachment.define(groups)?;
        let diagnose = |attachment: &mut Attachment, error: AttachError| match error {
            AttachError::Io { source, .. } if refuses_place(&source) => {
                attachment.find_culprit(groups, alive[0], source)
            }
            other => other,
        };
        for &pid in &alive {
            if let Err(error) = attachment.attach_process(pid, false) {
                return Err(diagnose(&mut attachment, error));
            }
        }
        if let Err(error) = attachment.install(groups) {
            return Err(diagnose(&mut attachment, error));
        }
        attachment.catch_up(existing)?;
        if attachment.processes.is_empty() {
            return Err(AttachError::ProcessEnded { pid: alive[0] });
        }
        let report = &mut attachment.report;
        report.ended.extend(alive.iter().filter(|pid| !attachment.processes.contains_key(pid)));
        report.events = attachment.events.len();
        report.elapsed = start.elapsed();
        Ok(attachment)
    }

    /// What was done so far.
    pub fn report(&self) -> &AttachReport {
        &self.report
    }

    /// Attaches one more process, with all its threads and what they start. For those that no target
    /// has started, and after a setuid exec. Returns the number of its threads.
    pub fn add_process(&mut self, pid: i32) -> Result<usize, AttachError> {
        match stat(pid).map_err(failed("read the process's state in /proc"))? {
            None => return Err(AttachError::ProcessEnded { pid }),
            Some(stat) if stat.kernel_thread => return Err(AttachError::KernelThread { pid }),
            Some(_) => {}
        }
        match self.attach_process(pid, true)? {
            0 => Err(AttachError::ProcessEnded { pid }),
            threads => Ok(threads),
        }
    }

    /// Makes sure of a process that a target has started. To be called for each, soon after its
    /// fork, and again when its leader ends while other threads go on. False when it has ended.
    ///
    /// Inheritance covers it from its first instruction, but not for ever: when the kernel switches
    /// between two tasks whose events are copies of the same ones it may swap them, and the one
    /// that exits first then takes the other's along. Direct children of attached threads are safe,
    /// since those have an event that is not inherited; this is for their children, and for those
    /// of threads started later.
    pub fn anchor(&mut self, pid: i32) -> Result<bool, AttachError> {
        let threads = threads_of(pid).map_err(failed("read the process's threads in /proc"))?;
        'threads: for tid in threads.into_iter().flatten() {
            let mut events = Vec::with_capacity(self.events.len());
            for event in &self.events {
                match perf::open(event.id, Who::ThreadAlone { tid }) {
                    Ok(fd) => events.push(fd),
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue 'threads,
                    Err(error) => return Err(self.explain(error)),
                }
            }
            self.anchors.insert(pid, events);
            self.publish_count();
            return Ok(true);
        }
        self.forget(pid);
        Ok(false)
    }

    /// Frees what [`anchor`](Self::anchor) took for a process that has ended.
    pub fn forget(&mut self, pid: i32) {
        self.anchors.remove(&pid);
        self.publish_count();
    }

    /// Takes everything out. An error means that the tracefs events could not be removed; the
    /// programs run no more and no breakpoint is left in any case.
    pub fn detach(mut self) -> Result<DetachReport, AttachError> {
        self.take_down()
    }

    fn define(&mut self, groups: &[Group<'_>]) -> Result<(), AttachError> {
        for kind in [EventKind::Return, EventKind::Entry] {
            for (index, group) in groups.iter().enumerate() {
                let (name, places) = match kind {
                    EventKind::Return => (format!("return{index}"), &group.returns),
                    EventKind::Entry => (format!("entry{index}"), &group.entries),
                };
                if places.is_empty() {
                    continue;
                }
                if let Some(will) = &self.will {
                    will.page().events[self.events.len()].set_removal(&self.group.removal(&name));
                }
                let places = places.iter().map(|place| (place.file, place.offset));
                let id = self.group.define(&name, kind, places)?;
                if let Some(will) = &self.will {
                    will.page().events[self.events.len()].id.store(id, Ordering::Release);
                }
                self.events.push(Event { id, kind, program: None });
            }
        }
        Ok(())
    }

    /// Opens the events for all threads of `pid` until a pass over them finds no new one. Returns
    /// how many there were; 0 when the process has ended.
    ///
    /// `walk`: install the breakpoints in it now; else the caller does so for all at once.
    fn attach_process(&mut self, pid: i32, walk: bool) -> Result<usize, AttachError> {
        let mut known = HashSet::new();
        // By event: a thread may end between the opens of two events.
        let mut walked = vec![!walk; self.events.len()];
        let mut attached = 0;
        let mut events = Vec::new();
        loop {
            let listed = threads_of(pid).map_err(failed("read the process's threads in /proc"))?;
            let new: Vec<i32> =
                listed.into_iter().flatten().filter(|&tid| known.insert(tid)).collect();
            if new.is_empty() {
                break;
            }
            events.reserve(new.len() * (self.events.len() + 1));
            for tid in new {
                attached += usize::from(self.attach_thread(tid, &mut walked, &mut events)?);
            }
        }
        if attached > 0 {
            self.processes.entry(pid).or_default().append(&mut events);
            self.publish_count();
        }
        self.report.processes = self.processes.len();
        self.report.threads += attached;
        Ok(attached)
    }

    /// Adds to `events`. False when the thread has ended.
    fn attach_thread(
        &self,
        tid: i32,
        walked: &mut [bool],
        events: &mut Vec<OwnedFd>,
    ) -> Result<bool, AttachError> {
        for (event, walked) in self.events.iter().zip(walked) {
            match perf::open(event.id, Who::Thread { tid, walk: !*walked }) {
                Ok(fd) => {
                    events.push(fd);
                    *walked = true;
                }
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(false),
                Err(error) => return Err(self.explain(error)),
            }
        }
        match perf::open_marker(tid) {
            Ok(fd) => events.push(fd),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(false),
            Err(error) => return Err(self.explain(error)),
        }
        Ok(true)
    }

    /// The one walk, and the programs.
    fn install(&mut self, groups: &[Group<'_>]) -> Result<(), AttachError> {
        let with_returns = groups.iter().filter(|group| !group.returns.is_empty());
        let with_entries = groups.iter().filter(|group| !group.entries.is_empty());
        // In the order in which `define` made the events.
        let programs: Vec<BorrowedFd<'_>> = with_returns
            .map(|group| group.return_program)
            .chain(with_entries.map(|group| group.entry_program))
            .collect();
        for (index, program) in programs.into_iter().enumerate() {
            let id = self.events[index].id;
            let fd = perf::open(id, Who::ThreadAlone { tid: self.holder.pid() })
                .map_err(|error| self.explain(error))?;
            perf::set_program(fd.as_fd(), program).map_err(|source| {
                match source.raw_os_error() {
                    Some(libc::EPERM | libc::EACCES) => AttachError::Permission {
                        action: "set a BPF program on an event",
                        needs: "CAP_BPF and CAP_PERFMON",
                    },
                    _ => failed("set a BPF program on an event")(source),
                }
            })?;
            if let Some(will) = &self.will {
                will.page().events[index].program.store(fd.as_raw_fd(), Ordering::Release);
            }
            self.events[index].program = Some(fd);
        }
        Ok(())
    }

    /// Attaches what was started while this attached: threads by threads that were not attached
    /// yet, and children of those.
    fn catch_up(&mut self, mut existing: HashSet<i32>) -> Result<(), AttachError> {
        loop {
            let now = processes().map_err(failed("read /proc"))?;
            let mut children = Vec::new();
            for &pid in now.difference(&existing) {
                let parent = stat(pid).map_err(failed("read a process's state in /proc"))?;
                if parent.is_some_and(|stat| self.processes.contains_key(&stat.parent)) {
                    children.push(pid);
                }
            }
            if children.is_empty() {
                return Ok(());
            }
            for pid in children {
                self.attach_process(pid, true)?;
            }
            existing.extend(now);
        }
    }

    /// Which place it is that the kernel refuses, found by trying each alone.
    fn find_culprit(&mut self, groups: &[Group<'_>], pid: i32, source: io::Error) -> AttachError {
        // The breakpoints of all places together, else each would be tried on top of them.
        self.processes.clear();
        self.anchors.clear();
        for group in groups {
            let returns = group.returns.iter().map(|place| (EventKind::Return, place));
            let entries = group.entries.iter().map(|place| (EventKind::Entry, place));
            for (kind, place) in returns.chain(entries) {
                let places = std::iter::once((place.file, place.offset));
                let refused = match self.group.define("single", kind, places) {
                    Err(error) => return error,
                    Ok(id) => perf::open(id, Who::ThreadAlone { tid: pid }).err(),
                };
                if let Err(error) = self.group.remove_unused("single") {
                    return error;
                }
                if let Some(error) = refused.filter(refuses_place) {
                    return refusal(place.file, place.offset, error);
                }
            }
        }
        failed("open a perf event on a probe point")(source)
    }

    fn explain(&self, error: io::Error) -> AttachError {
        match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => AttachError::Permission {
                action: "open perf events on the process",
                needs: "CAP_PERFMON, and CAP_SYS_PTRACE for processes of other users",
            },
            Some(libc::EMFILE) => AttachError::TooManyFiles {
                threads: self.report.threads + 1,
                needed: (self.report.threads + 1) * (self.events.len() + 1) + 64,
                limit: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
            },
            _ => failed("open a perf event on a probe point")(error),
        }
    }

    fn publish_helpers(&self) {
        let Some(will) = &self.will else { return };
        let page = will.page();
        let pipe = self.holder.alive().map_or(will::NONE, AsRawFd::as_raw_fd);
        page.holder.store(pipe, Ordering::Release);
        page.tracefs.store(self.group.tracefs().dir().as_raw_fd(), Ordering::Release);
        page.token.store(self.group.token(), Ordering::Release);
    }

    /// Address spaces that a detach has to clear.
    fn covered(&self) -> usize {
        self.processes.len() + self.anchors.len()
    }

    fn publish_count(&self) {
        if let Some(will) = &self.will {
            will.page().processes.store(self.covered() as u32, Ordering::Release);
        }
    }

    fn take_down(&mut self) -> Result<DetachReport, AttachError> {
        let start = Instant::now();
        // With its task gone, closing the holder's events needs no walk.
        self.holder.end();
        for kind in [EventKind::Entry, EventKind::Return] {
            for event in self.events.iter_mut().filter(|event| event.kind == kind) {
                event.program = None;
            }
        }
        let silent_after = start.elapsed();
        // Only now, without programs, may bystanders hit the breakpoints.
        let everyone: Vec<OwnedFd> = if self.covered() > DIRECT_DETACH_MAX {
            self.events
                .iter()
                .filter_map(|event| perf::open(event.id, Who::Everyone).ok())
                .collect()
        } else {
            Vec::new()
        };
        self.processes.clear();
        self.anchors.clear();
        drop(everyone);
        self.events.clear();
        let events_removed = self.group.remove();
        if let Some(will) = self.will.take() {
            will.clear();
        }
        Ok(DetachReport { events_removed: events_removed?, silent_after, elapsed: start.elapsed() })
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            log::warn!("{error}");
        }
    }
}

/// The kernel does not want a breakpoint at one of the places. 524 is ENOTSUPP, an errno that is
/// not meant for userspace but gets there: the instruction is itself a breakpoint.
fn refuses_place(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EIO | libc::EOPNOTSUPP | libc::ENOEXEC | libc::EILSEQ | 524)
    )
}

/// To the hard limit; failing that, opens will say so.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            log::debug!("the limit of open files stays as it is: {error}");
        }
    }
}
