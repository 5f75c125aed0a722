//! The whole way in one command: a service that leaks, recorded, reported, drawn.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::run::{as_root, cargo, is_root, root, run, run_within, shown, step, wait_within};
use crate::{packages, setup};

const DURATION: &str = "8s";

/// Far more than a recording of [`DURATION`] takes.
const RECORD_WITHIN: Duration = Duration::from_secs(60);

/// The function whose blocks the service never frees.
const CULPRIT: &str = "load_profile";

/// Runs the demo; an error if any step of it failed.
pub fn demo() -> Result<()> {
    setup::compiler()?;
    packages::ensure_tools(&packages::DEMO)?;
    let memtrace = release_build()?;
    let dir = root().join("target/demo");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let (recording, svg) = (dir.join("demo.mtrc"), dir.join("leaked.svg"));
    for old in [&recording, &svg] {
        if old.exists() {
            fs::remove_file(old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
    }

    let service = Service::start(&compile_service(&dir)?)?;
    step(format!("started session_service, pid {}", service.pid()));
    record(&memtrace, service.pid(), &recording)?;
    service.stop()?;

    let report = report(&memtrace, &recording)?;
    ensure!(report.contains(CULPRIT), "the report does not name {CULPRIT}, which leaks");
    draw(&memtrace, &recording, &svg)?;
    step(format!("recording: {}", recording.display()));
    step(format!("flame graph: {} (open it in a browser)", svg.display()));
    Ok(())
}

/// Builds memtrace as users run it; the path of the binary.
pub fn release_build() -> Result<PathBuf> {
    step("cargo build --release --package memtrace");
    run(cargo().args(["build", "--release", "--package", "memtrace"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| root().join("target"), |dir| root().join(dir));
    let memtrace = target.join("release/memtrace");
    ensure!(memtrace.is_file(), "cargo built no {}", memtrace.display());
    Ok(memtrace)
}

fn compile_service(dir: &Path) -> Result<PathBuf> {
    let binary = dir.join("session_service");
    let mut gcc = Command::new("gcc");
    gcc.current_dir(root())
        .args(["-O2", "-g", "-pthread"])
        // The report then names the source as it is called in the repository.
        .arg(format!("-fdebug-prefix-map={}=.", root().display()))
        .arg("-o")
        .arg(&binary)
        .arg("xtask/demo/session_service.c");
    run(&mut gcc)?;
    Ok(binary)
}

fn record(memtrace: &Path, pid: u32, recording: &Path) -> Result<()> {
    let mut command = as_root(memtrace).context("recording loads BPF programs")?;
    command.args(["record", "-p", &pid.to_string(), "--duration", DURATION, "-o"]).arg(recording);
    step(shown(&command));
    run_within(RECORD_WITHIN, &mut command)?;
    if !is_root()? {
        let owner = fs::metadata(root().join("target"))?;
        let owner = std::os::unix::fs::MetadataExt::uid(&owner).to_string();
        run(as_root("chown")?.arg(owner).arg(recording))?;
    }
    ensure!(recording.is_file(), "memtrace wrote no {}", recording.display());
    Ok(())
}

/// Prints the report and returns it.
fn report(memtrace: &Path, recording: &Path) -> Result<String> {
    let mut command = Command::new(memtrace);
    command.arg("report").arg(recording).stderr(Stdio::inherit());
    step(shown(&command));
    let output = command.output().with_context(|| format!("cannot run {}", shown(&command)))?;
    let mut stdout = std::io::stdout();
    stdout.write_all(&output.stdout).and_then(|()| stdout.flush()).context("cannot print")?;
    ensure!(output.status.success(), "{} failed ({})", shown(&command), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn draw(memtrace: &Path, recording: &Path, svg: &Path) -> Result<()> {
    let mut command = Command::new(memtrace);
    command.arg("export").arg(recording);
    command.args(["--format", "svg", "--metric", "leaked", "-o"]).arg(svg);
    step(shown(&command));
    run(&mut command)?;
    let drawn =
        fs::read_to_string(svg).with_context(|| format!("memtrace left no {}", svg.display()))?;
    ensure!(drawn.contains("</svg>") && drawn.contains(CULPRIT), "no {CULPRIT} in the flame graph");
    Ok(())
}

/// The leaking service; killed when dropped.
struct Service(Child);

impl Service {
    /// Starts the service and waits until it answers requests.
    fn start(binary: &Path) -> Result<Self> {
        let mut command = Command::new(binary);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().with_context(|| format!("cannot run {}", binary.display()))?;
        let mut service = Self(child);
        let stdout = service.0.stdout.take().context("no pipe to the service")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("cannot read from the service")?;
        ensure!(line.trim() == "ready", "the service did not start");
        Ok(service)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Ends the service as an operator would. It must still be there and well.
    fn stop(mut self) -> Result<()> {
        if let Some(status) = self.0.try_wait()? {
            bail!("the service did not survive being recorded ({status})");
        }
        run(Command::new("kill").args(["-TERM", &self.pid().to_string()]))?;
        match wait_within(Duration::from_secs(10), &mut self.0)? {
            Some(status) => ensure!(status.success(), "the service ended badly ({status})"),
            None => bail!("the service did not end when told to"),
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
