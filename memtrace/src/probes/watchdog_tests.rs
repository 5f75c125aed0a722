//! The watchdog against real deaths. The tracer that dies is this test binary, run again.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::Watchdog;
use crate::probes::attach::live::{Probe, TARGET, Target, uprobe_events};
use crate::probes::attach::rawbpf::Map;
use crate::probes::attach::{Attachment, DIRECT_DETACH_MAX};

const ENV: &str = "MEMTRACE_TEST_TRACER";

/// Not a test of its own: what the others start. Attaches to the pids in the environment, marks
/// the last one as stopped, says so and waits to be killed.
#[test]
#[ignore = "a helper process of the tests beside it"]
fn tracer_process() {
    let Ok(arguments) = std::env::var(ENV) else { return };
    let mut words = arguments.split(' ');
    let (program, offset) = (words.next().unwrap(), words.next().unwrap());
    let pids: Vec<i32> = words.map(|word| word.parse().unwrap()).collect();
    let watchdog = Watchdog::start().unwrap();
    let probe = Probe::at(Path::new(program), offset.parse().unwrap());
    let stopped = Map::new();
    watchdog.will().set_stopped_map(Some(stopped.0.as_raw_fd()));
    let _attachment = Attachment::new(&[probe.group()], &pids, Some(watchdog.will())).unwrap();
    stopped.set(*pids.last().unwrap() as u32, 1);
    let dog = watchdog.child.as_ref().unwrap().pid;
    println!("\nattached {dog}");
    std::io::stdout().flush().unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

struct Tracer {
    child: Child,
    output: BufReader<ChildStdout>,
    watchdog: i32,
}

impl Tracer {
    fn start(targets: &[Target]) -> Self {
        let offset = crate::probes::attach::live::hit_offset(&TARGET);
        let mut arguments = format!("{} {offset}", TARGET.display());
        for target in targets {
            arguments += &format!(" {}", target.pid());
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "probes::watchdog::tests::tracer_process"])
            .args(["--ignored", "--nocapture"])
            .env(ENV, arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let watchdog = loop {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the tracer failed");
            if let Some(pid) = line.strip_prefix("attached ") {
                break pid.trim().parse().unwrap();
            }
        };
        Tracer { child, output, watchdog }
    }

    fn events_exist(&self) -> bool {
        uprobe_events().contains(&format!("memtrace_{}_", self.child.id()))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The letter of its state.
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 1..].trim_start().chars().next()
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: processes that the test started and has not waited for.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// Until it is so, at most two seconds; returns how long it took.
#[track_caller]
fn within_two_seconds(what: &str, condition: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(2), "after two seconds: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

#[track_caller]
fn nothing_is_left_of_a_killed_tracer(processes: usize) {
    let mut targets: Vec<Target> = (0..processes).map(|_| Target::start(&["hits", "10"])).collect();
    let mut tracer = Tracer::start(&targets);
    let stopped = targets.last().unwrap().pid();
    signal(stopped, libc::SIGSTOP);
    within_two_seconds("stopped", || state(stopped) == Some('T'));
    assert!(targets.iter().all(Target::has_breakpoint) && tracer.events_exist());

    tracer.child.kill().unwrap();
    let start = Instant::now();
    let mut rest = Vec::new();
    tracer.output.read_to_end(&mut rest).unwrap();
    let pipe_closed = start.elapsed();
    assert!(pipe_closed < Duration::from_millis(500), "{pipe_closed:?}");
    within_two_seconds("continued", || state(stopped) == Some('S'));
    let continued = start.elapsed();
    within_two_seconds("no breakpoints", || !targets.iter().any(Target::has_breakpoint));
    let bare = start.elapsed();
    within_two_seconds("no events", || !tracer.events_exist());
    let clean = start.elapsed();
    // It is an orphan: gone, or waiting for init to notice.
    within_two_seconds("no watchdog", || matches!(state(tracer.watchdog), None | Some('Z')));
    println!(
        "{processes} processes: pipe {pipe_closed:?}, continued {continued:?}, bare {bare:?}, \
         events gone {clean:?}"
    );
    for target in &mut targets {
        assert_eq!(target.run(), 10);
    }
    for target in targets {
        target.end();
    }
}

#[test]
fn live_kill_9_leaves_nothing_in_one_process() {
    nothing_is_left_of_a_killed_tracer(1);
}

#[test]
fn live_kill_9_leaves_nothing_in_many_processes() {
    nothing_is_left_of_a_killed_tracer(DIRECT_DETACH_MAX + 9);
}

#[test]
fn live_only_sigkill_ends_the_watchdog_and_a_terminal_cannot_reach_it() {
    let targets = [Target::start(&["hits", "1"])];
    let tracer = Tracer::start(&targets);
    // SAFETY: plain queries.
    let (session, group) =
        unsafe { (libc::getsid(tracer.watchdog), libc::getpgid(tracer.watchdog)) };
    assert_eq!((session, group), (tracer.watchdog, tracer.watchdog));
    for sent in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGTSTP] {
        signal(tracer.watchdog, sent);
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(state(tracer.watchdog), Some('S'));
    drop(tracer);
    within_two_seconds("no breakpoints", || !targets[0].has_breakpoint());
}

#[test]
fn live_a_watchdog_ends_with_its_owner_object() {
    let watchdog = Watchdog::start().unwrap();
    let pid = watchdog.child.as_ref().unwrap().pid;
    within_two_seconds("asleep", || state(pid) == Some('S'));
    drop(watchdog);
    assert_eq!(state(pid), None);
}

#[test]
fn live_the_death_of_a_watchdog_is_noticed_and_it_can_be_restarted() {
    let mut watchdog = Watchdog::start().unwrap();
    assert!(watchdog.is_alive());
    let pid = watchdog.child.as_ref().unwrap().pid;
    signal(pid, libc::SIGKILL);
    let fd = watchdog.pidfd().unwrap().as_raw_fd();
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, a local.
    assert_eq!(unsafe { libc::poll(&mut poll, 1, 2000) }, 1);
    assert!(!watchdog.is_alive());
    watchdog.restart().unwrap();
    assert!(watchdog.is_alive());
    assert_ne!(watchdog.child.as_ref().unwrap().pid, pid);
}
