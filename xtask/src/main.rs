//! Sets up, demonstrates and tests memtrace: `cargo xtask --help`.
//!
//! Depends on nothing of memtrace, so that it builds on a machine where memtrace doesn't yet.

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

mod bench;
mod bpf_toolchain;
mod demo;
mod lint;
mod packages;
mod run;
mod setup;
mod test;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Set up, demo and test memtrace")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what compiles the BPF programs; afterwards `cargo build` just works
    Setup {
        /// Also install the system packages that this task needs
        #[arg(long = "for", value_name = "TASK")]
        purpose: Option<Purpose>,
    },
    /// Record a service that leaks, print the report and draw the flame graph
    Demo,
    /// Run every test, the live ones included
    Test,
    /// Measure memtrace beside its peers and write docs/performance.md
    Bench {
        #[arg(value_enum)]
        what: Bench,
    },
    /// Run clippy on the BPF programs, for their own target
    LintBpf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Bench {
    /// CPU time that a malloc and free take under each tracer, and what memtrace itself uses
    Probes,
}

#[derive(Clone, Copy, ValueEnum)]
enum Purpose {
    Demo,
    Test,
    Bench,
}

fn main() -> ExitCode {
    heed_interrupts();
    let result = match Arguments::parse().task {
        Task::Setup { purpose } => set_up(purpose),
        Task::Demo => demo::demo(),
        // Its last line is the count, so it prints its errors itself.
        Task::Test if test::test() => Ok(()),
        Task::Test => return ExitCode::FAILURE,
        Task::Bench { what: Bench::Probes } => bench::probes(),
        Task::LintBpf => lint::bpf(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A shell without job control starts what it runs in the background with SIGINT ignored, which
/// every child inherits. Tests and benches end programs by SIGINT.
fn heed_interrupts() {
    // SAFETY: no other thread runs yet, and the default action has no handler that could be wrong.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
}

fn set_up(purpose: Option<Purpose>) -> anyhow::Result<()> {
    setup::compiler()?;
    match purpose {
        None => Ok(()),
        Some(Purpose::Demo) => packages::ensure_tools(&packages::DEMO),
        Some(Purpose::Test) => packages::ensure_tools(&packages::TEST),
        Some(Purpose::Bench) => packages::ensure_tools(&packages::BENCH),
    }
}
