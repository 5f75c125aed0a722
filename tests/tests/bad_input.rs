//! Bad input is normal: one clear line on stderr, a non-zero exit, nothing left behind.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use memtrace_tests::process::{Finished, Output, PATIENCE, Running, state_of};
use memtrace_tests::{Build, Recorder, Report, Scenario, live, paths, program};

fn record(recorder: &Recorder, file: &Path, target: &[&str]) -> Finished {
    let target: Vec<OsString> = target.iter().map(OsString::from).collect();
    Running::spawn(recorder.command_line(file, &target)).unwrap().wait(PATIENCE).unwrap()
}

/// It failed with a line that begins with `memtrace: ` and has all of `texts` in it, without a
/// panic, and left no file.
fn refused(finished: &Finished, file: &Path, texts: &[&str]) {
    let stderr = &finished.stderr;
    let code = finished.status.code();
    assert!(code.is_some_and(|c| c != 0 && c != 101 && c < 128), "{:?}: {stderr}", finished.status);
    assert!(finished.stdout.is_empty(), "{}", finished.text());
    let line = stderr.lines().find(|l| l.starts_with("memtrace: "));
    let line = line.unwrap_or_else(|| panic!("no line `memtrace: …` in: {stderr}"));
    for text in texts {
        assert!(line.to_lowercase().contains(text), "no `{text}` in: {line}");
    }
    assert!(!stderr.contains("panicked") && stderr.lines().count() <= 3, "{stderr}");
    assert!(!file.exists(), "a file of a recording that never was");
}

fn scratch() -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("out.mtrc");
    (directory, file)
}

#[test]
fn no_such_pid() {
    let _turn = live();
    let (_directory, file) = scratch();
    let ended = Running::start(Path::new("/bin/true"), &[] as &[&str]).unwrap();
    let pid = ended.pid().to_string();
    ended.wait(PATIENCE).unwrap();
    refused(&record(&Recorder::new(), &file, &["-p", &pid]), &file, &[&pid, "no process with pid"]);
    // Larger than any pid, zero, and no number at all.
    for wrong in ["4294967295", "0", "-1", "12x", "", "1,,2"] {
        let finished = record(&Recorder::new(), &file, &[&format!("-p={wrong}")]);
        assert!(
            finished.status.code().is_some_and(|c| c != 0 && c != 101),
            "{wrong}: {finished:?}"
        );
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        assert!(!file.exists());
    }
}

/// Whatever the moment, memtrace ends by itself, with an error or with an empty recording.
#[test]
fn a_pid_that_ends_during_the_attach() {
    let _turn = live();
    for delay in [0, 2, 5, 10, 20, 35, 50, 80] {
        let (_directory, file) = scratch();
        let sleep = Running::start(Path::new("/bin/sleep"), &["100"]).unwrap();
        let pid = sleep.pid().to_string();
        let command = Recorder::new().command_line(&file, &["-p".into(), pid.into()]);
        let memtrace = Running::spawn(command).unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        sleep.signal(rustix::process::Signal::KILL).unwrap();
        sleep.wait(PATIENCE).unwrap();
        let finished = memtrace.wait(Duration::from_secs(10)).unwrap();
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        if finished.status.success() {
            let report = Report::read(&file).unwrap();
            assert_eq!(report.total("leaked_blocks"), 0);
        } else {
            assert!(finished.stderr.contains("memtrace: "), "{finished:?}");
            assert!(!file.exists(), "{finished:?}");
        }
    }
}

#[test]
fn a_kernel_thread_has_no_heap() {
    let _turn = live();
    let (_directory, file) = scratch();
    refused(&record(&Recorder::new(), &file, &["-p", "2"]), &file, &["kernel thread"]);
}

#[test]
fn a_program_without_an_allocator_is_refused_with_what_was_looked_for() {
    let _turn = live();
    let (_directory, file) = scratch();
    for (source, build) in
        [("no_allocator.c", Build::StaticStripped), ("single_leak.c", Build::StaticStripped)]
    {
        let binary = program(source, build);
        let mut target = Running::ready(&binary, &["--wait"]).unwrap();
        let pid = target.pid().to_string();
        let finished = record(&Recorder::new(), &file, &["-p", &pid]);
        refused(&finished, &file, &["allocator", "malloc"]);
        target.say("go").unwrap();
        // The one without a C library has ended by now.
        let _ = target.say("end");
        target.wait(PATIENCE).unwrap().success().unwrap();
    }
}

