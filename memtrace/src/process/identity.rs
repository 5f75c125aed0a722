//! Who a process is: start time, names, threads, size.

use std::{fs, path::PathBuf};

use super::ProcessError;

/// A process that can't be confused with a later one of the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// In the PID namespace of the /proc that was read.
    pub pid: u32,
    /// Field 22 of /proc/PID/stat: clock ticks (USER_HZ) between boot and the process's start.
    pub start_ticks: u64,
}

/// The fields of /proc/PID/stat that are of use here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Up to 15 bytes, chosen by the program: may hold spaces, parentheses, newlines.
    pub comm: String,
    /// `R`, `S`, `D`, `Z` (zombie), `T`, …
    pub state: char,
    pub parent: u32,
    /// Kernel threads have no user memory at all.
    pub is_kernel_thread: bool,
    /// See [`Identity::start_ticks`].
    pub start_ticks: u64,
}

/// `PF_KTHREAD` in the kernel's `include/linux/sched.h`.
const PF_KTHREAD: u32 = 0x0020_0000;

impl Identity {
    /// The process that has this pid now.
    ///
    /// # Errors
    /// All of [`ProcessError`].
    pub fn of(pid: u32) -> Result<Self, ProcessError> {
        Ok(Self { pid, start_ticks: stat(pid)?.start_ticks })
    }

    /// True while this very process exists (as a zombie, too).
    pub fn is_alive(self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == self)
    }
}

/// Reads /proc/PID/stat.
///
/// # Errors
/// All of [`ProcessError`].
pub fn stat(pid: u32) -> Result<Stat, ProcessError> {
    let bytes = read(pid, "stat")?;
    parse_stat(&bytes).ok_or(ProcessError::Malformed { pid, entry: "stat" })
}

/// The comm field is the only one that may hold a `)`, so it ends at the line's last one.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let open = bytes.iter().position(|&b| b == b'(')?;
    let close = bytes.iter().rposition(|&b| b == b')')?;
    let comm = String::from_utf8_lossy(bytes.get(open + 1..close)?).into_owned();
    let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
    // The first field of the rest is number 3 in proc_pid_stat(5).
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let flags: u32 = fields.nth(9 - 5)?.parse().ok()?;
    let start_ticks = fields.nth(22 - 10)?.parse().ok()?;
    Some(Stat { comm, state, parent, is_kernel_thread: flags & PF_KTHREAD != 0, start_ticks })
}

/// The arguments of the process, lossily as text. Empty for zombies and kernel threads, and for
/// programs that overwrote their arguments with nothing.
///
/// # Errors
/// All of [`ProcessError`].
pub fn command_line(pid: u32) -> Result<Vec<String>, ProcessError> {
    let bytes = read(pid, "cmdline")?;
    let mut arguments: Vec<String> =
        bytes.split(|&b| b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
    // Every argument ends with a NUL; a program that rewrote its title may have left many of them.
    while arguments.last().is_some_and(String::is_empty) {
        arguments.pop();
    }
    Ok(arguments)
}

/// The name of the process's main thread, or of the thread when given a thread id.
///
/// # Errors
/// All of [`ProcessError`].
pub fn comm(pid: u32) -> Result<String, ProcessError> {
    Ok(trimmed(read(pid, "comm")?))
}

/// The name of one thread.
///
/// # Errors
/// All of [`ProcessError`]; [`ProcessError::NoSuchProcess`] when only the thread is gone, too.
pub fn thread_comm(pid: u32, tid: u32) -> Result<String, ProcessError> {
    let path = format!("/proc/{pid}/task/{tid}/comm");
    fs::read(path).map(trimmed).map_err(|e| ProcessError::from_io(pid, "task/TID/comm", e))
}

fn trimmed(mut bytes: Vec<u8>) -> String {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The ids of all threads, ascending. Threads that start while the list is read may be missing.
///
/// # Errors
/// All of [`ProcessError`].
pub fn threads(pid: u32) -> Result<Vec<u32>, ProcessError> {
    let fail = |e| ProcessError::from_io(pid, "task", e);
    let mut tids = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        tids.extend(name.to_str().and_then(|n| n.parse::<u32>().ok()));
    }
    tids.sort_unstable();
    // The directory of a process that ends while it is read comes out empty.
    if tids.is_empty() { Err(ProcessError::NoSuchProcess { pid }) } else { Ok(tids) }
}

/// Resident set in bytes, 0 for zombies and kernel threads. The kernel sums it from per-CPU
/// counters without looking at pages, so it is cheap and a few pages off.
///
/// # Errors
/// All of [`ProcessError`].
pub fn rss_bytes(pid: u32) -> Result<u64, ProcessError> {
    let text = read(pid, "statm")?;
    let pages: u64 = std::str::from_utf8(&text)
        .ok()
        .and_then(|t| t.split_ascii_whitespace().nth(1)?.parse().ok())
        .ok_or(ProcessError::Malformed { pid, entry: "statm" })?;
    Ok(pages.saturating_mul(rustix::param::page_size() as u64))
}

/// The process's id in each PID namespace it is in, from the one of /proc inwards.
///
/// # Errors
/// All of [`ProcessError`].
pub fn namespace_pids(pid: u32) -> Result<Vec<u32>, ProcessError> {
    status_numbers(pid, "NSpid:")
}

/// The process that a thread id belongs to: the same number for a process's main thread.
///
/// # Errors
/// All of [`ProcessError`].
pub fn thread_group(tid: u32) -> Result<u32, ProcessError> {
    status_numbers(tid, "Tgid:")?
        .first()
        .copied()
        .ok_or(ProcessError::Malformed { pid: tid, entry: "status" })
}

/// The first line of /proc/PID/status is the name with newlines escaped, so no name can imitate
/// another line.
fn status_numbers(pid: u32, key: &str) -> Result<Vec<u32>, ProcessError> {
    let bytes = read(pid, "status")?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|v| v.split_ascii_whitespace().map(|n| n.parse().ok()).collect())
        .ok_or(ProcessError::Malformed { pid, entry: "status" })
}

