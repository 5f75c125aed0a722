//! Live tests: real breakpoints in real processes. They need root, a kernel with uprobes and a C
//! compiler, and fail where one is missing.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::LazyLock;

use object::{Object, ObjectSegment, ObjectSymbol};

use super::rawbpf::{Map, counting_program};
use super::tracefs::Tracefs;
use super::{AttachError, Attachment, Group, Place};

/// The compiled target and the same code as a library.
pub(crate) static TARGET: LazyLock<PathBuf> = LazyLock::new(|| compile("target", &["-pie"]));
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| compile("libhit.so", &["-shared"]));

fn compile(name: &str, flags: &[&str]) -> PathBuf {
    static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/probes/attach/live_target.c");
    let program = DIR.path().join(name);
    let status = Command::new("cc")
        .args(["-O1", "-fPIC", "-fcf-protection=none", "-pthread", "-Wall", "-Werror"])
        .args(flags)
        .arg("-o")
        .arg(&program)
        .arg(source)
        .status()
        .expect("the live tests need a C compiler");
    assert!(status.success());
    program
}

/// File offset of `hit`.
pub(crate) fn hit_offset(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    let address =
        elf.symbols().find(|symbol| symbol.name() == Ok("hit")).expect("symbol hit").address();
    let segment = elf
        .segments()
        .find(|segment| (segment.address()..segment.address() + segment.size()).contains(&address))
        .unwrap();
    let offset = address - segment.address() + segment.file_range().0;
    assert_eq!(bytes[offset as usize], 0x53, "hit must begin with push %rbx");
    offset
}

pub(crate) struct Target {
    pub(crate) child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Target {
    /// Starts the target and waits until it is ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut child = Command::new(&*TARGET)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut target = Target { child, input, output };
        assert_eq!(target.line(), "ready");
        target
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Lets it begin and returns the child that it names; [`run`](Self::run) goes on from there.
    fn begin(&mut self) -> i32 {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
        let line = self.line();
        line.strip_prefix("child ")
            .unwrap_or_else(|| panic!("target said {line:?}"))
            .parse()
            .unwrap()
    }

    /// Lets it do its work and returns the number it says.
    pub(crate) fn run(&mut self) -> u64 {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
        self.result()
    }

    fn result(&mut self) -> u64 {
        let line = self.line();
        line.strip_prefix("done ")
            .unwrap_or_else(|| panic!("target said {line:?}"))
            .parse()
            .unwrap()
    }

    /// Lets it end and checks that it ended well.
    pub(crate) fn end(mut self) {
        self.input.take();
        assert!(self.child.wait().unwrap().success(), "the target was harmed");
    }

    /// True when there is a breakpoint at `hit` in its memory.
    pub(crate) fn has_breakpoint(&self) -> bool {
        breakpoint_in(self.pid(), &TARGET)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the byte at `hit` as the process would execute it.
pub(crate) fn breakpoint_in(pid: i32, file: &Path) -> bool {
    let offset = hit_offset(file);
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let address = maps
        .lines()
        .filter(|line| line.ends_with(file.to_str().unwrap()))
        .find_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (start, end) = fields.next()?.split_once('-')?;
            let start = u64::from_str_radix(start, 16).ok()?;
            let end = u64::from_str_radix(end, 16).ok()?;
            let base = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
            (base..base + (end - start)).contains(&offset).then_some(start + offset - base)
        })
        .expect("file is mapped");
    let mut byte = [0u8];
    File::open(format!("/proc/{pid}/mem")).unwrap().read_exact_at(&mut byte, address).unwrap();
    match byte[0] {
        0xcc => true,
        0x53 => false,
        other => panic!("{other:#x} at hit"),
    }
}

/// Programs that count and where they count.
pub(crate) struct Probe {
    pub(crate) entries: Map,
    returns: Map,
    entry_program: OwnedFd,
    return_program: OwnedFd,
    files: Vec<(File, u64)>,
}

impl Probe {
    pub(crate) fn new(files: &[&Path]) -> Self {
        Self::with(files.iter().map(|p| (File::open(p).unwrap(), hit_offset(p))).collect())
    }

    /// For a process in which the target has been compiled by another.
    pub(crate) fn at(file: &Path, offset: u64) -> Self {
        Self::with(vec![(File::open(file).unwrap(), offset)])
    }

    fn with(files: Vec<(File, u64)>) -> Self {
        let (entries, returns) = (Map::new(), Map::new());
        Probe {
            entry_program: counting_program(&entries),
            return_program: counting_program(&returns),
            entries,
            returns,
            files,
        }
    }

