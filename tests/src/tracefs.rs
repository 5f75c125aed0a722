//! The kernel's list of uprobe events, to see that memtrace leaves none behind.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The lines of `uprobe_events` that are memtrace's own and of this memtrace process. Empty when
/// tracefs isn't mounted.
pub fn events_of(memtrace_pid: u32) -> Vec<String> {
    let pid = memtrace_pid.to_string();
    let digits = |c: char| !c.is_ascii_digit();
    let text = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
        .iter()
        .find_map(|root| fs::read_to_string(PathBuf::from(root).join("uprobe_events")).ok());
    let text = text.unwrap_or_default();
    let ours = |line: &&str| {
        let group = line.split('/').next().unwrap_or_default();
        group.contains("memtrace") && group.split(digits).any(|number| number == pid)
    };
    text.lines().filter(ours).map(str::to_owned).collect()
}

/// Waits until none of them is left.
///
/// # Errors
/// Some are after `limit`.
pub fn wait_until_clean(memtrace_pid: u32, limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    loop {
        let left = events_of(memtrace_pid);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("memtrace {memtrace_pid} left uprobe events behind: {left:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}
