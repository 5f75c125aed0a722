//! Child processes that never outlive their test, with a time limit on every wait.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// The usual limit of one wait.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A child process with its output being collected. Dropped while it runs, also by a panic, it is
/// ended by its pid, and so are its children.
pub struct Running {
    child: Child,
    name: String,
    stdin: Option<ChildStdin>,
    out: Collected,
    err: Collected,
    ended: Option<ExitStatus>,
}

/// A process that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// Which output to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}

impl Running {
    /// Starts a program with all three standard streams piped.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(program: &Path, args: &[impl AsRef<OsStr>]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(args);
        Self::spawn(command)
    }

    /// As [`Running::start`], for a command with settings of its own.
    ///
    /// # Errors
    /// It can't be started.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let program = command.get_program();
        let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let stdin = child.stdin.take();
        let out = Collected::of(child.stdout.take().context("no stdout")?);
        let err = Collected::of(child.stderr.take().context("no stderr")?);
        Ok(Self { child, name, stdin, out, err, ended: None })
    }

    /// A truth program that waits, after it said that it is ready.
    ///
    /// # Errors
    /// It can't be started or isn't ready in time.
    pub fn ready(program: &Path, args: &[impl AsRef<OsStr>]) -> Result<Self> {
        let running = Self::start(program, args)?;
        running.line(Output::Stdout, "ready", PATIENCE)?;
        Ok(running)
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its stdin.
    ///
    /// # Errors
    /// It has closed its stdin.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("stdin is closed")?;
        // In one piece: a program may act on the first byte and be gone before the last.
        let Err(error) = stdin.write_all(format!("{line}\n").as_bytes()) else { return Ok(()) };
        let limit = Instant::now() + Duration::from_secs(1);
        while self.is_running()? && Instant::now() < limit {
            thread::sleep(Duration::from_millis(5));
        }
        bail!(
            "cannot write to {} (pid {}): {error}; status {:?}; stdout: {}; stderr: {}",
            self.name,
            self.pid(),
            self.ended,
            self.out.text(),
            self.err.text()
        )
    }

    /// Ends its stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for a whole line that begins with `start`.
    ///
    /// # Errors
    /// The time is over or the stream has ended; the error shows what was said instead.
    pub fn line(&self, output: Output, start: &str, limit: Duration) -> Result<String> {
        let stream = if output == Output::Stdout { &self.out } else { &self.err };
        let found = stream.wait(limit, |bytes| {
            let complete = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
            let text = String::from_utf8_lossy(&bytes[..complete]);
            text.lines().find(|line| line.starts_with(start)).map(str::to_owned)
        });
        found.map_err(|why| {
            anyhow::anyhow!(
                "{} (pid {}) printed no line `{start}…` ({why}); stdout: {}; stderr: {}",
                self.name,
                self.pid(),
                self.out.text(),
                self.err.text()
            )
        })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        ensure!(self.ended.is_none(), "{} has ended", self.name);
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("cannot signal {}", self.name))
    }

    /// True while it runs.
    ///
    /// # Errors
    /// It can't be waited for.
    pub fn is_running(&mut self) -> Result<bool> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended.is_none())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after `limit`; it is killed then.
    pub fn wait(mut self, limit: Duration) -> Result<Finished> {
        let until = Instant::now() + limit;
        while self.is_running()? {
            if Instant::now() > until {
                let (out, err) = (self.out.text(), self.err.text());
                let state = state_of(self.pid());
                bail!(
                    "{} (pid {}, state {state:?}) still runs after {limit:?}; stdout: {out}; stderr: {err}",
                    self.name,
                    self.pid()
                );
            }
            thread::sleep(Duration::from_millis(2));
        }
        let status = self.ended.context("no status")?;
        // A background grandchild may hold the pipes; what came until now is what counts.
        self.out.wait_for_end(Duration::from_secs(5));
        self.err.wait_for_end(Duration::from_secs(5));
        Ok(Finished { status, stdout: self.out.bytes(), stderr: self.err.text() })
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.err.text()
    }
}

