//! What `programs/oracle.c` counts: the same as memtrace, by interposition.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::compile;
use crate::process::{PATIENCE, Running};
use crate::report::same_function;
use crate::truth::{Site, Truth};

/// A program's own sites and totals, as the oracle counts them.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Only functions that the truth names.
    pub sites: BTreeMap<String, Site>,
    /// free_calls, unknown_frees, inherited_frees, peak_bytes; of all processes and with the
    /// foreign allocations.
    pub totals: BTreeMap<String, u64>,
    /// Calls, bytes and live bytes of everything, foreign or not.
    pub calls: u64,
    pub bytes: u64,
    pub live_bytes: u64,
    /// Stacks that belong to none of the truth's functions, outermost last.
    pub foreign: Vec<String>,
}

/// Runs a program under the oracle. `deep` walks stacks, for sites that are not the allocator's
/// direct callers; names that aren't exported are looked up in the program's debug information.
///
/// # Errors
/// The program fails, or what the oracle wrote can't be understood.
pub fn run(program: &Path, args: &[&str], truth: &Truth, deep: bool) -> Result<Counted> {
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("oracle");
    let mut command = Command::new(program);
    command.args(args).env("ORACLE_OUT", &base);
    command.env("LD_PRELOAD", compile::library("oracle.c", "oracle", &[]));
    if deep {
        command.env("ORACLE_DEEP", "1");
    }
    Running::spawn(command)?.wait(PATIENCE)?.success()?;
    let mut counted = Counted::default();
    let mut files = 0;
    for file in fs::read_dir(directory.path())? {
        let text = fs::read_to_string(file?.path())?;
        let text = with_names(&text, program)?;
        for line in text.lines() {
            counted.line(line, truth).with_context(|| format!("`{line}`"))?;
        }
        files += 1;
    }
    ensure!(files > 0, "the oracle wrote nothing");
    Ok(counted)
}

impl Counted {
    fn line(&mut self, line: &str, truth: &Truth) -> Result<()> {
        let mut words: Vec<&str> = line.split('\t').collect();
        let kind = words.remove(0);
        let frames = if kind == "site" { words.remove(0) } else { "" };
        let numbers = words.iter().map(|w| w.parse()).collect::<Result<Vec<u64>, _>>()?;
        match (kind, numbers.as_slice()) {
            ("site", &[calls, bytes, live_blocks, live_bytes, temporary, failed, peak]) => {
                self.calls += calls;
                self.bytes += bytes;
                self.live_bytes += live_bytes;
                let functions = frames.split('\u{1}').flat_map(|f| f.split_once(':'));
                let mut owners =
                    functions.filter_map(|(_, f)| truth.sites.keys().find(|s| same_function(f, s)));
                let Some(owner) = owners.next() else {
                    self.foreign.push(frames.replace('\u{1}', " < "));
                    return Ok(());
                };
                let site = self.sites.entry(owner.clone()).or_default();
                site.calls += calls;
                site.bytes += bytes;
                site.live_blocks += live_blocks;
                site.live_bytes += live_bytes;
                site.temporary += temporary;
                site.failed += failed;
                *site.peak_bytes.get_or_insert(0) += peak;
            }
            ("total", numbers) if numbers.len() == 4 => {
                let keys = ["free_calls", "unknown_frees", "inherited_frees", "peak_bytes"];
                for (key, number) in keys.iter().zip(numbers) {
                    *self.totals.entry((*key).to_owned()).or_default() += number;
                }
            }
            _ => bail!("not a line of the oracle"),
        }
        Ok(())
    }
}

/// Demangled, and `PROGRAM:+0xOFFSET` replaced by the functions that are inlined there.
fn with_names(text: &str, program: &Path) -> Result<String> {
    let name = program.file_name().context("no name")?.to_string_lossy();
    let prefix = format!("{name}:+");
    let offset = |frame: &str| frame.strip_prefix(&prefix).map(str::to_owned);
    let offsets: BTreeSet<String> = text.split(['\t', '\n', '\u{1}']).filter_map(offset).collect();
    let functions = functions_at(&offsets, program)?;
    let frame = |frame: &str| match offset(frame).and_then(|at| functions.get(&at)) {
        Some(names) => {
            let frames = names.iter().map(|function| format!("{name}:{function}"));
            frames.collect::<Vec<_>>().join("\u{1}")
        }
        None => frame.to_owned(),
    };
    let field = |field: &str| field.split('\u{1}').map(frame).collect::<Vec<_>>().join("\u{1}");
    let lines = text.lines().map(|line| line.split('\t').map(field).collect::<Vec<_>>().join("\t"));
    filter("c++filt", &[], &lines.collect::<Vec<_>>().join("\n"))
}

/// The functions at each offset, innermost inlined one first.
fn functions_at(
    offsets: &BTreeSet<String>,
    program: &Path,
) -> Result<BTreeMap<String, Vec<String>>> {
    if offsets.is_empty() {
        return Ok(BTreeMap::new());
    }
    let program = program.to_str().context("not UTF-8")?;
    let mut args = vec!["-a", "-C", "-f", "-i", "-e", program];
    args.extend(offsets.iter().map(String::as_str));
    let lines = filter("addr2line", &args, "")?;
    let mut functions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut at = offsets.iter();
    let mut names = None;
    // An address, then two lines a function: its name, its source.
    let mut lines = lines.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            let offset = at.next().context("more addresses than asked for")?;
            names = Some(functions.entry(offset.clone()).or_default());
        } else {
            names.as_mut().context("addr2line gave no address")?.push(line.to_owned());
            lines.next();
        }
    }
    Ok(functions)
}

/// The output of a program of binutils.
fn filter(program: &str, args: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program} (binutils)"))?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    ensure!(output.status.success(), "{program}: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
