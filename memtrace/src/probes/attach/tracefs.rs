//! Uprobe events in tracefs: found or mounted, defined, removed, and swept up after the dead.
//!
//! Removing an event is dangerous: for an event with several probes the kernel checks only the last
//! one for users (`unregister_trace_uprobe` in kernel/trace/trace_uprobe.c, up to 6.18 at least)
//! and frees the others while they are still registered. So a group of events is removed only when
//! it is certain that every perf descriptor for it is gone. That is what the lock is for: an open
//! file description of `uprobe_events` with a byte locked whose number is in the group's name. It is
//! in the same descriptor table as the perf events, so whoever holds copies of those (a watchdog, a
//! child between fork and exec) holds a copy of this too, and the lock lasts until the last copy is
//! closed. It works across PID namespaces, which a look at the pid in the name would not.

use std::ffi::CStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::error::{AttachError, failed};
use crate::kernel::mount::private_mount;

/// Where tracefs is usually mounted; the second is the old place.
const PLACES: [&CStr; 2] = [c"/sys/kernel/tracing", c"/sys/kernel/debug/tracing"];

/// How long a removal waits for the last user of the events to go.
const REMOVE_TIMEOUT: Duration = Duration::from_millis(1000);

/// How long after the last close the events are left alone. An exiting task that inherited an event
/// takes it off its parent's list a few microseconds before it frees it, so for that long the
/// event can be in use although its descriptor is closed. See the module's comment for what a
/// removal would do then.
pub(crate) const STRAGGLERS: Duration = Duration::from_millis(50);

const NEEDS_ROOT: &str = "root, or CAP_SYS_ADMIN and CAP_DAC_OVERRIDE";

/// The root directory of a tracefs.
#[derive(Debug)]
pub(crate) struct Tracefs {
    dir: OwnedFd,
}

impl Tracefs {
    /// The tracefs of this machine; where none is mounted a private one, visible to nobody else and
    /// gone with the descriptor.
    pub(crate) fn open() -> Result<Self, AttachError> {
        for place in PLACES {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let Ok(dir) = openat(CWD, place, flags, Mode::empty()) else { continue };
            match rustix::fs::fstatfs(&dir) {
                Ok(fs) if fs.f_type as u64 == TRACEFS_MAGIC => return Self::with(dir),
                _ => continue,
            }
        }
        Self::mount()
    }

    /// A tracefs mounted for this descriptor alone.
    pub(crate) fn mount() -> Result<Self, AttachError> {
        let dir = private_mount(c"tracefs").map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => {
                AttachError::Permission { action: "mount tracefs", needs: "CAP_SYS_ADMIN" }
            }
            _ => AttachError::NoTracefs { source },
        })?;
        Self::with(dir)
    }

    fn with(dir: OwnedFd) -> Result<Self, AttachError> {
        let tracefs = Tracefs { dir };
        tracefs.uprobe_events(OFlags::WRONLY)?;
        Ok(tracefs)
    }

    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Never opened with O_TRUNC: that would delete the events of every other tool.
    fn uprobe_events(&self, access: OFlags) -> Result<OwnedFd, AttachError> {
        openat(&self.dir, c"uprobe_events", access | OFlags::CLOEXEC, Mode::empty()).map_err(
            |errno| match errno {
                Errno::NOENT => AttachError::NoUprobes,
                Errno::ACCESS | Errno::PERM => AttachError::Permission {
                    action: "define uprobe events in tracefs",
                    needs: NEEDS_ROOT,
                },
                other => failed("open tracefs' uprobe_events")(io::Error::from_raw_os_error(
                    other.raw_os_error(),
                )),
            },
        )
    }

    fn read(&self, path: &str) -> io::Result<String> {
        let fd = openat(&self.dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = String::new();
        std::fs::File::from(fd).read_to_string(&mut text)?;
        Ok(text)
    }

    #[cfg(test)]
    pub(super) fn read_text(&self, path: &str) -> String {
        self.read(path).unwrap()
    }

    /// One command line for `uprobe_events`.
    pub(super) fn command(&self, line: &str) -> Result<(), AttachError> {
        let fd = self.uprobe_events(OFlags::WRONLY)?;
        std::fs::File::from(fd).write_all(line.as_bytes()).map_err(failed("write uprobe_events"))
    }

    /// Removes the events of every memtrace that is dead, whatever killed it. Returns how many.
    pub(crate) fn sweep(&self) -> Result<usize, AttachError> {
        let list = self.read("uprobe_events").map_err(failed("read tracefs' uprobe_events"))?;
        let mut events: Vec<(&str, &str)> = list.lines().filter_map(own_event).collect();
        events.sort_unstable();
        events.dedup();
        let mut removed = 0;
        for of_one_group in events.chunk_by(|a, b| a.0 == b.0) {
            let Some(token) = token_of(of_one_group[0].0) else { continue };
            // Held while the events go, so that two sweepers don't meet.
            let Ok(Some(_lock)) = self.lock(token) else { continue };
            for (group, event) in of_one_group {
                removed += usize::from(self.command(&format!("-:{group}/{event}")).is_ok());
            }
        }
        Ok(removed)
    }

    /// `Ok(None)` when somebody holds it.
    fn lock(&self, token: u64) -> Result<Option<OwnedFd>, AttachError> {
        let fd = self.uprobe_events(OFlags::WRONLY)?;
        match try_lock(fd.as_raw_fd(), token) {
            Ok(()) => Ok(Some(fd)),
            Err(libc::EAGAIN | libc::EACCES) => Ok(None),
            Err(errno) => {
                Err(failed("lock tracefs' uprobe_events")(io::Error::from_raw_os_error(errno)))
            }
        }
    }
}

