//! The programs under which a pair is measured.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::target::Target;
use crate::run::{run, shown, wait_within, which};

const ATTACH_WITHIN: Duration = Duration::from_secs(20);
const DETACH_WITHIN: Duration = Duration::from_secs(60);

/// What a leak hunter would type: size and stack of every live block.
const BPFTRACE: &str = "\
uprobe:LIBC:malloc { @size[tid] = arg0; }
uretprobe:LIBC:malloc { @bytes[retval] = @size[tid]; @stack[retval] = ustack; delete(@size[tid]); }
uprobe:LIBC:free { delete(@bytes[arg0]); delete(@stack[arg0]); }
END { clear(@size); clear(@bytes); clear(@stack); }";

/// A tracer that is attached to a process; ended when dropped.
pub struct Tracer {
    child: Child,
    log: PathBuf,
}

impl Tracer {
    /// `memtrace record`, once it says that it records.
    pub fn memtrace(memtrace: &Path, pid: u32, recording: &Path, log: &Path) -> Result<Self> {
        let mut command = Command::new(memtrace);
        command.args(["record", "--verbose", "-p", &pid.to_string(), "-o"]).arg(recording);
        let mut tracer = Self::start(&mut command, log)?;
        tracer.wait_for("recording pid")?;
        Ok(tracer)
    }

    /// bpftrace with a script that does what memtrace does.
    pub fn bpftrace(pid: u32, log: &Path) -> Result<Self> {
        let script = BPFTRACE.replace("LIBC", &libc_of(pid)?);
        let mut command = Command::new("bpftrace");
        command.args(["-p", &pid.to_string(), "-e", &script]);
        Self::start(&mut command, log)
    }

    /// memleak of libbpf-tools or of bcc.
    pub fn memleak(program: &Path, pid: u32, log: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        // It prints every so many seconds; not while it is measured.
        command.args(["-p", &pid.to_string(), "1000"]);
        Self::start(&mut command, log)
    }

    /// Waits until its probes slow the target down, for tracers that don't say when they are ready.
    pub fn wait_for_effect(&mut self, target: &mut Target, bare_ns: f64) -> Result<()> {
        let start = Instant::now();
        while target.pair_ns(1_000)? < 10.0 * bare_ns {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ({status})", self.last_words());
            }
            ensure!(
                start.elapsed() < ATTACH_WITHIN,
                "no probe after {} s",
                ATTACH_WITHIN.as_secs()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        // The first of its probes is there; give it time for the others.
        std::thread::sleep(Duration::from_secs(1));
        Ok(())
    }

    fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let both = out.try_clone().context("cannot share the log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(both)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot run {}", shown(command)))?;
        Ok(Self { child, log: log.to_owned() })
    }

    fn wait_for(&mut self, text: &str) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < ATTACH_WITHIN {
            if self.said()?.contains(text) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ({status})", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("not attached after {} s", ATTACH_WITHIN.as_secs())
    }

    fn said(&self) -> Result<String> {
        let bytes =
            fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn last_words(&self) -> String {
        let said = self.said().unwrap_or_default();
        let mut lines = said.lines().rev().map(str::trim).filter(|line| !line.is_empty());
        lines.next().unwrap_or("ended without a word").to_owned()
    }

    /// CPU time that it has used, in ns, all its threads together.
    pub fn cpu_ns(&self) -> Result<u64> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let mut total = 0;
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
            // A thread may have ended since.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            let on_cpu = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
            total += on_cpu.context("unknown schedstat format")?;
        }
        Ok(total)
    }

    /// Memory that it has now, in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let file = File::open(&path).with_context(|| format!("cannot read {path}"))?;
        for line in BufReader::new(file).lines() {
            if let Some(rest) = line?.strip_prefix("VmRSS:") {
                let kib = rest.trim().trim_end_matches(" kB").parse::<u64>();
                return Ok(kib.context("unknown VmRSS format")? * 1024);
            }
        }
        bail!("no VmRSS in {path}")
    }

    /// Waits until it has nothing left to do: it used less than 1 % of a CPU for half a second.
    pub fn wait_idle(&self) -> Result<()> {
        let start = Instant::now();
        let step = Duration::from_millis(500);
        let mut before = self.cpu_ns()?;
        while start.elapsed() < ATTACH_WITHIN {
            std::thread::sleep(step);
            let now = self.cpu_ns()?;
            if now.saturating_sub(before) < step.as_nanos() as u64 / 100 {
                return Ok(());
            }
            before = now;
        }
        bail!("still busy after {} s", ATTACH_WITHIN.as_secs())
    }

    /// Ends it as Ctrl-C does; its exit status and all it said.
    pub fn stop(mut self) -> Result<(ExitStatus, String)> {
        run(Command::new("kill").args(["-INT", &self.child.id().to_string()]))?;
        let status = wait_within(DETACH_WITHIN, &mut self.child)?;
        let status =
            status.with_context(|| format!("did not end within {} s", DETACH_WITHIN.as_secs()))?;
        Ok((status, self.said()?))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The memleak that is on this machine, and what to call it.
pub fn find_memleak() -> Option<(PathBuf, &'static str)> {
    // As Debian 13 calls it, as its makers call it, and bcc's, which needs the kernel's headers.
    let libbpf = "memleak (libbpf-tools)";
    [("memleak-libbpf", libbpf), ("memleak", libbpf), ("memleak-bpfcc", "memleak (bcc)")]
        .into_iter()
        .find_map(|(program, name)| Some((which(program)?, name)))
}

/// The libc that process `pid` has mapped.
fn libc_of(pid: u32) -> Result<String> {
    let path = format!("/proc/{pid}/maps");
    let maps = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mut files = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let libc =
        files.find(|file| file.rsplit('/').next().is_some_and(|name| name.starts_with("libc.so")));
    Ok(libc.context("the program has no libc")?.to_owned())
}

/// The time in ms that the line of `said` beginning with `what` gives first.
pub fn said_ms(said: &str, what: &str) -> Option<f64> {
    let line = said.lines().find(|line| line.starts_with(what))?;
    let (before, _) = line.split_once(" ms")?;
    before.rsplit(' ').next()?.parse().ok()
}

/// Events in `recording` that memtrace says it lost, all causes together.
pub fn lost_events(memtrace: &Path, recording: &Path) -> Result<u64> {
    let mut command = Command::new(memtrace);
    command.arg("report").arg(recording).arg("--json");
    let output = command.output().with_context(|| format!("cannot run {}", shown(&command)))?;
    ensure!(output.status.success(), "{} failed ({})", shown(&command), output.status);
    let report: Value = serde_json::from_slice(&output.stdout).context("no JSON from memtrace")?;
    let losses = report.get("losses").and_then(Value::as_object).context("no losses in it")?;
    // `abandoned_calls` are no losses, `exact` is the sum of it all in a word.
    let counted = losses.iter().filter(|(name, _)| *name != "abandoned_calls" && *name != "exact");
    let counts = counted.map(|(_, count)| count.as_u64());
    counts.sum::<Option<u64>>().context("a loss that is no number")
}

#[cfg(test)]
mod tests {
    use super::said_ms;

    #[test]
    fn times_are_read_from_what_record_says() {
        let said = "  malloc 0x98930+0\nattached 1 thread in 34.6 ms\n\
                    detached in 290.9 ms, silent after 68.0 ms\n";
        assert_eq!(said_ms(said, "attached "), Some(34.6));
        assert_eq!(said_ms(said, "detached "), Some(290.9));
        assert_eq!(said_ms(said, "recorded "), None);
        assert_eq!(said_ms("attached in no time\n", "attached "), None);
    }
}
