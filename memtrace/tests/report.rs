//! `memtrace report` and `memtrace export` as programs, on a recording written for the purpose.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use memtrace::{
    file::{Recorder, Writer},
    profile::{Line, Meta},
    stream::event::Event,
};
use memtrace_common::{point::Function, stack::StackEnd};
use serde_json::Value;
use tempfile::TempDir;

/// A recording: `leak` allocates 10 blocks of 100 bytes and frees none, `tidy` 5 blocks of 8 and
/// frees all, both called by `main`.
fn recording(dir: &TempDir, leaks: bool) -> PathBuf {
    let path = dir.path().join("run.mtrc");
    let mut recorder = Recorder::new(Meta {
        command: vec!["./demo".into()],
        kernel: "6.18.0".into(),
        unwinder: "eh_frame".into(),
        ..Meta::default()
    });
    let module = recorder.tables.module("/usr/bin/demo", "");
    let mut location = |address: u64, function: &str, line: u32| {
        let id = recorder.tables.location(Some(module), address);
        let function = recorder.tables.string(function);
        let file = Some(recorder.tables.string("demo.c"));
        recorder.tables.set_lines(id, vec![Line { function, file, line: Some(line) }]);
        id
    };
    let main = location(0x1000, "main", 3);
    let leak = location(0x1100, "leak;<b>", 14);
    let tidy = location(0x1200, "tidy", 25);
    for (key, site) in [(1, leak), (2, tidy)] {
        recorder.explain(key, 7, StackEnd::Complete, &[site, main]);
    }
    let function = Function::Malloc;
    if leaks {
        for n in 0..10 {
            let address = 0x5000 + n * 0x100;
            let alloc = Event::Alloc { pid: 7, tid: 7, address, size: 100, stack: 1, function };
            recorder.apply(&alloc, n);
        }
    }
    for n in 0..5 {
        let address = 0x9000;
        let alloc = Event::Alloc { pid: 7, tid: 7, address, size: 8, stack: 2, function };
        recorder.apply(&alloc, 100 + n);
        recorder.apply(&Event::Free { pid: 7, tid: 7, address }, 100 + n);
    }
    let mut writer = Writer::create(&path).unwrap();
    recorder.finish(&mut writer).unwrap();
    path
}

fn memtrace() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memtrace"));
    command.env("TZ", "UTC");
    command
}

fn run(args: &[&str], path: &Path, more: &[&str]) -> Output {
    memtrace().args(args).arg(path).args(more).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn assert_fails(output: &Output, code: i32, message: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(message), "{stderr}");
    assert!(output.stdout.is_empty());
    if code == 1 {
        assert!(stderr.starts_with("memtrace: ") && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn report_prints_text_on_stdout_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["report"], &recording(&dir, true), &[]);
    assert_eq!(text(&output.stderr), "");
    assert!(output.status.success());
    let stdout = text(&output.stdout);
    assert!(stdout.contains("1000B leaked, 100.00%, 10 blocks, from 1 stack at"), "{stdout}");
    assert!(stdout.contains("  leak;<b> at demo.c:14 in demo\n"), "{stdout}");
    assert!(stdout.contains("total memory leaked: 1000B, 10 blocks\n"), "{stdout}");
    assert!(stdout.contains("no events lost: totals are exact\n"), "{stdout}");
    assert!(!stdout.contains('\x1b'), "no colour outside a terminal");
}

#[test]
fn report_json_is_one_object() {
    let dir = tempfile::tempdir().unwrap();
    let path = recording(&dir, true);
    let output = run(&["report", "--json", "--sort", "temporary", "--limit", "1"], &path, &[]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["totals"]["leaked_bytes"], 1000);
    assert_eq!(report["totals"]["temporary_calls"], 5);
    assert_eq!(report["sites"].as_array().unwrap().len(), 1);
    assert_eq!(report["sites"][0]["frames"][0]["function"], "tidy");
    assert_eq!(report["complete"], true);
}

#[test]
fn export_writes_to_stdout_or_to_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = recording(&dir, true);
    let folded = run(&["export", "--format", "folded", "--metric", "calls"], &path, &[]);
    assert_eq!(text(&folded.stdout), "main;leak:<b> 10\nmain;tidy 5\n");
    let svg = dir.path().join("out.svg");
    let output = run(&["export", "--format", "svg"], &path, &["-o", svg.to_str().unwrap()]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty());
    let svg = fs::read_to_string(svg).unwrap();
    assert!(svg.contains("leak:&lt;b&gt; (1,000 bytes, 100.00%)"));
}

#[test]
fn nothing_leaked_is_no_failure_but_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = recording(&dir, false);
    for format in ["folded", "svg"] {
        let output = run(&["export", "--format", format], &path, &[]);
        assert!(output.status.success());
        assert!(text(&output.stderr).contains("nothing to draw"));
        assert_eq!(output.stdout.is_empty(), format == "folded");
    }
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let path = recording(&dir, true);
    for args in [
        &["report"][..],
        &["report", "--json"],
        &["export", "--format", "folded"],
        &["export", "--format", "svg"],
    ] {
        let mut child = memtrace()
            .args(args)
            .arg(&path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}");
        assert_eq!(text(&output.stderr), "", "{args:?}");
    }
}

#[test]
fn a_full_disk_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let path = recording(&dir, true);
    for args in [
        &["report"][..],
        &["report", "--json"],
        &["export", "--format", "folded"],
        &["export", "--format", "svg"],
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = memtrace().args(args).arg(&path).stdout(full).output().unwrap();
        assert_fails(&output, 1, "cannot write to standard output: No space left on device");
    }
    let output = run(&["export", "--format", "svg"], &path, &["-o", "/dev/full"]);
    assert_fails(&output, 1, "cannot write '/dev/full': No space left on device");
}

#[test]
fn the_recording_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = recording(&dir, true);
    let before = fs::read(&path).unwrap();
    let link = dir.path().join("link.svg");
    fs::hard_link(&path, &link).unwrap();
    let output = run(&["export", "--format", "svg"], &path, &["-o", link.to_str().unwrap()]);
    assert_fails(&output, 1, "the output is the recording itself");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn bad_files_are_one_line_and_leave_no_output_behind() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("a\nb.mtrc");
    let output = run(&["report"], &missing, &[]);
    assert_fails(&output, 1, "a\\nb.mtrc");
    let stderr = text(&output.stderr);
    assert_eq!(stderr.matches("No such file").count(), 1, "told once: {stderr}");

    let foreign = dir.path().join("foreign");
    fs::write(&foreign, "#!/bin/sh\necho hello\n").unwrap();
    let out = dir.path().join("out.svg");
    let args = ["-o", out.to_str().unwrap()];
    assert_fails(&run(&["report"], &foreign, &[]), 1, "is not a memtrace recording");
    let output = run(&["export", "--format", "svg"], &foreign, &args);
    assert_fails(&output, 1, "is not a memtrace recording");
    assert!(!out.exists());
    assert_fails(&run(&["report"], dir.path(), &[]), 1, "");
}

#[test]
fn a_command_line_that_is_not_understood_is_exit_code_2() {
    let nowhere = Path::new("x.mtrc");
    assert_fails(&run(&["export"], nowhere, &[]), 2, "--format");
    assert_fails(&run(&["report", "--sort", "size"], nowhere, &[]), 2, "leaked");
    assert_fails(&run(&["report", "--min", "1 parsec"], nowhere, &[]), 2, "unknown unit");
    assert_fails(&memtrace().output().unwrap(), 2, "Usage");
}
