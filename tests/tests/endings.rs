//! Every way in which a recording ends: by the target, the user, the clock, or a kill.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use memtrace_tests::process::{Output, PATIENCE, Running, children_of, state_of};
use memtrace_tests::{Build, Recorder, Recording, Report, Scenario, live, paths, program, tracefs};
use rustix::process::{Pid, Signal, kill_process_group};

fn ticker() -> Running {
    let none: [&str; 0] = [];
    Running::ready(&program("ticker.c", Build::Plain), &none).unwrap()
}

/// Lets the ticker finish its work: it checks each tick's memory itself.
fn finish(mut ticker: Running) -> u64 {
    ticker.say("stop").unwrap();
    let line = ticker.line(Output::Stdout, "done", PATIENCE).unwrap();
    ticker.wait(PATIENCE).unwrap().success().unwrap();
    line.trim_start_matches("done ").parse().unwrap()
}

/// Each tick is 100 leaks of 40 bytes; a recording that began and ended between ticks has whole
/// ticks.
fn ticks_in(report: &Report) -> u64 {
    let leaks = report.sum_with("tick_leak", |s| s.alloc_calls);
    assert_eq!(report.sum_with("tick_leak", |s| s.alloc_bytes), leaks * 40);
    leaks / 100
}

#[test]
fn an_interrupt_or_termination_ends_the_recording_with_a_complete_file() {
    let _turn = live();
    for signal in [Signal::INT, Signal::TERM] {
        let target = ticker();
        let recording = Recorder::new().attach(&[target.pid()]).unwrap();
        thread::sleep(Duration::from_millis(700));
        recording.memtrace.signal(signal).unwrap();
        let recorded = recording.end(PATIENCE).unwrap();
        let report = recorded.report().unwrap();
        assert!(report.exact(), "{:?}", report.losses);
        assert!(ticks_in(&report) >= 4, "{} ticks in 0.7 s", ticks_in(&report));
        assert!(report.complete);
        assert!(finish(target) >= ticks_in(&report));
    }
}

#[test]
fn a_duration_ends_the_recording_by_itself() {
    let _turn = live();
    let target = ticker();
    let began = Instant::now();
    let recording = Recorder::new().with("--duration").with("1s").attach(&[target.pid()]).unwrap();
    let report = recording.end(PATIENCE).unwrap().report().unwrap();
    let took = began.elapsed();
    assert!(took > Duration::from_millis(950) && took < Duration::from_secs(4), "{took:?}");
    assert!((7..=13).contains(&ticks_in(&report)), "{} ticks in a second", ticks_in(&report));
    finish(target);
}

#[test]
fn the_end_of_the_target_ends_the_recording() {
    let _turn = live();
    let target = ticker();
    let recording = Recorder::new().attach(&[target.pid()]).unwrap();
    thread::sleep(Duration::from_millis(300));
    let ticks = finish(target);
    let report = recording.end(PATIENCE).unwrap().report().unwrap();
    assert!(ticks_in(&report) <= ticks && ticks_in(&report) > 0);
    assert!(report.exact(), "{:?}", report.losses);
}

#[test]
fn a_killed_target_leaves_a_complete_recording() {
    let _turn = live();
    let target = ticker();
    let recording = Recorder::new().attach(&[target.pid()]).unwrap();
    thread::sleep(Duration::from_millis(300));
    target.signal(Signal::KILL).unwrap();
    assert_eq!(target.wait(PATIENCE).unwrap().status.signal(), Some(9));
    let report = recording.end(PATIENCE).unwrap().report().unwrap();
    assert!(ticks_in(&report) > 0);
    assert!(report.complete);
}

