//! `memtrace record`: target → probes → events → heap → recording on disk.

mod breakpoints;
mod collector;
mod command;
mod drain;
mod end;
mod losses;
mod naming;
mod progress;
mod unwinding;
mod watched;

use std::{
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

use crate::{
    elf::prologue::Emulation,
    file::{ReadError, Writer},
    kernel::{btf::Btf, features::Version},
    probes::{
        attach::Attachment,
        launch::Environment,
        mappings::MappingEvents,
        points::{ProbePlan, plan_for_command, plan_for_process},
        programs::{Programs, Settings},
        watchdog::Watchdog,
    },
    process,
    profile::{Losses, Meta, Totals},
    report::units::{counted, human_bytes},
    target::spawn::HeldCommand,
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
///
/// # Errors
/// Whatever stands in the way of recording; what was recorded before is in the file. A
/// [`SpawnError`](crate::target::spawn::SpawnError) in the chain tells that the command could not
/// be started.
pub fn run(options: &Options) -> Result<Outcome> {
    // What needs no privilege and no target fails first, with nothing left behind. The file comes
    // before the command, which shall not run unrecorded.
    let plans = match &options.target {
        Target::Pids(pids) => plan_processes(pids)?,
        Target::Command(_) => Vec::new(),
    };
    let writer = Writer::create(&options.output)?;
    let result = record(options, plans, writer);
    if result.is_err() {
        remove_empty(&options.output);
    }
    result
}

fn record(options: &Options, mut plans: Vec<ProbePlan>, writer: Writer) -> Result<Outcome> {
    let btf = Btf::load()?;
    // Before any thread of ours: it is a fork.
    let watchdog = Watchdog::start().context("cannot start the watchdog")?;
    let (held, pids) = match &options.target {
        Target::Pids(pids) => (None, pids.clone()),
        Target::Command(command) => {
            let held = command::hold(command)?;
            plans.push(plan_command(&held)?);
            let pid = u32::try_from(held.pid())?;
            (Some(held), vec![pid])
        }
    };
    if options.verbose {
        plans.iter().for_each(|plan| eprint!("{plan}"));
    }
    let breakpoints = Breakpoints::new(plans)?;
    let settings = Settings {
        lossless: options.lossless,
        ring_bytes: options.ring_bytes,
        log: log::max_level(),
    };
    let mut programs = Programs::load(settings, &btf)?;
    watchdog.will().set_stopped_map(Some(programs.stopped_fd().as_raw_fd()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut end = EndWatch::new(&pids)?;
        let logs = programs.take_log()?;
        // Mappings made after this are told by the events, those before by /proc.
        let mappings = MappingEvents::open().context("cannot follow mappings")?;
        let unwinding = Unwinding::new(programs.take_unwind_tables()?);
        let mut collector =
            Collector::new(meta(options, &breakpoints, pids[0]), mappings, unwinding)?;
        for &pid in &pids {
            programs.add_process(pid)?;
            match held {
                // It has mapped nothing of its own yet, and will be stopped at its first allocation
                // until its mappings are known.
                Some(_) => {
                    collector.expect(pid);
                    programs.hold_until_known(pid)?;
                }
                None => {
                    collector.follow(pid).with_context(|| format!("cannot record pid {pid}"))?
                }
            }
        }
        let groups = breakpoints.groups(&mut programs)?;
        let attachment = Attachment::new(&groups, &signed(&pids)?, Some(watchdog.will()))?;
        drop(groups);
        if options.verbose {
            say_attached(&attachment, &mut collector);
        }
        let mut drain = Drain::new(programs, collector, writer, attachment, watchdog)?;
        end.start_clock(options.duration);
        eprintln!("recording pid {} ({} probes)", list(&pids), breakpoints.count());
        let mut command = held.map(HeldCommand::release).transpose()?;
        let reason = drain.run(&mut end, logs).await?;
        if let (Some(command), End::Signal(signal)) = (&command, reason) {
            command::pass_on(command, signal)?;
        }
        let report = drain.finish_events()?;
        if options.verbose {
            eprintln!(
                "detached in {:.1} ms, silent after {:.1} ms",
                milliseconds(report.elapsed),
                milliseconds(report.silent_after)
            );
        }
        drain.finish_names();
        let written = drain.finish_file();
        let command_exit = match &mut command {
            Some(command) => command::exit_code(command, &mut end).await?,
            None => None,
        };
        written?;
        Ok(Outcome {
            end: reason,
            command_exit,
            totals: drain.collector.recorder.totals(),
            losses: drain.collector.recorder.losses(),
        })
    })
}

fn plan_processes(pids: &[u32]) -> Result<Vec<ProbePlan>> {
    let plan = |&pid| {
        plan_for_process(pid, emulation()).with_context(|| format!("cannot record pid {pid}"))
    };
    pids.iter().map(plan).collect()
}

fn plan_command(held: &HeldCommand) -> Result<ProbePlan> {
    let path = held.executable().context("the command is no file")?;
    plan_for_command(path, &Environment::own(), emulation())
        .with_context(|| format!("cannot record {}", path.display()))
}

/// A file without a single flush says nothing; an error shall not leave one behind.
fn remove_empty(path: &Path) {
    if matches!(crate::file::read(path), Err(ReadError::NoData { .. })) {
        let _ = std::fs::remove_file(path);
    }
}

fn say_attached(attachment: &Attachment, collector: &mut Collector) {
    let report = attachment.report();
    eprintln!(
        "attached {} in {:.1} ms",
        counted(report.threads as u64, "thread"),
        milliseconds(report.elapsed)
    );
    let (tables, problems) = collector.unwinding_report();
    eprintln!(
        "unwind tables: {} files, {} rows, {}",
        tables.tables,
        tables.rows,
        human_bytes(tables.bytes)
    );
    for problem in problems {
        eprintln!("no unwind table for {problem}");
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn list(pids: &[u32]) -> String {
    pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn signed(pids: &[u32]) -> Result<Vec<i32>> {
    Ok(pids.iter().map(|&pid| i32::try_from(pid)).collect::<Result<_, _>>()?)
}

/// What the running kernel emulates under a breakpoint.
fn emulation() -> Emulation {
    let version = Version::running();
    Emulation::of_kernel(version.major, version.minor)
}

fn meta(options: &Options, breakpoints: &Breakpoints, pid: u32) -> Meta {
    let uname = rustix::system::uname();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let memory = rustix::system::sysinfo();
    Meta {
        memtrace_version: env!("CARGO_PKG_VERSION").into(),
        command: match &options.target {
            Target::Pids(_) => process::identity::command_line(pid).unwrap_or_default(),
            Target::Command(command) => {
                command.iter().map(|part| part.to_string_lossy().into_owned()).collect()
            }
        },
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
