//! `cargo xtask bench probes`: what a malloc and free cost under memtrace, under nothing, under
//! probes that do nothing and under its peers, all in one run on one machine.

use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::demo::release_build;
use crate::run::{is_root, root, step};
use crate::{packages, setup};

use empty::EmptyProbes;
use target::Target;
use tracers::{Tracer, said_ms};

mod empty;
mod page;
mod points;
mod target;
mod tracers;

/// Each tracer is measured so often, in turn with the others, and its median counts: the machine
/// may be shared.
const ROUNDS: usize = 5;

/// Pairs that a tracer is measured over: as many as take about this long.
const MEASURED: Duration = Duration::from_millis(400);

/// memtrace's exit code when it lost events, which the page tells.
const EXIT_LOSSES: i32 = 3;

const BARE_PAIRS: u64 = 10_000_000;
const COLLECTOR_PAIRS: u64 = 1_000_000;
const HELD_BLOCKS: u64 = 2_000_000;

/// The tracers, in the order of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Bare,
    Empty,
    Memtrace,
    Bpftrace,
    Memleak(PathBuf, &'static str),
}

impl Kind {
    fn name(&self) -> &str {
        match self {
            Kind::Bare => "nothing",
            Kind::Empty => "empty probes",
            Kind::Memtrace => "memtrace record",
            Kind::Bpftrace => "bpftrace",
            Kind::Memleak(_, name) => name,
        }
    }
}

/// CPU time of a pair under one tracer, a value a round; or why it could not be measured.
struct Row {
    kind: Kind,
    pair_ns: Result<Vec<f64>>,
}

/// What memtrace itself needs.
struct Collector {
    cpu_ns_per_event: f64,
    bytes_per_live_block: f64,
    /// From the start of memtrace until it records.
    start: Duration,
    /// The share of it that it took to put the probes in, as memtrace says.
    attach_ms: f64,
    /// From Ctrl-C to the end.
    end: Duration,
    /// The share of it that it took to remove the probes, as memtrace says.
    detach_ms: f64,
    /// Events lost while it was measured.
    lost: u64,
}

struct Bench {
    memtrace: PathBuf,
    program: PathBuf,
    dir: PathBuf,
}

/// Runs the bench, prints its page and writes it to docs/performance.md.
pub fn probes() -> Result<()> {
    ensure!(is_root()?, "the bench loads BPF programs; run it as root");
    setup::compiler()?;
    packages::ensure_tools(&packages::BENCH)?;
    let memtrace = release_build()?;
    let dir = root().join("target/bench");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let program = target::compile(&dir)?;
    let bench = Bench { memtrace, program, dir };

    let rows = bench.rows()?;
    let collector = bench.collector().context("cannot measure memtrace's own use")?;
    let text = page::write(&rows, &collector)?;
    print!("{text}");
    let docs = root().join("docs");
    fs::create_dir_all(&docs).with_context(|| format!("cannot create {}", docs.display()))?;
    let file = docs.join("performance.md");
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    step(format!("wrote {}", file.display()));
    Ok(())
}

impl Bench {
    fn rows(&self) -> Result<Vec<Row>> {
        let mut kinds = vec![Kind::Bare, Kind::Empty, Kind::Memtrace, Kind::Bpftrace];
        kinds.extend(tracers::find_memleak().map(|(path, name)| Kind::Memleak(path, name)));
        let mut rows: Vec<Row> =
            kinds.into_iter().map(|kind| Row { kind, pair_ns: Ok(Vec::new()) }).collect();
        for round in 1..=ROUNDS {
            for Row { kind, pair_ns } in &mut rows {
                let Ok(values) = pair_ns else { continue };
                let measured = self.measure(kind);
                let shown = measured.as_ref().map_or("failed".into(), |ns| format!("{ns:.0} ns"));
                step(format!("round {round} of {ROUNDS}, {}: {shown}", kind.name()));
                match measured {
                    Ok(value) => values.push(value),
                    // A peer that does not run here is a row that says so.
                    Err(error) if matches!(kind, Kind::Bpftrace | Kind::Memleak(..)) => {
                        *pair_ns = Err(error);
                    }
                    Err(error) => {
                        return Err(error.context(format!("cannot measure {}", kind.name())));
                    }
                }
            }
        }
        Ok(rows)
    }

