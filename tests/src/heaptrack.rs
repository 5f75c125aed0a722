//! Debian's heaptrack as the second opinion: its numbers by stack.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// A program's run under heaptrack.
pub struct Heaptrack {
    data: PathBuf,
    directory: TempDir,
}

/// What heaptrack counts a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    Allocations,
    Temporary,
    Leaked,
    /// At the moment of the highest total.
    Peak,
}

/// One line of the folded stacks: frames outermost first, and the number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded {
    pub frames: Vec<String>,
    pub cost: u64,
}

impl Folded {
    /// True for the blocks that heaptrack itself brings along: it preloads libstdc++, whose
    /// initialiser (run by the loader, not by the program) makes its emergency pool of 72,704
    /// bytes for exceptions.
    pub fn is_start_up(&self) -> bool {
        self.frames.iter().any(|f| f.starts_with("_dl_init"))
    }
}

impl Heaptrack {
    /// Runs the program to its end.
    ///
    /// # Errors
    /// heaptrack is missing or fails.
    pub fn run(program: &Path, args: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let base = directory.path().join("data");
        let output = Command::new("heaptrack")
            .arg("-o")
            .arg(&base)
            .arg(program)
            .args(args)
            .output()
            .context("cannot run heaptrack; install Debian's package heaptrack")?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "heaptrack: {}: {text}", output.status);
        let files = fs::read_dir(directory.path())?.flatten().map(|f| f.path());
        let data = files.into_iter().find(|f| f.to_string_lossy().contains("data"));
        let data = data.with_context(|| format!("heaptrack wrote no data: {text}"))?;
        Ok(Self { data, directory })
    }

    /// The stacks with this cost; stacks of cost 0 are there as well.
    ///
    /// # Errors
    /// heaptrack_print fails.
    pub fn folded(&self, cost: Cost) -> Result<Vec<Folded>> {
        let file = self.directory.path().join("folded.txt");
        let kind = match cost {
            Cost::Allocations => "allocations",
            Cost::Temporary => "temporary",
            Cost::Leaked => "leaked",
            Cost::Peak => "peak",
        };
        let output = Command::new("heaptrack_print")
            .arg("-f")
            .arg(&self.data)
            .args(["-a0", "-p0", "-T0", "--flamegraph-cost-type", kind])
            .args(["--disable-builtin-suppressions", "--disable-embedded-suppressions", "-F"])
            .arg(&file)
            .output()
            .context("cannot run heaptrack_print")?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "heaptrack_print: {}: {text}", output.status);
        let folded = fs::read_to_string(&file).context("heaptrack_print wrote no stacks")?;
        folded.lines().map(parse).collect()
    }
}

fn parse(line: &str) -> Result<Folded> {
    let (stack, cost) = line.rsplit_once(' ').with_context(|| format!("no cost in `{line}`"))?;
    let cost = cost.parse().with_context(|| format!("no cost in `{line}`"))?;
    let frames = stack.split(';').map(str::trim).filter(|f| !f.is_empty());
    Ok(Folded { frames: frames.map(str::to_owned).collect(), cost })
}
