//! The subcommands, one file each. Each does its job for parsed arguments and gives the exit code;
//! nothing here prints an error, `main` does.

mod export;
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
    }
}

/// Reads a recording: the one place where a subcommand does.
fn read_profile(path: &Path) -> Result<Profile> {
    Ok(file::read(path)?)
}

/// Writes to standard output through a buffer. A reader that went away (`| head`) has seen all it
/// wanted: no error.
fn to_stdout<E: From<io::Error> + Into<anyhow::Error>>(
    write: impl FnOnce(&mut io::BufWriter<io::StdoutLock<'static>>) -> Result<(), E>,
) -> Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let result = write(&mut out).and_then(|()| Ok(out.flush()?)).map_err(Into::into);
    // Whatever is still in the buffer after an error has nowhere to go; dropping the writer would
    // try again.
    let _ = out.into_parts();
    match result {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(|e| e.io_error_kind());
        io.or(json) == Some(io::ErrorKind::BrokenPipe)
    })
}