    pub(crate) fn attach(&self, pids: &[i32]) -> Result<Attachment, AttachError> {
        Attachment::new(&[self.group()], pids, None)
    }

    pub(crate) fn group(&self) -> Group<'_> {
        let places: Vec<Place<'_>> = self
            .files
            .iter()
            .map(|(file, offset)| Place { file: file.as_fd(), offset: *offset })
            .collect();
        Group {
            entry_program: self.entry_program.as_fd(),
            return_program: self.return_program.as_fd(),
            entries: places.clone(),
            returns: places,
        }
    }
}

/// Attaches to a target in this mode, lets it run and compares each hit.
#[track_caller]
fn every_hit_is_seen(args: &[&str]) -> (Probe, u64) {
    let probe = Probe::new(&[&TARGET]);
    let mut target = Target::start(args);
    let attachment = probe.attach(&[target.pid()]).unwrap();
    let expected = target.run();
    println!("{args:?}: {:?}", attachment.report());
    assert!(expected > 0);
    assert_eq!(probe.entries.total(), expected, "entries");
    assert_eq!(probe.returns.total(), expected, "returns");
    println!("{:?}", attachment.detach().unwrap());
    target.end();
    (probe, expected)
}

pub(crate) fn uprobe_events() -> String {
    let tracefs = Tracefs::mount().unwrap();
    tracefs.read_text("uprobe_events")
}

#[test]
fn live_every_hit_of_one_process_is_seen() {
    every_hit_is_seen(&["hits", "20000"]);
}

#[test]
fn live_every_hit_of_many_threads_is_seen() {
    every_hit_is_seen(&["threads", "5000", "16"]);
}

#[test]
fn live_children_and_grandchildren_are_seen_from_their_first_hit() {
    let (probe, _) = every_hit_is_seen(&["forks", "200", "5"]);
    assert_eq!(probe.entries.keys().len(), 300);
}

#[test]
fn live_exec_after_fork_vfork_and_spawn_is_seen_from_the_first_hit() {
    every_hit_is_seen(&["execs", "60", "7"]);
}

#[test]
fn live_forks_by_threads_that_were_made_while_attaching_are_seen() {
    every_hit_is_seen(&["churn", "400"]);
}

/// For targets that name a process half-way, which is anchored then, or not. (Not anchoring the
/// grandchild lost all of its 1000 hits on 6.18.)
fn hits_of_a_process_named_half_way(args: &[&str], anchor: bool) -> (u64, u64) {
    let probe = Probe::new(&[&TARGET]);
    let mut target = Target::start(args);
    let mut attachment = probe.attach(&[target.pid()]).unwrap();
    let named = target.begin();
    if anchor {
        assert!(attachment.anchor(named).unwrap());
    }
    let expected = target.run();
    assert_eq!(probe.entries.total(), probe.returns.total());
    attachment.forget(named);
    drop(attachment);
    target.end();
    (probe.entries.total(), expected)
}

#[test]
fn live_forks_after_the_leader_ended_are_seen() {
    let probe = Probe::new(&[&TARGET]);
    let mut target = Target::start(&["leader", "20"]);
    let attachment = probe.attach(&[target.pid()]).unwrap();
    assert_eq!(attachment.report().threads, 2);
    target.begin();
    assert_eq!(target.run(), 40);
    assert_eq!((probe.entries.total(), probe.returns.total()), (40, 40));
    drop(attachment);
    target.end();
}

#[test]
fn live_a_process_whose_threads_are_all_younger_is_seen_when_it_is_anchored() {
    assert_eq!(hits_of_a_process_named_half_way(&["young-leader", "20"], true), (40, 40));
}

#[test]
fn live_a_child_that_outlives_its_siblings_is_seen() {
    let args = ["siblings", "200", "1000"];
    assert_eq!(hits_of_a_process_named_half_way(&args, false), (1000, 1000));
}

#[test]
fn live_a_grandchild_that_outlives_its_siblings_is_seen_when_it_is_anchored() {
    let args = ["deep-siblings", "200", "1000"];
    assert_eq!(hits_of_a_process_named_half_way(&args, true), (1000, 1000));
}

#[test]
fn live_one_event_holds_places_of_several_files() {
    let probe = Probe::new(&[&TARGET, &LIBRARY]);
    let library = LIBRARY.to_str().unwrap();
    let mut target = Target::start(&["dlopen", "50", "0", library]);
    let attachment = probe.attach(&[target.pid()]).unwrap();
    assert_eq!(attachment.report().events, 2);
    assert_eq!(target.run(), 50);
    assert_eq!((probe.entries.total(), probe.returns.total()), (50, 50));
    drop(attachment);
    target.end();
}