impl Finished {
    /// This, if its exit status is 0.
    ///
    /// # Errors
    /// It isn't; the error shows all output.
    pub fn success(self) -> Result<Self> {
        let (status, err) = (self.status, &self.stderr);
        let out = String::from_utf8_lossy(&self.stdout);
        ensure!(status.success(), "ended with {status}; stdout: {out}; stderr: {err}");
        Ok(self)
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.is_running(), Ok(true)) {
            return;
        }
        // Its targets first. memtrace's own helper (the watchdog) ends by itself and must be left
        // to clean up.
        for child in children_of(self.pid()) {
            let exe = fs::read_link(format!("/proc/{child}/exe")).unwrap_or_default();
            if !exe.ends_with("memtrace") {
                end_tree(child);
            }
        }
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let until = Instant::now() + Duration::from_secs(2);
        while matches!(self.is_running(), Ok(true)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        if matches!(self.is_running(), Ok(true)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn end_tree(pid: u32) {
    let children = children_of(pid);
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
    children.into_iter().for_each(end_tree);
}

/// The direct children of all threads of a process.
pub fn children_of(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.flatten().map(|t| fs::read_to_string(t.path().join("children")));
    lists.flatten().flat_map(|list| numbers(&list)).collect()
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace().filter_map(|n| n.parse().ok()).collect()
}

/// The state letter of /proc/PID/stat; None when there is no such process.
pub fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// A stream that a thread reads until its end.
struct Collected(Arc<(Mutex<Buffer>, Condvar)>);

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    ended: bool,
}

impl Collected {
    fn of(mut stream: impl Read + Send + 'static) -> Self {
        let shared = Arc::new((Mutex::new(Buffer::default()), Condvar::new()));
        let ours = Self(Arc::clone(&shared));
        thread::spawn(move || {
            let mut chunk = [0; 65536];
            loop {
                let n = stream.read(&mut chunk).unwrap_or(0);
                let mut buffer = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
                buffer.bytes.extend_from_slice(&chunk[..n]);
                buffer.ended = n == 0;
                shared.1.notify_all();
                if n == 0 {
                    return;
                }
            }
        });
        ours
    }

    /// Waits until `find` finds something in what was read so far.
    fn wait<T>(
        &self,
        limit: Duration,
        find: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, &'static str> {
        let until = Instant::now() + limit;
        let mut buffer = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = find(&buffer.bytes) {
                return Ok(found);
            }
            if buffer.ended {
                return Err("it closed the stream");
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("time is over");
            }
            buffer = self.0.1.wait_timeout(buffer, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn wait_for_end(&self, limit: Duration) {
        let _ = self.wait::<()>(limit, |_| None);
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).bytes.clone()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Running {
        Running::start(Path::new("/bin/sh"), &["-c", script]).unwrap()
    }

    #[test]
    fn output_and_status_are_collected() {
        let finished = shell("read x; echo got $x; echo bad >&2; exit 3");
        let mut finished = finished;
        finished.say("word").unwrap();
        let finished = finished.wait(PATIENCE).unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.text(), "got word\n");
        assert_eq!(finished.stderr, "bad\n");
        assert!(finished.success().is_err());
    }

    #[test]
    fn a_line_that_never_comes_is_an_error_with_what_came() {
        let error = shell("echo other").line(Output::Stdout, "ready", PATIENCE).unwrap_err();
        assert!(error.to_string().contains("other"), "{error}");
        let silent = shell("sleep 100");
        let error = silent.line(Output::Stdout, "ready", Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("time is over"), "{error}");
    }

    #[test]
    fn a_dropped_process_and_its_children_are_ended() {
        let running = shell("sleep 100 & echo $!; wait");
        let line = running.line(Output::Stdout, "", PATIENCE).unwrap();
        let (pid, child) = (running.pid(), line.parse().unwrap());
        drop(running);
        assert_eq!(state_of(pid), None);
        let until = Instant::now() + Duration::from_secs(5);
        while !matches!(state_of(child), None | Some('Z')) {
            assert!(Instant::now() < until, "the child of a dropped process runs on");
        }
    }

    #[test]
    fn a_wait_has_its_limit() {
        let error = shell("sleep 100").wait(Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("still runs"), "{error}");
    }
}