/// `TRACEFS_MAGIC`
const TRACEFS_MAGIC: u64 = 0x7472_6163;

/// Locks byte `token` of `uprobe_events` for the open file description behind `fd`, or gives the
/// errno. Allocates nothing.
pub(crate) fn try_lock(fd: i32, token: u64) -> Result<(), i32> {
    // SAFETY: flock is a plain struct of integers, for which zero is valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = token as libc::off_t;
    lock.l_len = 1;
    // SAFETY: `lock` lives through the call; the kernel only reads it for F_OFD_SETLK.
    let done = unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &lock) };
    // SAFETY: errno of this thread is always readable.
    if done < 0 { Err(unsafe { *libc::__errno_location() }) } else { Ok(()) }
}

/// `(group, event)` of a line of `uprobe_events` that a memtrace wrote.
fn own_event(line: &str) -> Option<(&str, &str)> {
    let (head, _) = line.split_once(' ')?;
    let (_, name) = head.split_once(':')?;
    let (group, event) = name.split_once('/')?;
    token_of(group).map(|_| (group, event))
}

/// The lock byte in a group name, `memtrace_PID_TOKEN`.
fn token_of(group: &str) -> Option<u64> {
    let (pid, token) = group.strip_prefix("memtrace_")?.split_once('_')?;
    let digits = !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
    if !digits || token.len() != TOKEN_DIGITS {
        return None;
    }
    u64::from_str_radix(token, 16).ok()
}

const TOKEN_DIGITS: usize = 12;

/// Entry events hit when an instruction is reached, return events when its function returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    Entry,
    Return,
}

/// The tracefs events of one attachment, under a group name that no other has.
#[derive(Debug)]
pub(crate) struct EventGroup {
    tracefs: Tracefs,
    name: String,
    token: u64,
    lock: Option<OwnedFd>,
    events: Vec<String>,
}