#[test]
fn a_command_without_an_allocator_is_refused_and_does_not_run() {
    let _turn = live();
    let (_directory, file) = scratch();
    let binary = program("no_allocator.c", Build::StaticStripped);
    let finished = record(&Recorder::new(), &file, &["--", binary.to_str().unwrap()]);
    refused(&finished, &file, &["allocator", "malloc"]);
}

#[test]
fn a_command_that_does_not_exist() {
    let _turn = live();
    let (_directory, file) = scratch();
    let finished = record(&Recorder::new(), &file, &["--", "/nonexistent/program"]);
    refused(&finished, &file, &["/nonexistent/program"]);
    let text = file.with_extension("txt");
    fs::write(&text, "not a program").unwrap();
    let finished = record(&Recorder::new(), &file, &["--", text.to_str().unwrap()]);
    refused(&finished, &file, &["permission denied"]);
}

#[test]
fn an_output_that_cannot_be_written() {
    let _turn = live();
    let mut target = Scenario::of("single_leak.c").ready().unwrap();
    let pid = target.pid().to_string();
    for path in ["/nonexistent/directory/out.mtrc", "/proc/out.mtrc"] {
        let finished = record(&Recorder::new(), Path::new(path), &["-p", &pid]);
        refused(&finished, Path::new(path), &[path]);
    }
    let directory = tempfile::tempdir().unwrap();
    let finished = record(&Recorder::new(), directory.path(), &["-p", &pid]);
    assert!(finished.status.code().is_some_and(|c| c != 0 && c != 101), "{finished:?}");
    assert!(finished.stderr.contains(directory.path().to_str().unwrap()), "{}", finished.stderr);
    // A command isn't started for a recording that can't be kept.
    let finished =
        record(&Recorder::new(), Path::new("/nonexistent/x.mtrc"), &["--", "/bin/echo", "ran"]);
    refused(&finished, Path::new("/nonexistent/x.mtrc"), &["/nonexistent/x.mtrc"]);
    target.say("go").unwrap();
    target.say("end").unwrap();
    target.wait(PATIENCE).unwrap().success().unwrap();
}

/// As nobody, on a process of root.
#[test]
fn without_privilege_the_error_says_what_is_needed() {
    let _turn = live();
    let (directory, file) = scratch();
    let copy = directory.path().join("memtrace");
    fs::copy(paths::memtrace(), &copy).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut target = Scenario::of("single_leak.c").ready().unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["record", "-p", &target.pid().to_string(), "-o"])
        .arg(&file);
    let finished = Running::spawn(command).unwrap().wait(PATIENCE).unwrap();
    refused(&finished, &file, &["permission denied", "needs"]);
    target.say("go").unwrap();
    target.say("end").unwrap();
    target.wait(PATIENCE).unwrap().success().unwrap();
}

/// A tmpfs of 64 KiB, unmounted at the end of the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        let options = c"size=64k";
        rustix::mount::mount("tmpfs", directory.path(), "tmpfs", flags, options).unwrap();
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        let _ = rustix::mount::unmount(self.0.path(), flags);
    }
}

#[test]
fn a_full_disk_is_said_and_the_target_goes_on() {
    let _turn = live();
    let disk = SmallDisk::mount();
    // Almost nothing is left for the recording.
    let filler = OpenOptions::new().create(true).append(true).open(disk.path().join("filler"));
    let mut filler = filler.unwrap();
    while filler.write_all(&[1; 4096]).is_ok() {}
    drop(filler);
    let file = disk.path().join("out.mtrc");
    let target_scenario = Scenario::of("many_live.c");
    let mut target = target_scenario.ready().unwrap();
    let pid = target.pid().to_string();
    let command = Recorder::new().command_line(&file, &["-p".into(), pid.clone().into()]);
    let memtrace = Running::spawn(command).unwrap();
    // Either the full disk is found at once or at the first flush.
    let attached = memtrace.line(Output::Stderr, "recording pid", PATIENCE).is_ok();
    target.say("go").unwrap();
    target.line(Output::Stdout, "done", Duration::from_secs(60)).unwrap();
    if attached {
        let _ = memtrace.signal(rustix::process::Signal::INT);
    }
    let finished = memtrace.wait(PATIENCE).unwrap();
    assert!(finished.status.code().is_some_and(|c| c != 0 && c != 101), "{finished:?}");
    assert!(finished.stderr.to_lowercase().contains("no space left"), "{}", finished.stderr);
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    assert!(!matches!(state_of(target.pid()), Some('T' | 't')));
    target.say("end").unwrap();
    target.wait(PATIENCE).unwrap().success().unwrap();
}

