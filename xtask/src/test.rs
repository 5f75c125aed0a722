//! Every test there is, and one line that says how many passed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, anyhow, ensure};

use crate::demo::release_build;
use crate::run::{as_root, cargo, is_root, run, shown, step, which};
use crate::{packages, setup};

/// The package whose tests record live processes.
const LIVE: &str = "memtrace-tests";

/// Runs every test; true if all could run and passed. `N passed, M failed` is the last line that is
/// printed, whatever happens.
pub fn test() -> bool {
    let mut count = Count::default();
    let mut result = run_all(&mut count);
    if result.is_ok() && count.passed == 0 {
        result = Err(anyhow!("no test ran"));
    }
    if let Err(error) = &result {
        step(format!("{error:#}"));
        // What could not even be started did not pass.
        count.failed = count.failed.max(1);
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    result.is_ok()
}

fn run_all(count: &mut Count) -> Result<()> {
    setup::compiler()?;
    packages::ensure_tools(&packages::TEST)?;

    // The live tests use it; made first, so that a program that does not compile is seen at once.
    let memtrace = release_build()?;
    // The library's own tests load BPF programs too.
    let runner = can_run_live().and_then(|()| sudo_runner());
    let test = |count: &mut Count, selection: &[&str], harness: &[&str]| {
        let mut command = cargo();
        command.args(["test", "--no-fail-fast"]).args(selection).arg("--").args(harness);
        command.env("MEMTRACE_BIN", &memtrace);
        if let Ok(Some((name, value))) = &runner {
            command.env(name, value);
        }
        cargo_test(&mut command, count)
    };
    let library =
        test(count, &["--workspace", "--exclude", "memtrace-ebpf", "--exclude", LIVE], &[]);
    // One at a time: they count events, and probes of the same file share breakpoints.
    let live = match &runner {
        Ok(_) => test(count, &["--package", LIVE], &["--test-threads=1"]),
        Err(_) => Ok(()),
    };
    // Why they can't run comes first: it explains the library's failures too.
    runner.map(|_| ()).and(library).and(live)
}

/// Why the live tests can't run here, if they can't.
fn can_run_live() -> Result<()> {
    if !is_root()? {
        // Asks for the password here, once, and not from below cargo.
        let as_root = as_root("true").and_then(|mut command| run(&mut command));
        as_root.context("the live tests load BPF programs")?;
    }
    for file in ["/sys/kernel/btf/vmlinux", "/sys/bus/event_source/devices/uprobe/type"] {
        ensure!(
            Path::new(file).exists(),
            "the live tests can't run: this kernel has no {file} (a container without it, or a \
             kernel built without BTF or uprobes)"
        );
    }
    let tracefs = fs::read_to_string("/proc/filesystems").context("cannot read /proc")?;
    ensure!(
        tracefs.lines().any(|line| line.ends_with("\ttracefs")),
        "the live tests can't run: this kernel has no tracefs"
    );
    Ok(())
}

/// The variable that makes cargo run test binaries, and only them, as root; `None` where this is
/// root.
fn sudo_runner() -> Result<Option<(String, String)>> {
    if is_root()? {
        return Ok(None);
    }
    let output = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("-vV")
        .output()
        .context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc -vV names no host")?.to_uppercase().replace('-', "_");
    let sudo = which("sudo").context("there is no sudo")?;
    let value = format!("{} --non-interactive --preserve-env --", sudo.display());
    Ok(Some((format!("CARGO_TARGET_{host}_RUNNER"), value)))
}

/// Runs a `cargo test`, shows its output as it comes and adds up its results.
fn cargo_test(command: &mut Command, count: &mut Count) -> Result<()> {
    step(shown(command));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    let stdout = child.stdout.take().context("no pipe to cargo")?;
    let mut terminal = std::io::stdout();
    let before = count.failed;
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).context("cannot read cargo's output")? == 0 {
            break;
        }
        terminal.write_all(&line).and_then(|()| terminal.flush()).context("cannot print")?;
        if let Some(result) = Count::parse(&String::from_utf8_lossy(&line)) {
            count.passed += result.passed;
            count.failed += result.failed;
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() && count.failed == before {
        // A test binary that crashed or did not compile has no result line.
        count.failed += 1;
    }
    ensure!(status.success(), "{} failed ({status})", shown(command));
    Ok(())
}

/// Test results, added up over test binaries. Ignored tests are no passes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

impl Count {
    /// The result of one test binary, if this is the line that says it.
    fn parse(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("test result: ")?;
        let (_, counts) = rest.split_once(". ")?;
        let number = |name: &str| {
            let part = counts.split(';').find_map(|part| part.trim().strip_suffix(name))?;
            part.trim().parse().ok()
        };
        Some(Self { passed: number("passed")?, failed: number("failed")? })
    }
}

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn result_lines_are_counted_and_nothing_else() {
        let ok = "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 1 filtered out; \
                  finished in 0.01s\n";
        assert_eq!(Count::parse(ok), Some(Count { passed: 12, failed: 0 }));
        let bad = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(Count::parse(bad), Some(Count { passed: 1, failed: 2 }));
        for other in ["", "running 12 tests\n", "test result: odd\n", "test a::b ... ok\n"] {
            assert_eq!(Count::parse(other), None, "{other}");
        }
    }
}