#[test]
fn memtrace_killed_leaves_the_target_unharmed_and_a_readable_file() {
    let _turn = live();
    for lossless in [false, true] {
        let target = ticker();
        let recorder = Recorder::new();
        let recorder = if lossless { recorder.lossless() } else { recorder };
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("killed.mtrc");
        let recording = recorder.file(&file).attach(&[target.pid()]).unwrap();
        thread::sleep(Duration::from_millis(3300));
        kill_and_check(recording, target.pid());
        let report = Report::read(&file).unwrap();
        assert!(!report.complete, "a killed recording must say so");
        // Flushed every second: at least the first two are there.
        assert!(ticks_in(&report) >= 20, "{} ticks of 33", ticks_in(&report));
        assert!(report.sum_with("tick_leak", |s| s.live_blocks) >= 2000);
        let before = finish(target);
        assert!(before >= 25, "the target was held up: {before} ticks");
    }
}

/// Kills memtrace; its probes and helpers are gone within 2 s and the target runs.
fn kill_and_check(mut recording: Recording, target: u32) {
    let memtrace = recording.memtrace.pid();
    let helpers = children_of(memtrace);
    recording.memtrace.signal(Signal::KILL).unwrap();
    let killed = Instant::now();
    while recording.memtrace.is_running().unwrap() {
        thread::sleep(Duration::from_millis(1));
    }
    tracefs::wait_until_clean(memtrace, Duration::from_secs(2)).unwrap();
    for helper in helpers {
        while !matches!(state_of(helper), None | Some('Z')) {
            assert!(killed.elapsed() < Duration::from_secs(2), "helper {helper} runs on");
            thread::sleep(Duration::from_millis(5));
        }
    }
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    assert!(!matches!(state_of(target), Some('T' | 't')), "the target is stopped");
    assert!(state_of(target).is_some(), "the target is gone");
}

/// Killed in the middle of a storm, while the brake is on: the stopped threads are continued.
#[test]
fn memtrace_killed_while_it_holds_threads_lets_them_go() {
    let _turn = live();
    let mut target = Scenario::of("storm.c").ready().unwrap();
    let recorder = Recorder::new().lossless().with("--ring-size").with("256K");
    let recording = recorder.attach(&[target.pid()]).unwrap();
    target.say("go").unwrap();
    thread::sleep(Duration::from_millis(150));
    kill_and_check(recording, target.pid());
    target.line(Output::Stdout, "done", Duration::from_secs(10)).unwrap();
    target.say("end").unwrap();
    target.wait(PATIENCE).unwrap().success().unwrap();
}

#[test]
fn a_command_s_exit_status_is_passed_on() {
    let _turn = live();
    for (word, code) in [("0", 0), ("3", 3), ("255", 255), ("kill", 128 + 9), ("abort", 128 + 6)] {
        let binary = program("quick_exit.c", Build::Plain);
        let recording = Recorder::new().command(&binary, &[word]).unwrap();
        let recorded = recording.end(PATIENCE).unwrap();
        assert_eq!(recorded.finished.status.code(), Some(code), "{}", recorded.finished.stderr);
        let report = recorded.report_anyway().unwrap();
        assert_eq!(report.sum_with("last_words", |s| s.live_bytes), 51, "exit by {word}");
        assert!(report.exact());
    }
}

#[test]
fn a_command_s_streams_are_its_own() {
    let _turn = live();
    let script = "read x; echo \"out:$x\"; echo err >&2; cat";
    let mut recording = Recorder::new().command(Path::new("/bin/sh"), &["-c", script]).unwrap();
    recording.memtrace.say("first").unwrap();
    recording.memtrace.say("second").unwrap();
    recording.memtrace.close_stdin();
    let recorded = recording.end(PATIENCE).unwrap();
    assert_eq!(recorded.finished.text(), "out:first\nsecond\n", "stdout is the command's alone");
    assert!(recorded.finished.stderr.contains("err"));
    recorded.report().unwrap();
}

/// A terminal sends Ctrl-C to the whole foreground group; here only memtrace gets the signal, so it
/// must pass it on or end its child itself: nothing runs on.
#[test]
fn an_interrupted_command_does_not_run_on() {
    let _turn = live();
    for signal in [Signal::INT, Signal::TERM] {
        let none: [&str; 0] = [];
        let recording = Recorder::new().command(&program("ticker.c", Build::Plain), &none).unwrap();
        let ready = recording.memtrace.line(Output::Stdout, "ready", PATIENCE).unwrap();
        let pid: u32 = ready.trim_start_matches("ready ").parse().unwrap();
        thread::sleep(Duration::from_millis(300));
        recording.memtrace.signal(signal).unwrap();
        let recorded = recording.end(PATIENCE).unwrap();
        assert!(!recorded.finished.status.success(), "an interrupted command did not succeed");
        assert!(matches!(state_of(pid), None | Some('Z')), "the command {pid} runs on");
        let report = recorded.report_anyway().unwrap();
        assert!(ticks_in(&report) > 0);
    }
}

