//! `memtrace record`.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgGroup, Args};
use jiff::ZonedDateTime;

use super::{SizeError, parse_duration, parse_size};

const EXAMPLES: &str = "\
Examples:
  sudo memtrace record -p 1234 --duration 30s
  sudo memtrace record -p 1234,1250 -o workers.mtrc
  sudo memtrace record --lossless -- ./server --port 8080

Ctrl-C, SIGTERM, the duration or the end of the target end a recording; the file is complete then,
and readable up to its last second if memtrace was killed.";

/// Smallest ring: enough for a burst between two reads.
const RING_MIN: u64 = 64 << 10;
/// Largest ring: BPF ring buffers may be larger, but it is memory that cannot be swapped.
const RING_MAX: u64 = 1 << 30;

/// Arguments of `memtrace record`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("target").required(true).multiple(false))]
pub struct RecordArgs {
    /// Running processes to attach to, with commas between; their children are followed
    #[arg(
        short,
        long,
        value_name = "PID",
        value_delimiter = ',',
        group = "target",
        value_parser = clap::value_parser!(u32).range(1..=i32::MAX as i64)
    )]
    pub pid: Vec<u32>,

    /// Where to write [default: memtrace-<pid or command>-<time>.mtrc in the current directory]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Stop recording after this time (10s, 500ms, 2m)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,

    /// Stop the target for moments rather than lose events when the ring runs full
    #[arg(long)]
    pub lossless: bool,

    /// Size of the ring buffer between kernel and memtrace, 64K to 1G, rounded up to a power of two
    #[arg(long, value_name = "SIZE", value_parser = parse_ring_size, default_value = "16M")]
    pub ring_size: u64,

    /// Say more: probe points, attach and detach times
    #[arg(short, long)]
    pub verbose: bool,

    /// Command to run and to record from its first allocation
    #[arg(last = true, value_name = "CMD", group = "target")]
    pub command: Vec<OsString>,
}

/// What to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Running processes, each once, in the order given. Never empty.
    Pids(Vec<u32>),
    /// A program to start with its arguments. Never empty.
    Command(Vec<OsString>),
}

impl RecordArgs {
    /// What was asked to be recorded.
    pub fn target(&self) -> Target {
        if self.pid.is_empty() {
            return Target::Command(self.command.clone());
        }
        let mut pids = Vec::with_capacity(self.pid.len());
        for &pid in &self.pid {
            if !pids.contains(&pid) {
                pids.push(pid);
            }
        }
        Target::Pids(pids)
    }

    /// The file to write: `-o`, or a name made of the target and of `now` in its own time zone,
    /// relative to the current directory.
    pub fn output_path(&self, now: &ZonedDateTime) -> PathBuf {
        if let Some(path) = &self.output {
            return path.clone();
        }
        let target = match self.target() {
            Target::Pids(pids) => pids[0].to_string(),
            Target::Command(command) => file_name_part(&command[0]),
        };
        PathBuf::from(format!("memtrace-{target}-{}.mtrc", now.strftime("%Y%m%d-%H%M%S")))
    }
}

/// The command's own name, with all that could surprise a shell or a terminal replaced.
fn file_name_part(command: &OsStr) -> String {
    let name = Path::new(command).file_name().unwrap_or(command).to_string_lossy();
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '_' };
    name.chars().take(64).map(safe).collect()
}

fn parse_ring_size(text: &str) -> Result<u64, RingSizeError> {
    let bytes = parse_size(text)?;
    if (RING_MIN..=RING_MAX).contains(&bytes) {
        Ok(bytes.next_power_of_two())
    } else {
        Err(RingSizeError::OutOfRange)
    }
}

#[derive(Debug, thiserror::Error)]
enum RingSizeError {
    #[error(transparent)]
    Size(#[from] SizeError),
    #[error("must be from 64K to 1G")]
    OutOfRange,
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, path::PathBuf, time::Duration};

    use clap::{Args, FromArgMatches, error::ErrorKind};
    use jiff::civil::date;

    use super::{RecordArgs, Target};

    fn parse(args: &[&str]) -> Result<RecordArgs, clap::Error> {
        let command = RecordArgs::augment_args(clap::Command::new("record"));
        let matches = command.try_get_matches_from([&["record"], args].concat())?;
        RecordArgs::from_arg_matches(&matches)
    }

    #[test]
    fn pids_come_with_commas_or_repeated_and_count_once() {
        let args = parse(&["-p", "12,34", "-p", "12"]).unwrap();
        assert_eq!(args.target(), Target::Pids(vec![12, 34]));
    }

    #[test]
    fn command_takes_everything_after_the_dashes() {
        let args = parse(&["--lossless", "--", "./a", "-p", "1", "--help"]).unwrap();
        let expected = ["./a", "-p", "1", "--help"].map(OsString::from);
        assert_eq!(args.target(), Target::Command(expected.to_vec()));
        assert!(args.lossless);
    }

    #[test]
    fn a_target_is_needed_and_only_one() {
        assert_eq!(parse(&[]).unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
        let both = parse(&["-p", "1", "--", "ls"]).unwrap_err();
        assert_eq!(both.kind(), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn pid_zero_and_negative_pids_are_refused() {
        for pid in ["0", "-1", "2147483648", "x", "1,,2"] {
            assert!(parse(&["-p", pid]).is_err(), "{pid}");
        }
    }

    #[test]
    fn defaults_and_sizes() {
        let args = parse(&["-p", "1"]).unwrap();
        assert_eq!((args.ring_size, args.duration, args.verbose), (16 << 20, None, false));
        let args = parse(&["-p", "1", "--ring-size", "5M", "--duration", "500ms", "-v"]).unwrap();
        assert_eq!(args.ring_size, 8 << 20, "rounded up to a power of two");
        assert_eq!(args.duration, Some(Duration::from_millis(500)));
        assert!(args.verbose);
        assert!(parse(&["-p", "1", "--ring-size", "1K"]).is_err());
        assert!(parse(&["-p", "1", "--ring-size", "2G"]).is_err());
        assert!(parse(&["-p", "1", "--duration", "0s"]).is_err());
    }

    #[test]
    fn default_file_is_named_after_target_and_time() {
        let now = date(2026, 11, 24).at(9, 5, 7, 0).in_tz("UTC").unwrap();
        let path = |args: &[&str]| parse(args).unwrap().output_path(&now);
        assert_eq!(path(&["-p", "12,34"]), PathBuf::from("memtrace-12-20261124-090507.mtrc"));
        assert_eq!(
            path(&["--", "/usr/bin/python3.11", "x"]),
            PathBuf::from("memtrace-python3.11-20261124-090507.mtrc")
        );
        assert_eq!(
            path(&["--", "./a b\n;c"]),
            PathBuf::from("memtrace-a_b__c-20261124-090507.mtrc")
        );
        assert_eq!(path(&["-o", "x/y", "-p", "1"]), PathBuf::from("x/y"));
    }
}
