//! `memtrace doctor`: whether `record` works here, and where it would put its probes.

mod checks;
mod print;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use memtrace::{
    cli::DoctorArgs,
    elf::prologue::Emulation,
    kernel::{btf::Btf, features::Features, privileges::Capabilities},
    probes::{
        points::{PlanError, ProbePlan, plan_for_process},
        programs::{Programs, Settings},
    },
};

use super::to_stdout;
use checks::{Check, Loaded, State};

/// All that is printed.
struct Diagnosis {
    features: Features,
    checks: Vec<Check>,
    process: Option<Process>,
}

struct Process {
    pid: u32,
    plan: Result<ProbePlan, PlanError>,
    took: Duration,
}

impl Diagnosis {
    /// The checks that keep `record` from working at all.
    fn obstacles(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.state == State::Missing)
    }

    fn works(&self) -> bool {
        self.obstacles().next().is_none()
            && self.process.as_ref().is_none_or(|process| process.plan.is_ok())
    }
}

pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let features = Features::read();
    let emulation = Emulation::of_kernel(features.version.major, features.version.minor);
    let checks = checks::checks(&features, Capabilities::own().ok(), &load());
    let process = args.pid.map(|pid| {
        let start = Instant::now();
        let plan = plan_for_process(pid, emulation);
        Process { pid, plan, took: start.elapsed() }
    });
    let diagnosis = Diagnosis { features, checks, process };
    if args.json {
        to_stdout(|out| print::json(&diagnosis, out))?;
    } else {
        to_stdout(|out| print::text(&diagnosis, out))?;
    }
    Ok(if diagnosis.works() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The only sure test: loads what `record` loads, and lets go of it.
fn load() -> Loaded {
    let settings = Settings { lossless: false, ring_bytes: 1 << 20, log: log::LevelFilter::Off };
    let start = Instant::now();
    let load = || -> Result<()> {
        Programs::load(settings, &Btf::load()?)?;
        Ok(())
    };
    load().map(|()| start.elapsed()).map_err(|error| {
        // The links between the first and the last say the same over again.
        let (first, last) = (error.to_string(), error.root_cause().to_string());
        if first.contains(&last) { first } else { format!("{first}: {last}") }
    })
}
