//! `memtrace report`.

use std::path::PathBuf;

use clap::Args;

use super::{Limit, MetricArg, parse_limit, parse_size};

const EXAMPLES: &str = "\
Examples:
  memtrace report server.mtrc
  memtrace report server.mtrc --sort leaked --limit 3 --stacks all
  memtrace report server.mtrc --filter 'libssl|^parse_' --min 1M
  memtrace report server.mtrc --json | jq '.sites[0]'";

/// Arguments of `memtrace report`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReportArgs {
    /// Recording made by `memtrace record`
    pub file: PathBuf,

    /// Print JSON instead of text (docs/report-json.md), every stack unless --limit is given
    #[arg(long)]
    pub json: bool,

    /// Text: show only this ranking. JSON: order of the stacks [default: leaked]
    #[arg(long, value_enum, value_name = "METRIC")]
    pub sort: Option<MetricArg>,

    /// Call sites a ranking (text) or stacks (JSON), a number or 'all' [default: 10 in text, all in
    /// JSON]
    #[arg(long, value_name = "N", value_parser = parse_limit)]
    pub limit: Option<Limit>,

    /// Stacks under each call site (text), a number or 'all'
    #[arg(long, value_name = "N", value_parser = parse_limit, default_value = "3")]
    pub stacks: Limit,

    /// Only stacks with a function, module or file that contains TEXT or matches it as a regular
    /// expression
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,

    /// Leave out what has fewer bytes than this (64K, 1MiB)
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "0")]
    pub min: u64,
}