fn report(file: &Path) -> Finished {
    let mut command = Command::new(paths::memtrace());
    command.arg("report").arg(file).arg("--json");
    Running::spawn(command).unwrap().wait(PATIENCE).unwrap()
}

fn refused_report(file: &Path, texts: &[&str]) {
    let finished = report(file);
    let stderr = &finished.stderr;
    assert!(finished.status.code().is_some_and(|c| c != 0 && c != 101), "{finished:?}");
    let line = stderr.lines().find(|l| l.starts_with("memtrace: "));
    let line = line.unwrap_or_else(|| panic!("no line `memtrace: …` in: {stderr}"));
    for text in texts {
        assert!(line.to_lowercase().contains(text), "no `{text}` in: {line}");
    }
}

#[test]
fn a_foreign_or_missing_file_is_not_reported() {
    let _turn = live();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    refused_report(&path("missing"), &["no such file", "missing"]);
    fs::write(path("empty"), "").unwrap();
    refused_report(&path("empty"), &["empty"]);
    fs::write(path("text"), "once upon a time\n".repeat(1000)).unwrap();
    refused_report(&path("text"), &["text", "not a memtrace recording"]);
    refused_report(Path::new("/bin/true"), &["not a memtrace recording"]);
    refused_report(directory.path(), &["directory"]);
}

/// Cut anywhere, the file gives an error or a report that says it is not complete; always quickly
/// and never with a panic. Damaged anywhere, never a report that claims to be whole and is not.
#[test]
fn a_truncated_or_damaged_recording_is_an_error_or_an_incomplete_report() {
    let _turn = live();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("whole.mtrc");
    let report_whole = Scenario::of("rates.c").recorder(Recorder::new().file(&file)).commanded();
    let calls = report_whole.total("alloc_calls");
    let bytes = fs::read(&file).unwrap();
    let hurt = directory.path().join("hurt.mtrc");
    let check = |what: &str| {
        let began = Instant::now();
        let finished = report(&hurt);
        assert!(began.elapsed() < Duration::from_secs(5), "{what}: {:?}", began.elapsed());
        assert!(finished.status.code().is_some_and(|c| c != 101), "{what}: {finished:?}");
        assert!(!finished.stderr.contains("panicked"), "{what}: {}", finished.stderr);
        if finished.status.success() {
            let json: Report = serde_json::from_slice(&finished.stdout).unwrap();
            let same = json.total("alloc_calls") == calls;
            assert!(!json.complete || same, "{what}: whole and wrong");
        }
    };
    let step = (bytes.len() / 20).max(1);
    for length in (0..bytes.len()).step_by(step).chain([bytes.len() - 1, 1, 7]) {
        fs::write(&hurt, &bytes[..length]).unwrap();
        check(&format!("cut at {length} of {}", bytes.len()));
    }
    for at in (0..bytes.len()).step_by(step) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        fs::write(&hurt, &damaged).unwrap();
        check(&format!("damaged at {at} of {}", bytes.len()));
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let _turn = live();
    let (_directory, file) = scratch();
    let pid = std::process::id().to_string();
    let wrong: [&[&str]; 7] = [
        &[],
        &["-p", &pid, "--", "/bin/true"],
        &["-p", &pid, "--duration", "yesterday"],
        &["-p", &pid, "--duration", "-1s"],
        &["-p", &pid, "--ring-size", "0"],
        &["-p", &pid, "--ring-size", "1000000T"],
        &["--"],
    ];
    for args in wrong {
        let finished = record(&Recorder::new(), &file, args);
        let code = finished.status.code();
        assert!(code.is_some_and(|c| c != 0 && c != 101), "{args:?}: {finished:?}");
        assert!(!finished.stderr.is_empty() && !finished.stderr.contains("panicked"));
        assert!(!file.exists(), "{args:?}");
    }
}