impl EventGroup {
    pub(crate) fn new(tracefs: Tracefs) -> Result<Self, AttachError> {
        let mut bytes = [0u8; 8];
        // SAFETY: the buffer is as long as is said.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if got != bytes.len() as isize {
            return Err(failed("get a random number")(io::Error::last_os_error()));
        }
        let token = u64::from_ne_bytes(bytes) >> (64 - 4 * TOKEN_DIGITS);
        let name = format!("memtrace_{}_{token:0TOKEN_DIGITS$x}", std::process::id());
        let lock = tracefs.lock(token)?;
        if lock.is_none() {
            return Err(failed("lock tracefs' uprobe_events")(io::ErrorKind::WouldBlock.into()));
        }
        Ok(EventGroup { tracefs, name, token, lock, events: Vec::new() })
    }

    pub(crate) fn tracefs(&self) -> &Tracefs {
        &self.tracefs
    }

    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    /// The line that removes an event of this group from `uprobe_events`.
    pub(crate) fn removal(&self, event: &str) -> String {
        format!("-:{}/{event}", self.name)
    }

    /// Defines one event that holds all these places, of any number of files, and returns its id
    /// for `perf_event_open`.
    ///
    /// Two places that turn out to be one (the same file by two ways, as with overlayfs) are one
    /// probe, not an error.
    pub(crate) fn define<'a>(
        &mut self,
        event: &str,
        kind: EventKind,
        places: impl Iterator<Item = (BorrowedFd<'a>, u64)>,
    ) -> Result<u64, AttachError> {
        let letter = if kind == EventKind::Entry { 'p' } else { 'r' };
        for (file, offset) in places {
            // The descriptor instead of a path: it is the very file whose instructions were looked
            // at, in any mount namespace, deleted or not, and its name needs no quoting.
            let line = format!(
                "{letter}:{}/{event} /proc/self/fd/{}:{offset:#x}",
                self.name,
                file.as_raw_fd()
            );
            if !self.events.iter().any(|known| known == event) {
                self.events.push(event.to_owned());
            }
            match self.tracefs.command(&line) {
                Ok(()) => {}
                Err(AttachError::Io { source, .. })
                    if source.raw_os_error() == Some(libc::EEXIST) => {}
                Err(AttachError::Io { source, .. }) => {
                    return Err(refusal(file, offset, source));
                }
                Err(other) => return Err(other),
            }
        }
        let id = self
            .tracefs
            .read(&format!("events/{}/{event}/id", self.name))
            .map_err(failed("read an event's id from tracefs"))?;
        id.trim().parse().map_err(|_| {
            failed("read an event's id from tracefs")(io::ErrorKind::InvalidData.into())
        })
    }

    /// Leaves the events behind, as a memtrace does that is killed.
    #[cfg(test)]
    pub(crate) fn abandon(mut self) {
        self.lock.take();
        self.events.clear();
    }

    /// Removes one event that nobody has open. For the short-lived ones of the error path.
    pub(crate) fn remove_unused(&mut self, event: &str) -> Result<(), AttachError> {
        self.tracefs.command(&self.removal(event))?;
        self.events.retain(|known| known != event);
        Ok(())
    }

    /// Removes all events once their last user is gone; the caller has closed all its perf events.
    /// Returns false when somebody else still holds some: they are left for a later [`sweep`]
    /// (Tracefs::sweep).
    pub(crate) fn remove(&mut self) -> Result<bool, AttachError> {
        let Some(lock) = self.lock.take() else { return Ok(true) };
        if self.events.is_empty() {
            return Ok(true);
        }
        drop(lock);
        std::thread::sleep(STRAGGLERS);
        let start = Instant::now();
        let _lock = loop {
            match self.tracefs.lock(self.token)? {
                Some(lock) => break lock,
                None if start.elapsed() > REMOVE_TIMEOUT => return Ok(false),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut result = Ok(true);
        for event in std::mem::take(&mut self.events) {
            match self.tracefs.command(&self.removal(&event)) {
                // A definition that failed left nothing to remove.
                Err(AttachError::Io { source, .. })
                    if source.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => result = Err(error),
                Ok(()) => {}
            }
        }
        result
    }
}

/// What the kernel's refusal of one place means.
pub(crate) fn refusal(file: BorrowedFd<'_>, offset: u64, source: io::Error) -> AttachError {
    let name = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map_or_else(|_| "an unnamed file".to_owned(), |path| path.display().to_string());
    let inside = rustix::fs::fstat(file).is_ok_and(|stat| offset < stat.st_size as u64);
    if source.raw_os_error() == Some(libc::EINVAL) && inside {
        AttachError::HeldByAnotherTracer { file: name, offset }
    } else {
        AttachError::BadPlace { file: name, offset, source }
    }
}

#[cfg(test)]
mod tests {
    use super::{own_event, token_of};

    #[test]
    fn only_names_that_memtrace_made_are_its_own() {
        let line = "p:memtrace_12_0123456789ab/entry0 /lib/libc.so.6:0x0000000000000010";
        assert_eq!(own_event(line), Some(("memtrace_12_0123456789ab", "entry0")));
        for foreign in [
            "",
            "p:uprobes/malloc /lib/libc.so.6:0x10",
            "p:memtrace_12/entry0 /lib/libc.so.6:0x10",
            "p:memtrace_x_0123456789ab/entry0 /lib/libc.so.6:0x10",
            "p:memtrace_12_123/entry0 /lib/libc.so.6:0x10",
            "p:memtrace_12_0123456789zz/entry0 /lib/libc.so.6:0x10",
            "p:memtrace__0123456789ab/entry0 /lib/libc.so.6:0x10",
        ] {
            assert_eq!(own_event(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_token_is_the_hexadecimal_number_at_the_end() {
        assert_eq!(token_of("memtrace_1_00000000ffff"), Some(0xffff));
    }
}