    /// CPU ns of a pair under `kind`, in a process of its own.
    fn measure(&self, kind: &Kind) -> Result<f64> {
        let mut target = Target::start(&self.program)?;
        let pid = target.pid();
        let bare = target.pair_ns(BARE_PAIRS)?;
        let log = self.dir.join("tracer.log");
        let mut tracer = match kind {
            Kind::Bare => return Ok(bare),
            Kind::Empty => {
                let points = points::of_pair(&self.memtrace, pid)?;
                let _probes = EmptyProbes::attach(pid, &points)?;
                return measure(&mut target);
            }
            Kind::Memtrace => Tracer::memtrace(&self.memtrace, pid, &self.recording(), &log)?,
            Kind::Bpftrace => Tracer::bpftrace(pid, &log)?,
            Kind::Memleak(program, _) => Tracer::memleak(program, pid, &log)?,
        };
        tracer.wait_for_effect(&mut target, bare)?;
        let under = measure(&mut target)?;
        match (kind, tracer.stop()) {
            (Kind::Memtrace, Ok((status, _))) => check(status)?,
            (Kind::Memtrace, Err(error)) => return Err(error),
            // How a peer ends does not change what it cost.
            (_, Err(error)) => step(format!("{}: {error:#}", kind.name())),
            _ => {}
        }
        Ok(under)
    }

    /// What memtrace uses for a known number of events and of live blocks.
    fn collector(&self) -> Result<Collector> {
        let mut target = Target::start(&self.program)?;
        let log = self.dir.join("tracer.log");
        let begin = Instant::now();
        let tracer = Tracer::memtrace(&self.memtrace, target.pid(), &self.recording(), &log)?;
        let start = begin.elapsed();

        tracer.wait_idle()?;
        let before = tracer.cpu_ns()?;
        target.pair_ns(COLLECTOR_PAIRS)?;
        tracer.wait_idle()?;
        let used = tracer.cpu_ns()?.saturating_sub(before);

        let before = tracer.resident_bytes()?;
        target.hold(HELD_BLOCKS)?;
        tracer.wait_idle()?;
        let held = tracer.resident_bytes()?.saturating_sub(before);

        let begin = Instant::now();
        let (status, said) = tracer.stop()?;
        let end = begin.elapsed();
        check(status)?;
        Ok(Collector {
            // An allocation and a free.
            cpu_ns_per_event: used as f64 / (2 * COLLECTOR_PAIRS) as f64,
            bytes_per_live_block: held as f64 / HELD_BLOCKS as f64,
            start,
            attach_ms: said_ms(&said, "attached ")
                .context("it does not say how long attaching took")?,
            end,
            detach_ms: said_ms(&said, "detached ")
                .context("it does not say how long detaching took")?,
            lost: tracers::lost_events(&self.memtrace, &self.recording())?,
        })
    }

    fn recording(&self) -> PathBuf {
        self.dir.join("bench.mtrc")
    }
}

/// CPU ns of a pair, over as many as take [`MEASURED`].
fn measure(target: &mut Target) -> Result<f64> {
    let estimate = target.pair_ns(20_000)?;
    let count = MEASURED.as_nanos() as f64 / estimate.max(1.0);
    target.pair_ns(count.clamp(20_000.0, BARE_PAIRS as f64) as u64)
}

/// memtrace ended well, if with losses.
fn check(status: ExitStatus) -> Result<()> {
    if !status.success() && status.code() != Some(EXIT_LOSSES) {
        bail!("memtrace ended badly ({status})");
    }
    Ok(())
}
