//! The command line: what a user may type, as types.
//!
//! Nothing here touches the system beyond parsing; `commands` acts on the result. The definitions
//! are part of the library so that completions and man pages can be made from them.

mod doctor;
mod duration;
mod export;
mod limit;
mod metric;
mod record;
mod report;
mod size;

use clap::{Parser, Subcommand};

pub use doctor::DoctorArgs;
pub use duration::{DurationError, parse_duration};
pub use export::{ExportArgs, ExportFormat};
pub use limit::{Limit, LimitError, parse_limit};
pub use metric::MetricArg;
pub use record::{RecordArgs, Target};
pub use report::ReportArgs;
pub use size::{SizeError, parse_size};

/// Exit codes, for the end of every long help. `docs/exit-codes.md` says more.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  it could not be done; one line on stderr says why
  2  the command line was not understood
  3  recorded, but events were lost: the report says how many and what that does to its totals
`record -- CMD` ends with the exit code of CMD (128 + N when signal N killed it).";

/// `memtrace`, as typed.
#[derive(Debug, Parser)]
#[command(
    name = "memtrace",
    version,
    about = "Who allocates memory and never frees it: an eBPF tracer for live processes",
    after_help = EXIT_CODES,
    max_term_width = 100,
    propagate_version = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Record who allocates and never frees, on live processes or a command
    Record(RecordArgs),
    /// Print a recording: most calls, peak, leaks, temporary allocations, totals
    Report(ReportArgs),
    /// Convert a recording for other tools: folded stacks or a flame graph
    Export(ExportArgs),
    /// Show whether record works here, and the probe points of a process
    Doctor(DoctorArgs),
}

#[cfg(test)]
mod tests {
    use clap::{Args, CommandFactory};

    use super::{Cli, Command, DoctorArgs, RecordArgs};

    /// Every subcommand, those that the binary does not know yet included.
    fn all() -> clap::Command {
        let record = RecordArgs::augment_args(clap::Command::new("record"));
        let doctor = DoctorArgs::augment_args(clap::Command::new("doctor"));
        let cli = Cli::command();
        let has = |name: &str| cli.get_subcommands().any(|known| known.get_name() == name);
        let missing: Vec<_> =
            [record, doctor].into_iter().filter(|command| !has(command.get_name())).collect();
        cli.subcommands(missing)
    }

    #[test]
    fn definitions_are_consistent() {
        all().debug_assert();
    }

    #[test]
    fn every_subcommand_shows_an_example() {
        for command in all().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "{} has no example:\n{help}", command.get_name());
            assert!(help.contains(&format!("memtrace {}", command.get_name())), "{help}");
        }
    }

    #[test]
    fn subcommands_parse() {
        use clap::Parser;
        let cli = Cli::try_parse_from(["memtrace", "report", "a.mtrc"]).unwrap();
        assert!(matches!(cli.command, Command::Report(_)));
        assert!(Cli::try_parse_from(["memtrace", "nonsense"]).is_err());
    }
}
