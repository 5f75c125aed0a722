//! The program that is measured.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::run::{root, run};

/// Compiles the program into `dir`.
pub fn compile(dir: &Path) -> Result<PathBuf> {
    let binary = dir.join("pairs");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-g", "-o"]).arg(&binary).arg(root().join("xtask/bench/pairs.c"));
    run(&mut gcc)?;
    Ok(binary)
}

/// A running one; killed when dropped.
pub struct Target {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Target {
    pub fn start(binary: &Path) -> Result<Self> {
        let mut child = Command::new(binary)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        let commands = child.stdin.take().context("no pipe to the program")?;
        let answers = BufReader::new(child.stdout.take().context("no pipe from the program")?);
        let mut target = Self { child, commands, answers };
        ensure!(target.answer()? == "ready", "the program did not start");
        Ok(target)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of a malloc and free, in ns, over `count` of them.
    pub fn pair_ns(&mut self, count: u64) -> Result<f64> {
        self.command("pair", count)
    }

    /// Allocates `count` blocks that stay.
    pub fn hold(&mut self, count: u64) -> Result<()> {
        self.command("hold", count).map(|_| ())
    }

    fn command(&mut self, what: &str, count: u64) -> Result<f64> {
        writeln!(self.commands, "{what} {count}").context("the program has ended")?;
        let total: f64 = self.answer()?.parse().context("the program answered no number")?;
        Ok(total / count as f64)
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("cannot read from the program")?;
        ensure!(!line.is_empty(), "the program has ended");
        Ok(line.trim().to_owned())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
