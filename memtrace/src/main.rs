//! The `memtrace` program: parse, run, print the error.

mod commands;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use memtrace::{cli::Cli, report::escape::printable};

fn main() -> ExitCode {
    let cli = Cli::parse();
    commands::run(&cli).unwrap_or_else(|error| {
        // The whole chain on one line. Paths and names in it may hold anything; standard error may
        // be gone.
        let chain = format!("{error:#}");
        let _ = writeln!(io::stderr(), "memtrace: {}", printable(&chain));
        ExitCode::FAILURE
    })
}