#[test]
fn live_attaching_twice_counts_once() {
    let probe = Probe::new(&[&TARGET]);
    let mut target = Target::start(&["hits", "1000"]);
    let mut attachment = probe.attach(&[target.pid(), target.pid()]).unwrap();
    assert_eq!(attachment.add_process(target.pid()).unwrap(), 1);
    assert_eq!(target.run(), 1000);
    assert_eq!((probe.entries.total(), probe.returns.total()), (1000, 1000));
    drop(attachment);
    target.end();
}

#[test]
fn live_a_process_added_later_is_seen_and_others_never() {
    let probe = Probe::new(&[&TARGET]);
    let mut first = Target::start(&["hits", "10"]);
    let mut second = Target::start(&["hits", "20"]);
    let mut bystander = Target::start(&["hits", "30"]);
    let mut attachment = probe.attach(&[first.pid()]).unwrap();
    assert!(first.has_breakpoint() && !second.has_breakpoint());
    attachment.add_process(second.pid()).unwrap();
    assert!(second.has_breakpoint());
    assert!(!bystander.has_breakpoint());
    for target in [&mut first, &mut second, &mut bystander] {
        target.run();
    }
    let hits = [&first, &second, &bystander].map(|target| probe.entries.get(target.pid() as u32));
    assert_eq!(hits, [10, 20, 0]);
    drop(attachment);
    for target in [first, second, bystander] {
        target.end();
    }
}

#[test]
fn live_nothing_is_left_after_detach() {
    for processes in [1, super::DIRECT_DETACH_MAX + 4] {
        let probe = Probe::new(&[&TARGET]);
        let mut targets: Vec<Target> =
            (0..processes).map(|_| Target::start(&["hits", "5"])).collect();
        let pids: Vec<i32> = targets.iter().map(Target::pid).collect();
        let attachment = probe.attach(&pids).unwrap();
        let name = attachment.group.removal("");
        let name = name.trim_matches(['-', ':', '/']);
        assert!(uprobe_events().contains(name));
        assert!(targets.iter().all(Target::has_breakpoint));
        println!("{:?}", attachment.report());
        let report = attachment.detach().unwrap();
        println!("{report:?}");
        assert!(report.events_removed);
        assert!(!uprobe_events().contains(name));
        assert!(!targets.iter().any(Target::has_breakpoint));
        for target in &mut targets {
            target.run();
        }
        assert_eq!(probe.entries.total(), 0);
        for target in targets {
            target.end();
        }
    }
}

#[test]
fn live_the_death_of_the_holder_harms_nothing() {
    let probe = Probe::new(&[&TARGET]);
    let mut target = Target::start(&["hits", "100"]);
    let mut attachment = probe.attach(&[target.pid()]).unwrap();
    attachment.holder.end();
    target.run();
    assert_eq!((probe.entries.total(), probe.returns.total()), (100, 100));
    drop(attachment);
    target.end();
}

#[test]
fn live_events_of_a_living_memtrace_are_not_swept_and_those_of_a_dead_one_are() {
    let tracefs = Tracefs::open().unwrap();
    let file = File::open(&*TARGET).unwrap();
    let places = || std::iter::once((file.as_fd(), hit_offset(&TARGET)));
    let mut group = super::EventGroup::new(Tracefs::open().unwrap()).unwrap();
    group.define("entry0", super::EventKind::Entry, places()).unwrap();
    let name = group.removal("entry0")[2..].to_owned();
    tracefs.sweep().unwrap();
    assert!(uprobe_events().contains(&name));
    // What a killed memtrace does: its descriptors go, its events stay.
    group.abandon();
    tracefs.sweep().unwrap();
    assert!(!uprobe_events().contains(&name));
}

#[test]
fn live_a_process_that_has_ended_is_an_error_of_its_own() {
    let probe = Probe::new(&[&TARGET]);
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id() as i32;
    child.wait().unwrap();
    let error = probe.attach(&[pid]).unwrap_err();
    assert!(matches!(error, AttachError::ProcessEnded { pid: p } if p == pid), "{error}");
    // Beside a living one it is a note in the report.
    let target = Target::start(&["hits", "1"]);
    let attachment = probe.attach(&[pid, target.pid()]).unwrap();
    assert_eq!(attachment.report().ended, [pid]);
}

