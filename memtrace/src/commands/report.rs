//! `memtrace report`: a recording for people or as JSON, on standard output.

use std::{
    env,
    io::{self, IsTerminal},
    process::ExitCode,
};

use anyhow::Result;
use jiff::tz::TimeZone;
use memtrace::{
    cli::{Limit, ReportArgs},
    report::{Filter, JsonOptions, Metric, TextOptions, write_json, write_text},
};

use super::{read_profile, to_stdout};

pub(super) fn run(args: &ReportArgs) -> Result<ExitCode> {
    let profile = read_profile(&args.file)?;
    let filter = args.filter.as_deref().map(Filter::new);
    let metric = args.sort.map(Metric::from);
    if args.json {
        let options = JsonOptions {
            sort: metric.unwrap_or(Metric::Leaked),
            limit: match args.limit {
                Some(Limit::AtMost(limit)) => Some(limit),
                Some(Limit::All) | None => None,
            },
            filter,
            min_bytes: args.min,
        };
        to_stdout(|out| write_json(&profile, &options, out))?;
    } else {
        let options = TextOptions {
            only: metric,
            limit: args.limit.map_or(TextOptions::default().limit, Limit::count),
            stacks: args.stacks.count(),
            filter,
            min_bytes: args.min,
            colour: wants_colour(),
            time_zone: TimeZone::system(),
        };
        to_stdout(|out| write_text(&profile, &options, out))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Colour for a terminal that has any, unless the user asked every program for none
/// (<https://no-color.org>).
fn wants_colour() -> bool {
    let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal()
        && !set("NO_COLOR")
        && env::var_os("TERM").is_some_and(|term| term != "dumb")
}
