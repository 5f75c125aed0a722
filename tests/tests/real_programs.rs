//! Stock programs are not harmed: same output and exit status as bare, a complete file, nothing
//! lost. Where an oracle can count along, the number of calls and bytes is the same.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use memtrace_tests::process::{Finished, PATIENCE, Running};
use memtrace_tests::{Recorder, Report, Truth, live, oracle, paths};

const LIMIT: Duration = Duration::from_secs(60);

/// A program, its arguments and what it reads.
struct Program {
    path: PathBuf,
    args: Vec<String>,
    stdin: String,
}

impl Program {
    fn new(path: &str, args: &[&str]) -> Self {
        let path = PathBuf::from(path);
        assert!(path.exists(), "{} is not installed", path.display());
        Self { path, args: args.iter().map(|a| (*a).to_owned()).collect(), stdin: String::new() }
    }

    fn reading(mut self, text: String) -> Self {
        self.stdin = text;
        self
    }

    fn bare(&self) -> Finished {
        let running = Running::start(&self.path, &self.args).unwrap();
        feed(running, &self.stdin).wait(LIMIT).unwrap()
    }

    fn recorded(&self, recorder: &Recorder) -> (Finished, Report) {
        let mut recording = recorder.command(&self.path, &self.args).unwrap();
        recording.memtrace = feed(recording.memtrace, &self.stdin);
        let recorded = recording.end(LIMIT).unwrap();
        let report = recorded.report_anyway().unwrap();
        (recorded.finished, report)
    }

    /// Recorded with no harm; the report.
    fn unharmed(&self) -> Report {
        let name = self.path.display();
        let bare = self.bare();
        let (finished, report) = self.recorded(&Recorder::new().lossless());
        assert_eq!(finished.status, bare.status, "{name}: {}", finished.stderr);
        assert_eq!(finished.text(), bare.text(), "{name}");
        assert!(report.exact(), "{name}: {:?}", report.losses);
        assert!(report.complete, "{name}");
        report
    }
}

fn feed(mut running: Running, text: &str) -> Running {
    if !text.is_empty() {
        running.say(text).unwrap();
    }
    running.close_stdin();
    running
}

fn json_text(entries: u32) -> String {
    let mut text = String::from("[");
    for i in 0..entries {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(
            text,
            "{comma}{{\"id\":{i},\"name\":\"entry number {i}\",\"tags\":[\"a{}\",\"b{}\"],\"x\":{}.5}}",
            i % 7,
            i % 11,
            i * 3
        );
    }
    text + "]"
}

#[test]
fn python3_parsing_json() {
    let _turn = live();
    let script = "import json, sys, hashlib\n\
        data = json.loads(sys.stdin.read())\n\
        data.sort(key=lambda e: e['name'])\n\
        text = json.dumps(data * 3)\n\
        print(len(text), hashlib.sha256(text.encode()).hexdigest())\n\
        sys.exit(5)\n";
    let python = Program::new("/usr/bin/python3", &["-c", script]).reading(json_text(3000));
    let report = python.unharmed();
    assert!(report.total("alloc_calls") > 3_000, "{:?}", report.totals);
    assert_eq!(python.bare().status.code(), Some(5));
}

/// The interpreter's own allocator aside, each object is a malloc.
#[test]
fn python3_with_a_malloc_an_object() {
    let _turn = live();
    let script = "print(sum(len(str(i)) for i in list(range(20000))))";
    let program =
        Program::new("/usr/bin/env", &["PYTHONMALLOC=malloc", "/usr/bin/python3", "-c", script]);
    let report = program.unharmed();
    assert!(report.total("alloc_calls") > 40_000, "{:?}", report.totals);
}

#[test]
fn sqlite3_in_memory() {
    let _turn = live();
    let mut sql =
        String::from("create table t(id integer primary key, name text, n real);\nbegin;\n");
    for i in 0..2000 {
        let _ =
            writeln!(sql, "insert into t(name, n) values('name {}', {}.25);", i * 7919 % 2000, i);
    }
    sql += "commit;\ncreate index i on t(name);\n\
        select count(*), sum(n), group_concat(name) from (select * from t order by name limit 50);\n\
        select a.name, b.n from t a join t b on a.id = b.id + 1 order by a.name desc limit 20;\n";
    let report = Program::new("/usr/bin/sqlite3", &[":memory:"]).reading(sql).unharmed();
    assert!(report.total("alloc_calls") > 10_000, "{:?}", report.totals);
}

#[test]
fn jq_on_a_large_document() {
    let _turn = live();
    let filter =
        "map(select(.id % 3 == 0) | .tags + [.name]) | flatten | group_by(.) | map([.[0], length])";
    let report = Program::new("/usr/bin/jq", &["-c", filter]).reading(json_text(2000)).unharmed();
    assert!(report.total("alloc_calls") > 10_000, "{:?}", report.totals);
}

