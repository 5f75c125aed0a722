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
        // Paths and names in it may hold anything; standard error may be gone.
        let _ = writeln!(io::stderr(), "memtrace: {}", printable(&one_line(&error)));
        ExitCode::FAILURE
    })
}

/// The error and its causes, outermost first. An error that tells its cause itself is not followed
/// by the cause once more.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
