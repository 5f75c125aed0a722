//! `memtrace record`: from arguments to a recording session, and its exit code.

use std::process::ExitCode;

use anyhow::{Context, Result};
use jiff::ZonedDateTime;
use log::LevelFilter;
use memtrace::{
    cli::{self, RecordArgs},
    report::{
        escape::printable,
        units::{counted, human_bytes},
    },
    session::record::{self, Options, Outcome, Target},
    target::spawn::SpawnError,
};

use super::logging;

/// A recording that is complete, but whose totals miss something.
const EXIT_LOSSES: u8 = 3;

pub(super) fn run(args: &RecordArgs) -> Result<ExitCode> {
    logging::show(if args.verbose { LevelFilter::Debug } else { LevelFilter::Warn });
    let options = Options {
        target: match args.target() {
            cli::Target::Pids(pids) => Target::Pids(pids),
            cli::Target::Command(command) => Target::Command(command),
        },
        output: args.output_path(&ZonedDateTime::now()),
        duration: args.duration,
        lossless: args.lossless,
        ring_bytes: u32::try_from(args.ring_size).context("the ring is too large")?,
        verbose: args.verbose,
    };
    let outcome = match record::run(&options) {
        Ok(outcome) => outcome,
        Err(error) => return command_failed(error),
    };
    eprintln!("{}", summary(&outcome, &options));
    Ok(exit_code(&outcome))
}

/// A command that can't be started ends as under a shell: 127 when it is not found, 126 when it may
/// not be run.
fn command_failed(error: anyhow::Error) -> Result<ExitCode> {
    match error.downcast_ref::<SpawnError>().map(SpawnError::exit_code) {
        Some(code) => {
            eprintln!("memtrace: {}", printable(&format!("{error:#}")));
            Ok(ExitCode::from(code))
        }
        None => Err(error),
    }
}

fn summary(outcome: &Outcome, options: &Options) -> String {
    let totals = &outcome.totals;
    let losses = if outcome.losses.is_exact() {
        "nothing lost".to_owned()
    } else {
        "with losses, see its report".to_owned()
    };
    format!(
        "recorded {}, {} in {} still live, {losses}; wrote {}",
        counted(totals.alloc_calls, "allocation"),
        human_bytes(totals.leaked_bytes),
        counted(totals.leaked_blocks, "block"),
        options.output.display(),
    )
}

/// A command's own exit code; else 3 when the totals are known to be wrong.
fn exit_code(outcome: &Outcome) -> ExitCode {
    match outcome.command_exit {
        Some(code) => ExitCode::from(code),
        None if outcome.losses.affect_totals() => ExitCode::from(EXIT_LOSSES),
        None => ExitCode::SUCCESS,
    }
}
