//! `memtrace export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::MetricArg;

const EXAMPLES: &str = "\
Examples:
  memtrace export server.mtrc --format svg --metric leaked -o leaks.svg
  memtrace export server.mtrc --format folded --metric peak | flamegraph.pl > peak.svg";

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// One line a stack, root first: `main;parse;read 4096`
    Folded,
    /// Interactive flame graph for a browser
    Svg,
}

/// Arguments of `memtrace export`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ExportArgs {
    /// Recording made by `memtrace record`
    pub file: PathBuf,

    /// Format to write
    #[arg(long, value_enum)]
    pub format: ExportFormat,

    /// What the widths count
    #[arg(long, value_enum, default_value = "leaked")]
    pub metric: MetricArg,

    /// Where to write; standard output if not given
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