/// The file that the process runs, as the process sees it. None for kernel threads and zombies.
///
/// # Errors
/// All of [`ProcessError`].
pub fn executable(pid: u32) -> Result<Option<PathBuf>, ProcessError> {
    match fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(path) => Ok(Some(path)),
        Err(e) => match ProcessError::from_io(pid, "exe", e) {
            // ENOENT means "no process" as well as "no executable".
            ProcessError::NoSuchProcess { .. } => stat(pid).map(|_| None),
            other => Err(other),
        },
    }
}

fn read(pid: u32, entry: &'static str) -> Result<Vec<u8>, ProcessError> {
    fs::read(format!("/proc/{pid}/{entry}")).map_err(|e| ProcessError::from_io(pid, entry, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comm_with_parentheses_and_newline_does_not_shift_the_fields() {
        let line = b"42 (a) R (b\n) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2 3\n";
        let stat = parse_stat(line).expect("parses");
        assert_eq!(stat.comm, "a) R (b\n");
        assert_eq!((stat.state, stat.parent, stat.start_ticks), ('S', 7, 98765));
        assert!(!stat.is_kernel_thread);
    }

    #[test]
    fn broken_stat_is_refused() {
        for bytes in [&b""[..], b"1", b"1 (", b"1 )(", b"1 (x) S", b"1 (x) S 1 2 3 4 5 x"] {
            assert_eq!(parse_stat(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn own_process_is_described() {
        let pid = std::process::id();
        let me = Identity::of(pid).expect("identity");
        assert!(me.is_alive());
        assert!(!Identity { start_ticks: me.start_ticks + 1, ..me }.is_alive());
        let arguments: Vec<_> =
            std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
        assert_eq!(command_line(pid).expect("command line"), arguments);
        assert!(rss_bytes(pid).expect("rss") > 100_000);
        assert!(threads(pid).expect("threads").contains(&pid));
        assert_eq!(namespace_pids(pid).expect("namespaces").first(), Some(&pid));
        assert_eq!(executable(pid).expect("exe"), std::env::current_exe().ok());
        assert_eq!(stat(pid).expect("stat").parent, std::os::unix::process::parent_id());
    }

    #[test]
    fn thread_id_leads_to_its_process() {
        let pid = std::process::id();
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        assert_eq!(thread_group(tid).expect("group"), pid);
        let name = std::thread::current().name().unwrap_or("").to_owned();
        // The kernel keeps 15 bytes of it.
        assert!(name.starts_with(&thread_comm(pid, tid).expect("comm")));
    }

    #[test]
    fn vanished_process_is_no_such_process() {
        // Beyond the largest pid_max of a 64-bit kernel (4 Mi).
        let pid = 0x7fff_fff0;
        assert!(matches!(stat(pid), Err(ProcessError::NoSuchProcess { .. })));
        assert!(matches!(threads(pid), Err(ProcessError::NoSuchProcess { .. })));
        assert!(matches!(rss_bytes(pid), Err(ProcessError::NoSuchProcess { .. })));
        assert!(matches!(executable(pid), Err(ProcessError::NoSuchProcess { .. })));
    }
}
