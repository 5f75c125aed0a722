//! The subcommands, one file each. Each does its job for parsed arguments and gives the exit code;
//! nothing here prints an error, `main` does.

mod doctor;
mod export;
mod logging;
mod record;
mod report;

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result};
use memtrace::{
    cli::{Cli, Command},
    file,
    profile::Profile,
};

/// Does what was typed.
pub fn run(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        Command::Record(args) => record::run(args),
        Command::Report(args) => report::run(args),
        Command::Export(args) => export::run(args),
        Command::Doctor(args) => doctor::run(args),
    }
}

/// Reads a recording: the one place where a subcommand does.
fn read_profile(path: &Path) -> Result<Profile> {
    Ok(file::read(path)?)
}

/// Standard output through a buffer.
type Stdout = io::BufWriter<io::StdoutLock<'static>>;

/// Writes to standard output. A reader that went away (`| head`) has seen all it wanted: no error.
fn to_stdout<E: Into<anyhow::Error>>(
    write: impl FnOnce(&mut Stdout) -> Result<(), E>,
) -> Result<()> {
    let mut out = Stdout::with_capacity(1 << 16, io::stdout().lock());
    let result = write(&mut out).map_err(Into::into).and_then(|()| Ok(out.flush()?));
    // What an error left in the buffer has nowhere to go; dropping the writer would try once more.
    let _ = out.into_parts();
    match result.as_ref().err().and_then(|error| error.downcast_ref::<io::Error>()) {
        Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Some(_) => result.context("cannot write to standard output"),
        None => result,
    }
}