/// Ctrl-C in a terminal: the command gets it too and dies of it.
#[test]
fn ctrl_c_ends_command_and_recording_together() {
    let _turn = live();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("out.mtrc");
    let binary = program("ticker.c", Build::Plain);
    let mut command = Recorder::new().command_line(&file, &["--".into(), binary.into()]);
    command.process_group(0);
    let memtrace = Running::spawn(command).unwrap();
    memtrace.line(Output::Stdout, "ready", PATIENCE).unwrap();
    thread::sleep(Duration::from_millis(300));
    let group = Pid::from_raw(memtrace.pid().cast_signed()).unwrap();
    kill_process_group(group, Signal::INT).unwrap();
    let finished = memtrace.wait(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(128 + 2), "{}", finished.stderr);
    let report = Report::read(&file).unwrap();
    assert!(report.complete && ticks_in(&report) > 0);
}

#[test]
fn the_promised_line_names_pid_and_probes_once() {
    let _turn = live();
    let target = ticker();
    let recording = Recorder::new().attach(&[target.pid()]).unwrap();
    assert!(recording.probes.unwrap() >= 10, "{:?} probes", recording.probes);
    let recorded = recording.stop().unwrap();
    let line = format!("recording pid {} (", target.pid());
    let lines: Vec<&str> =
        recorded.finished.stderr.lines().filter(|l| l.starts_with("recording")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with(&line), "{lines:?}");
    assert!(recorded.finished.stdout.is_empty(), "stdout is for data");
    finish(target);
}

/// Probed, released, probed again, and not slower or otherwise touched afterwards.
#[test]
fn a_target_can_be_recorded_again_and_again() {
    let _turn = live();
    let target = ticker();
    for _ in 0..5 {
        let recording = Recorder::new().attach(&[target.pid()]).unwrap();
        thread::sleep(Duration::from_millis(250));
        let report = recording.stop().unwrap().report().unwrap();
        assert!(report.exact(), "{:?}", report.losses);
        assert!((1..=6).contains(&ticks_in(&report)), "{} ticks", ticks_in(&report));
    }
    let status = fs::read_to_string(format!("/proc/{}/status", target.pid())).unwrap();
    assert!(status.contains("TracerPid:\t0"), "{status}");
    finish(target);
}

#[test]
fn two_recordings_of_one_target_at_once_both_see_everything() {
    let _turn = live();
    let mut target = Scenario::of("rates.c").ready().unwrap();
    let first = Recorder::new().attach(&[target.pid()]).unwrap();
    let second = Recorder::new().attach(&[target.pid()]).unwrap();
    target.say("go").unwrap();
    target.line(Output::Stdout, "done", PATIENCE).unwrap();
    for recording in [first, second] {
        let report = recording.stop().unwrap().report().unwrap();
        assert_eq!(report.sum_with("leak_fast", |s| s.alloc_calls), 900);
        assert!(report.exact(), "{:?}", report.losses);
    }
    target.say("end").unwrap();
    target.wait(PATIENCE).unwrap().success().unwrap();
}

/// The workspace is where memtrace was built, so its binary must not depend on where it runs.
#[test]
fn report_works_from_any_directory() {
    let _turn = live();
    let none: [&str; 0] = [];
    let recording = Recorder::new().command(&program("quick_exit.c", Build::Plain), &none).unwrap();
    let recorded = recording.end(PATIENCE).unwrap();
    let output = std::process::Command::new(paths::memtrace())
        .arg("report")
        .arg(&recorded.file)
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    assert!(text.contains("last_words"), "{text}");
}
