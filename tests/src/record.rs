//! Runs `memtrace record`, waits until its probes are in, stops it, reads its file.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Finished, Output, PATIENCE, Running};
use crate::report::Report;
use crate::{paths, tracefs};

/// Settings of a recording to be started.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    options: Vec<OsString>,
    file: Option<PathBuf>,
}

/// A recording under way.
pub struct Recording {
    pub memtrace: Running,
    /// Number of probes in the line that it printed; None with a command, where the line isn't
    /// waited for.
    pub probes: Option<u32>,
    file: PathBuf,
    _directory: TempDir,
}

/// A recording that has ended.
pub struct Recorded {
    pub finished: Finished,
    pub file: PathBuf,
    _directory: TempDir,
}

impl Recorder {
    /// `memtrace record` with no options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an option (with its value as a second call).
    pub fn with(mut self, option: impl Into<OsString>) -> Self {
        self.options.push(option.into());
        self
    }

    /// Never loses an event.
    pub fn lossless(self) -> Self {
        self.with("--lossless")
    }

    /// Writes to this file instead of one in a temporary directory.
    pub fn file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    /// Attaches to running processes; returns when the probes are in.
    ///
    /// # Errors
    /// memtrace can't be started or doesn't say `recording pid` in time.
    pub fn attach(&self, pids: &[u32]) -> Result<Recording> {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let mut recording = self.start(&["-p".into(), pids.join(",").into()])?;
        let line = recording.memtrace.line(Output::Stderr, "recording pid", PATIENCE)?;
        recording.probes = Some(probes_in(&line)?);
        Ok(recording)
    }

    /// Runs a command under memtrace.
    ///
    /// # Errors
    /// memtrace can't be started.
    pub fn command(&self, program: &Path, args: &[impl AsRef<OsStr>]) -> Result<Recording> {
        let mut all = vec![OsString::from("--"), program.into()];
        all.extend(args.iter().map(|a| a.as_ref().to_owned()));
        self.start(&all)
    }

    /// The command line, for tests that expect it to fail: `record OPTIONS -o FILE TARGET`.
    pub fn command_line(&self, file: &Path, target: &[OsString]) -> Command {
        let mut command = Command::new(paths::memtrace());
        command.arg("record").args(&self.options).arg("-o").arg(file).args(target);
        command
    }

    fn start(&self, target: &[OsString]) -> Result<Recording> {
        let directory = tempfile::tempdir()?;
        let file = self.file.clone().unwrap_or_else(|| directory.path().join("out.mtrc"));
        let memtrace = Running::spawn(self.command_line(&file, target))?;
        Ok(Recording { memtrace, probes: None, file, _directory: directory })
    }
}

/// The number in `recording pid 123 (11 probes)`.
fn probes_in(line: &str) -> Result<u32> {
    let count = line.split_once('(').and_then(|(_, rest)| rest.split_once(" probes)"));
    let count = count.with_context(|| format!("no `(N probes)` in `{line}`"))?.0;
    count.parse().with_context(|| format!("no number of probes in `{line}`"))
}

impl Recording {
    /// The file being written.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Interrupts it as Ctrl-C does and waits for its end.
    ///
    /// # Errors
    /// As [`Recording::end`].
    pub fn stop(self) -> Result<Recorded> {
        self.memtrace.signal(Signal::INT)?;
        self.end(PATIENCE)
    }

    /// Waits for its end and checks that it left no probe behind.
    ///
    /// # Errors
    /// It doesn't end in time, or uprobe events of it are left.
    pub fn end(self, limit: Duration) -> Result<Recorded> {
        let pid = self.memtrace.pid();
        let finished = self.memtrace.wait(limit)?;
        tracefs::wait_until_clean(pid, Duration::from_secs(2))?;
        Ok(Recorded { finished, file: self.file, _directory: self._directory })
    }
}

impl Recorded {
    /// Its report, when memtrace ended with status 0.
    ///
    /// # Errors
    /// It ended otherwise, or its file can't be reported.
    pub fn report(&self) -> Result<Report> {
        self.finished.clone().success().context("memtrace record")?;
        self.report_anyway()
    }

    /// Its report, whatever the exit status.
    ///
    /// # Errors
    /// Its file can't be reported.
    pub fn report_anyway(&self) -> Result<Report> {
        ensure!(self.file.exists(), "no recording; stderr: {}", self.finished.stderr);
        Report::read(&self.file).with_context(|| format!("stderr: {}", self.finished.stderr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_promised_line_tells_the_number_of_probes() {
        assert_eq!(probes_in("recording pid 123 (11 probes)").unwrap(), 11);
        assert!(probes_in("recording pid 123").is_err());
        assert!(probes_in("recording pid 123 (no probes)").is_err());
    }
}
