//! `memtrace record`: target → probes → events → heap → recording on disk.

mod breakpoints;
mod collector;
mod drain;
mod end;
mod losses;
mod naming;
mod progress;
mod unwinding;
mod watched;

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

use crate::{
    elf::prologue::Emulation,
    file::Writer,
    kernel::btf::Btf,
    probes::{
        attach::Attachment,
        mappings::MappingEvents,
        points::plan_for_process,
        programs::{Programs, Settings},
    },
    process,
    profile::{Losses, Meta, Totals},
    report::units::counted,
};

use breakpoints::Breakpoints;
use collector::Collector;
use drain::Drain;
use end::EndWatch;
use unwinding::Unwinding;

pub use end::End;

/// What to record and how.
#[derive(Clone, Debug)]
pub struct Options {
    pub target: Target,
    /// File to write.
    pub output: PathBuf,
    pub duration: Option<Duration>,
    /// Stop the target for moments rather than lose events.
    pub lossless: bool,
    /// A power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Say more on stderr.
    pub verbose: bool,
}

/// Whom to record.
#[derive(Clone, Debug)]
pub enum Target {
    /// Running processes. Never empty.
    Pids(Vec<u32>),
    /// A program to start, with its arguments. Never empty.
    Command(Vec<std::ffi::OsString>),
}

/// How a recording went.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub end: End,
    /// Exit code of the command, 128 + N when signal N killed it; None when none was started.
    pub command_exit: Option<u8>,
    pub totals: Totals,
    pub losses: Losses,
}

/// Records until something ends it. The file is complete when this returns Ok.
pub fn run(options: &Options) -> Result<Outcome> {
    let Target::Pids(pids) = &options.target else { anyhow::bail!("temp") };
    let pids = pids.clone();
    let mut plans = Vec::new();
    for &pid in &pids {
        let plan = plan_for_process(pid, emulation())
            .with_context(|| format!("cannot record pid {pid}"))?;
        if options.verbose {
            eprint!("{plan}");
        }
        plans.push(plan);
    }
    let breakpoints = Breakpoints::new(plans)?;
    let writer = Writer::create(&options.output)?;
    let settings = Settings {
        lossless: options.lossless,
        ring_bytes: options.ring_bytes,
        log: log::max_level(),
    };
    let mut programs = Programs::load(settings, &Btf::load()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut end = EndWatch::new(&pids)?;
        // The mappings made after this are told by the events, those before by /proc.
        let mappings = MappingEvents::open().context("cannot follow mappings")?;
        let unwinding = Unwinding::new(programs.take_unwind_tables()?);
        let mut collector = Collector::new(meta(options, &breakpoints, pids[0]), unwinding)?;
        for &pid in &pids {
            collector.follow(pid)?;
            programs.add_process(pid)?;
        }
        let groups = breakpoints.groups(&mut programs)?;
        let attachment = Attachment::new(&groups, &signed(&pids)?, None)?;
        drop(groups);
        let mut drain = Drain::new(programs, mappings, collector, writer)?;
        end.start_clock(options.duration);
        if options.verbose {
            let report = attachment.report();
            eprintln!(
                "attached {} in {:.1} ms",
                counted(report.threads as u64, "thread"),
                report.elapsed.as_secs_f64() * 1e3
            );
        }
        eprintln!("recording pid {} ({} probes)", list(&pids), breakpoints.count());
        let reason = drain.run(&mut end).await?;
        let report = attachment.detach()?;
        if options.verbose {
            eprintln!(
                "detached in {:.1} ms, silent after {:.1} ms",
                report.elapsed.as_secs_f64() * 1e3,
                report.silent_after.as_secs_f64() * 1e3
            );
        }
        drain.finish_events();
        drain.finish_names(|| false);
        drain.finish_file()?;
        Ok(Outcome {
            end: reason,
            command_exit: None,
            totals: drain.collector.recorder.totals(),
            losses: drain.collector.recorder.losses(),
        })
    })
}

fn list(pids: &[u32]) -> String {
    pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn signed(pids: &[u32]) -> Result<Vec<i32>> {
    Ok(pids.iter().map(|&pid| i32::try_from(pid)).collect::<Result<_, _>>()?)
}

/// What the running kernel emulates under a breakpoint.
fn emulation() -> Emulation {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse().ok());
    Emulation::of_kernel(numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn meta(options: &Options, breakpoints: &Breakpoints, pid: u32) -> Meta {
    let uname = rustix::system::uname();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let memory = rustix::system::sysinfo();
    Meta {
        memtrace_version: env!("CARGO_PKG_VERSION").into(),
        command: process::identity::command_line(pid).unwrap_or_default(),
        attached: matches!(options.target, Target::Pids(_)),
        lossless: options.lossless,
        kernel: uname.release().to_string_lossy().into_owned(),
        hostname: uname.nodename().to_string_lossy().into_owned(),
        started_unix_ms: u64::try_from(started.as_millis()).unwrap_or_default(),
        page_size: rustix::param::page_size() as u64,
        memory_bytes: memory.totalram * u64::from(memory.mem_unit),
        unwinder: "eh_frame".into(),
        probes: breakpoints.count(),
    }
}
