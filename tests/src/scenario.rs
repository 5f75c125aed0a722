//! A truth program recorded in one of the two modes, and its report compared with its truth.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::compare::{Mode, compare};
use crate::compile::{Build, program};
use crate::process::{Output, Running, state_of};
use crate::record::{Recorded, Recorder, Recording};
use crate::report::Report;
use crate::truth::Truth;

/// The longest that a workload may take under a recorder.
const WORKLOAD: Duration = Duration::from_secs(120);

/// A program, how it's built, called and recorded.
#[derive(Clone, Debug)]
pub struct Scenario {
    source: &'static str,
    build: Build,
    binary: Option<PathBuf>,
    args: Vec<String>,
    recorder: Recorder,
}

impl Scenario {
    /// The program of `programs/SOURCE`, plainly built, without arguments or options.
    pub fn of(source: &'static str) -> Self {
        let recorder = Recorder::new();
        Self { source, build: Build::Plain, binary: None, args: Vec::new(), recorder }
    }

    /// Built otherwise.
    pub fn build(mut self, build: Build) -> Self {
        self.build = build;
        self
    }

    /// Run from this copy of the binary, or by this interpreter.
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = Some(path.to_owned());
        self
    }

    /// With an argument.
    pub fn arg(mut self, arg: impl AsRef<Path>) -> Self {
        self.args.push(arg.as_ref().to_string_lossy().into_owned());
        self
    }

    /// Recorded with these options.
    pub fn recorder(mut self, recorder: Recorder) -> Self {
        self.recorder = recorder;
        self
    }

    /// Recorded with `-p` and compared with its truth.
    ///
    /// # Panics
    /// When anything differs or fails.
    pub fn attached(&self) -> Report {
        self.done(Mode::Attach, self.attached_report())
    }

    /// Recorded with `-- CMD` and compared with its truth.
    ///
    /// # Panics
    /// When anything differs or fails.
    pub fn commanded(&self) -> Report {
        self.done(Mode::Command, self.commanded_report())
    }

    /// Recorded with `-p`: attached when it is ready, stopped when its workload is done.
    ///
    /// # Errors
    /// Anything fails; the report is not compared.
    pub fn attached_report(&self) -> Result<Report> {
        self.attached_recorded()?.report()
    }

    /// As [`Scenario::attached_report`], whatever memtrace's exit status.
    ///
    /// # Errors
    /// As there.
    pub fn attached_recorded(&self) -> Result<Recorded> {
        let mut target = self.ready()?;
        let recording = self.recorder.attach(&[target.pid()])?;
        target.say("go")?;
        target.line(Output::Stdout, "done", WORKLOAD)?;
        let recorded = recording.stop()?;
        let state = state_of(target.pid());
        ensure!(!matches!(state, Some('T' | 't')), "the target was left stopped");
        // A program that ends by itself doesn't listen any more; its status is checked all the same.
        let _ = target.say("end");
        target.wait(WORKLOAD)?.success().context("the target")?;
        Ok(recorded)
    }

    /// Recorded with `-- CMD`, from its start to its end.
    ///
    /// # Errors
    /// Anything fails; the report is not compared.
    pub fn commanded_report(&self) -> Result<Report> {
        let recorded = self.start()?.end(WORKLOAD)?;
        recorded.report()
    }

    /// The program, waiting.
    ///
    /// # Errors
    /// It doesn't get ready.
    pub fn ready(&self) -> Result<Running> {
        let binary = self.path();
        // An interpreter's first argument is the script, which looks for --wait at its end.
        let wait = vec!["--wait".to_owned()];
        let args = if self.is_script() {
            [self.args.clone(), wait].concat()
        } else {
            [wait, self.args.clone()].concat()
        };
        Running::ready(&binary, &args)
    }

    /// The program started under memtrace.
    ///
    /// # Errors
    /// memtrace can't be started.
    pub fn start(&self) -> Result<Recording> {
        self.recorder.command(&self.path(), &self.args)
    }

    fn is_script(&self) -> bool {
        self.source.ends_with(".py")
    }

    fn path(&self) -> PathBuf {
        self.binary.clone().unwrap_or_else(|| program(self.source, self.build))
    }

    fn done(&self, mode: Mode, report: Result<Report>) -> Report {
        let what = format!("{} {:?} {:?}", self.source, self.build, mode);
        let report = report.unwrap_or_else(|e| panic!("{what}: {e:#}"));
        let truth = Truth::of(self.source, mode).unwrap_or_else(|e| panic!("{what}: {e:#}"));
        if let Err(differences) = compare(&report, &truth) {
            panic!("{what}: {differences}");
        }
        report
    }
}