#[test]
fn live_a_zombie_has_ended() {
    let probe = Probe::new(&[&TARGET]);
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id() as i32;
    while !super::stat(pid).unwrap().unwrap().zombie {
        std::thread::yield_now();
    }
    let error = probe.attach(&[pid]).unwrap_err();
    child.wait().unwrap();
    assert!(matches!(error, AttachError::ProcessEnded { .. }), "{error}");
}

#[test]
fn live_a_kernel_thread_is_refused() {
    let probe = Probe::new(&[&TARGET]);
    // kthreadd is 2 in the initial PID namespace.
    let error = probe.attach(&[2]).unwrap_err();
    assert!(matches!(error, AttachError::KernelThread { pid: 2 }), "{error}");
}

#[test]
fn live_a_place_that_cannot_hold_a_breakpoint_is_named() {
    let mut probe = Probe::new(&[&TARGET, &LIBRARY]);
    let size = probe.files[1].0.metadata().unwrap().len();
    probe.files[1].1 = size + 4096;
    let target = Target::start(&["hits", "1"]);
    let error = probe.attach(&[target.pid()]).unwrap_err();
    println!("{error}");
    let AttachError::BadPlace { file, offset, .. } = error else { panic!("{error}") };
    assert_eq!((file.as_str(), offset), (LIBRARY.to_str().unwrap(), size + 4096));
    assert!(!target.has_breakpoint());
}

#[test]
fn live_a_place_held_by_another_tracer_with_a_reference_counter_is_named() {
    // What bcc's Python tools do: a uprobe with a ref_ctr_offset that means nothing.
    let holder = Tracefs::open().unwrap();
    let group = format!("foreign_{}", std::process::id());
    let offset = hit_offset(&LIBRARY);
    holder.command(&format!("p:{group}/hit {}:{offset:#x}(0x10)", LIBRARY.display())).unwrap();
    let probe = Probe::new(&[&TARGET, &LIBRARY]);
    let target = Target::start(&["hits", "1"]);
    let error = probe.attach(&[target.pid()]).unwrap_err();
    println!("{error}");
    holder.command(&format!("-:{group}/hit")).unwrap();
    let AttachError::HeldByAnotherTracer { file, offset: named } = error else { panic!("{error}") };
    assert_eq!((file.as_str(), named), (LIBRARY.to_str().unwrap(), offset));
}

#[test]
fn live_a_command_is_seen_from_its_first_hit_through_execs_of_its_children() {
    let probe = Probe::new(&[&TARGET]);
    let target = TARGET.to_str().unwrap();
    let script = format!("{target} now 300; {target} now 20 & wait; exec {target} now 1");
    let command = ["sh", "-c", &script].map(Into::into);
    let held = crate::target::spawn::HeldCommand::new(&command).unwrap();
    let attachment = probe.attach(&[held.pid()]).unwrap();
    assert!(held.release().unwrap().wait().unwrap().success());
    assert_eq!((probe.entries.total(), probe.returns.total()), (321, 321));
    drop(attachment);
}

#[test]
fn live_who_lacks_a_capability_is_told_which_and_leaves_nothing() {
    let target = Target::start(&["hits", "1"]);
    let output = Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "probes::attach::live::attach_without_privilege"])
        .args(["--ignored", "--nocapture"])
        .env("MEMTRACE_TEST_PID", target.pid().to_string())
        .output()
        .expect("needs setpriv (util-linux)");
    let said = String::from_utf8_lossy(&output.stdout);
    // As owner of tracefs' files it gets that far.
    assert!(said.contains("permission denied (needs CAP_PERFMON"), "{output:?}");
    let tracer: u32 =
        said.lines().find_map(|line| line.strip_prefix("pid ")).unwrap().parse().unwrap();
    assert!(!uprobe_events().contains(&format!("memtrace_{tracer}_")));
}

/// Not a test of its own: what the one above runs without capabilities.
#[test]
#[ignore = "a helper process of the test above it"]
fn attach_without_privilege() {
    let Ok(pid) = std::env::var("MEMTRACE_TEST_PID") else { return };
    let file = File::open("/proc/self/exe").unwrap();
    let group = Group {
        // Not programs, but they are not looked at before the events exist.
        entry_program: file.as_fd(),
        return_program: file.as_fd(),
        entries: vec![Place { file: file.as_fd(), offset: 0 }],
        returns: Vec::new(),
    };
    println!("\npid {}", std::process::id());
    println!("{}", Attachment::new(&[group], &[pid.parse().unwrap()], None).unwrap_err());
}
