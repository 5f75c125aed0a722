//! Which threads and processes exist, from /proc.

use std::collections::HashSet;
use std::fs;
use std::io;

/// Thread ids of a process. `Ok(None)` when there is no such process.
pub(super) fn threads_of(pid: i32) -> io::Result<Option<Vec<i32>>> {
    let entries = match fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(entries) => entries,
        Err(error) if gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut threads = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => threads.extend(number(&entry)),
            Err(error) if gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(threads))
}

/// Every process there is.
pub(super) fn processes() -> io::Result<HashSet<i32>> {
    Ok(fs::read_dir("/proc")?.flatten().filter_map(|entry| number(&entry)).collect())
}

/// What attaching needs to know from `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) parent: i32,
    pub(super) kernel_thread: bool,
    pub(super) zombie: bool,
}

/// `Ok(None)` when there is no such process.
pub(super) fn stat(pid: i32) -> io::Result<Option<Stat>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(bytes) => Ok(parse_stat(&bytes)),
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

const PF_KTHREAD: u32 = 0x0020_0000;

fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    // The name in parentheses may hold anything, parentheses too; the last one closes it.
    let end = bytes.iter().rposition(|&b| b == b')')?;
    let rest = std::str::from_utf8(bytes.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let flags: u32 = fields.nth(4)?.parse().ok()?;
    Some(Stat {
        parent,
        kernel_thread: flags & PF_KTHREAD != 0,
        zombie: matches!(state, "Z" | "X" | "x"),
    })
}

fn number(entry: &fs::DirEntry) -> Option<i32> {
    entry.file_name().to_str()?.parse().ok()
}

/// A process that vanishes while it is read gives ENOENT or ESRCH.
fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

#[cfg(test)]
mod tests {
    use super::{Stat, parse_stat, stat, threads_of};

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let line = b"42 (a) Z 7 (b) S 17 42 42 0 -1 2097152 0 0\n";
        let want = Stat { parent: 17, kernel_thread: true, zombie: false };
        assert_eq!(parse_stat(line), Some(want));
    }

    #[test]
    fn a_cut_line_is_not_understood_rather_than_a_panic() {
        for line in [&b""[..], b"42", b"42 (x)", b"42 (x) S", b"42 (x) S 1 2 3 4 5"] {
            assert_eq!(parse_stat(line), None);
        }
    }

    #[test]
    fn this_process_has_its_own_thread_and_a_parent() {
        let me = std::process::id() as i32;
        assert!(threads_of(me).unwrap().unwrap().contains(&me));
        let mine = stat(me).unwrap().unwrap();
        assert!(!mine.kernel_thread && !mine.zombie);
        assert_eq!(mine.parent, std::os::unix::process::parent_id() as i32);
    }

    #[test]
    fn a_process_that_does_not_exist_is_none() {
        assert_eq!(threads_of(i32::MAX).unwrap(), None);
        assert_eq!(stat(i32::MAX).unwrap(), None);
    }
}