/// The compiler proper, without its driver.
fn cc1() -> String {
    let output = Command::new("gcc").arg("-print-prog-name=cc1").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn cc1_compiling_a_truth_program() {
    let _turn = live();
    let source = paths::programs().join("deterministic.c");
    let output = Command::new("gcc").arg("-E").arg(&source).output().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let preprocessed = directory.path().join("source.i");
    fs::write(&preprocessed, &output.stdout).unwrap();
    let file = preprocessed.to_str().unwrap();
    let args = ["-quiet", "-O2", "-fpreprocessed", file, "-o", "/dev/stdout"];
    let report = Program::new(&cc1(), &args).unharmed();
    assert!(report.total("alloc_calls") > 10_000, "{:?}", report.totals);
}

/// Counted along by an oracle that is preloaded into the same program.
#[test]
fn calls_and_bytes_of_stock_programs_are_what_an_oracle_counts() {
    let _turn = live();
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("input.json");
    fs::write(&input, json_text(500)).unwrap();
    let input = input.to_str().unwrap();
    let cases: [(&str, Vec<&str>); 3] = [
        ("/usr/bin/jq", vec!["-c", "map(.name)", input]),
        (
            "/usr/bin/sqlite3",
            vec![":memory:", "create table t(a); insert into t values(1); select * from t;"],
        ),
        ("/usr/bin/sort", vec!["--parallel=1", input]),
    ];
    for (path, args) in cases {
        let counted = oracle::run(Path::new(path), &args, &Truth::default(), false).unwrap();
        let (_, report) = Program::new(path, &args).recorded(&Recorder::new().lossless());
        assert!(report.exact(), "{:?}", report.losses);
        assert_eq!(report.total("alloc_calls"), counted.calls, "{path}: calls");
        assert_eq!(report.total("alloc_bytes"), counted.bytes, "{path}: bytes");
        assert_eq!(report.total("free_calls"), counted.totals["free_calls"], "{path}: frees");
        assert_eq!(report.total("leaked_bytes"), counted.live_bytes, "{path}: leaked bytes");
        assert_eq!(report.total("peak_bytes"), counted.totals["peak_bytes"], "{path}: peak");
    }
}

/// Many arenas: threads that each have their own heap.
#[test]
fn python3_with_threads_and_many_arenas() {
    let _turn = live();
    let script = "import threading\n\
        out = [0] * 8\n\
        def work(n):\n    \
            for i in range(300):\n        \
                block = bytearray(1000 + i * 7 + n)\n        \
                out[n] += len(block)\n\
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]\n\
        [t.start() for t in threads]\n\
        [t.join() for t in threads]\n\
        print(out)\n";
    for arenas in ["1", "64"] {
        let setting = format!("MALLOC_ARENA_MAX={arenas}");
        let report =
            Program::new("/usr/bin/env", &[&setting, "/usr/bin/python3", "-c", script]).unharmed();
        assert!(report.total("alloc_calls") > 2_400, "{:?}", report.totals);
    }
}

/// A redis-server on a socket of its own, without a file on disk.
struct Redis {
    server: Running,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Redis {
    fn start(preload: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("redis.sock");
        let mut command = Command::new("/usr/bin/redis-server");
        command
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(directory.path());
        if let Some(library) = preload {
            command.env("LD_PRELOAD", library);
        }
        let server = Running::spawn(command).expect("redis-server is not installed");
        let redis = Self { server, socket, _directory: directory };
        let until = Instant::now() + PATIENCE;
        while redis.cli(&["PING"]).trim() != "PONG" {
            assert!(Instant::now() < until, "redis doesn't answer: {}", redis.server.stderr());
            thread::sleep(Duration::from_millis(20));
        }
        redis
    }

    fn cli(&self, args: &[impl AsRef<OsStr>]) -> String {
        let mut command = Command::new("/usr/bin/redis-cli");
        let output = command.arg("-s").arg(&self.socket).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn set(&self, from: u32, to: u32) {
        let mut commands = String::new();
        for i in from..to {
            let _ = writeln!(commands, "SET key:{i} {}", format!("{i:04}").repeat(60));
        }
        let mut cli = Command::new("/usr/bin/redis-cli");
        cli.arg("-s").arg(&self.socket);
        let mut cli = Running::spawn(cli).unwrap();
        cli.say(&commands).unwrap();
        cli.close_stdin();
        let answers = cli.wait(LIMIT).unwrap().success().unwrap().text();
        let good = answers.lines().filter(|line| *line == "OK").count();
        assert_eq!(good, (to - from) as usize, "redis did not take every SET");
    }

    fn end(mut self) {
        let _ = self.cli(&["SHUTDOWN", "NOSAVE"]);
        self.server.close_stdin();
        self.server.wait(PATIENCE).unwrap().success().unwrap();
    }
}

/// Debian's redis-server, which takes malloc from libjemalloc.
#[test]
fn redis_server_serves_while_it_is_recorded() {
    check_redis(None);
}

/// With the C library first in the search order it takes malloc from there, though libjemalloc is
/// loaded as well.
#[test]
fn redis_server_on_the_c_library_s_malloc_serves_while_it_is_recorded() {
    check_redis(Some("/lib/x86_64-linux-gnu/libc.so.6"));
}

fn check_redis(preload: Option<&str>) {
    let _turn = live();
    let redis = Redis::start(preload);
    redis.set(0, 500);
    let recording = Recorder::new().lossless().attach(&[redis.server.pid()]).unwrap();
    redis.set(500, 2500);
    let report = recording.stop().unwrap().report().unwrap();
    redis.set(2500, 3000);
    assert_eq!(redis.cli(&["DBSIZE"]).trim(), "3000");
    for i in [0, 499, 500, 1234, 2499, 2500, 2999] {
        let value = redis.cli(&["GET", &format!("key:{i}")]);
        assert_eq!(value.trim(), format!("{i:04}").repeat(60));
    }
    assert!(report.exact(), "{:?}", report.losses);
    // Each SET keeps at least its value and its key: 240 bytes and some.
    assert!(report.total("leaked_bytes") > 2000 * 240, "{:?}", report.totals);
    assert!(report.total("leaked_blocks") >= 2000 * 2, "{:?}", report.totals);
    assert!(report.total("alloc_calls") > 2000 * 4, "{:?}", report.totals);
    redis.end();
}
