//! `memtrace doctor`.

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  memtrace doctor
  sudo memtrace doctor -p 1234
  memtrace doctor --json";

/// Arguments of `memtrace doctor`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Also list the allocators and probe points of this process
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=i32::MAX as i64))]
    pub pid: Option<u32>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
