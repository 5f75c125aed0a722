//! Names of compiled programs, against binutils' addr2line and nm.
//!
//! Needs gcc, g++, rustc, binutils, xz and dwz: without one of them a test fails and says which.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use memtrace::symbols::{AddressSpaces, Frame, Module, Modules, Symbolizer, demangle};

/// Runs a tool to its end and returns what it prints.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("this test needs the program {program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

struct Workshop {
    directory: tempfile::TempDir,
}

impl Workshop {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("temporary directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Compiles one of the programs beside this file.
    fn compile(&self, source: &str, arguments: &[&str]) -> PathBuf {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/symbols").join(source);
        let output = self.path("program");
        let compiler = match source.extension().and_then(|e| e.to_str()) {
            Some("c") => "gcc",
            Some("cpp") => "g++",
            _ => "rustc",
        };
        let files = [text(&source), "-o", text(&output)];
        run(compiler, &[&files[..], arguments].concat());
        output
    }

    /// A symbolizer that looks for debug files here only.
    fn symbolizer(&self) -> Symbolizer {
        Symbolizer::new(vec![self.path("debug")])
    }
}

fn open(path: &Path) -> Arc<Module> {
    Modules::default().open(path).expect("opens")
}

/// A defined function: address, size, name as nm demangles it.
struct Defined {
    address: u64,
    size: u64,
    name: String,
}

fn nm(path: &Path) -> Vec<Defined> {
    let listing = run("nm", &["-S", "-C", "--defined-only", text(path)]);
    listing
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(4, ' ');
            let address = u64::from_str_radix(parts.next()?, 16).ok()?;
            let size = u64::from_str_radix(parts.next()?, 16).ok()?;
            let kind = parts.next()?;
            ["t", "T", "w", "W", "i"]
                .contains(&kind)
                .then_some(())
                .and_then(|()| parts.next())
                .map(|name| Defined { address, size, name: name.to_owned() })
        })
        .collect()
}

/// Up to `limit` addresses, spread over all functions of a program.
fn addresses(path: &Path, limit: usize) -> Vec<u64> {
    let all: Vec<u64> = nm(path).iter().flat_map(|f| f.address..f.address + f.size).collect();
    assert!(!all.is_empty());
    // A step that shares no factor with common alignments.
    let step = (all.len() / limit).max(1) | 1;
    all.into_iter().step_by(step).collect()
}

/// What addr2line says: per address the frames, innermost first. Names are demangled by memtrace:
/// the demanglers' tastes differ, the function must not.
fn addr2line(path: &Path, addresses: &[u64]) -> Vec<Vec<Frame>> {
    let mut child = Command::new("addr2line")
        .args(["-a", "-f", "-i", "-e", text(path)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs the program addr2line (package binutils)");
    let input: String = addresses.iter().map(|a| format!("{a:#x}\n")).collect();
    let mut stdin = child.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("addr2line");
    writer.join().expect("no panic").expect("write");
    let output = String::from_utf8_lossy(&output.stdout);
    let mut answers: Vec<Vec<Frame>> = Vec::new();
    let mut lines = output.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") && !line.contains(' ') {
            answers.push(Vec::new());
            continue;
        }
        let location = lines.next().expect("function and place come in pairs");
        let place = location.split(" (discriminator").next().expect("first part");
        let (file, number) = place.rsplit_once(':').expect("file:line");
        let number = number.parse().ok().filter(|&n: &u32| n != 0);
        // Without debug information addr2line gives the table's FILE symbol, a compilation unit.
        let is_path = file != "??" && (number.is_some() || file.contains('/'));
        let frame = Frame {
            function: demangle(line),
            file: is_path.then(|| file.to_owned()),
            line: number,
        };
        answers.last_mut().expect("an address came first").push(frame);
    }
    assert_eq!(answers.len(), addresses.len());
    answers
}

/// Function, base name of the file, line.
fn comparable(frame: &Frame) -> (String, Option<String>, Option<u32>) {
    let function = frame.function.clone();
    let file = frame.file.as_deref().map(|f| f.rsplit('/').next().unwrap_or(f).to_owned());
    (function, file, frame.line)
}

/// Names of one address, by name. Whichever of its names a function is called by, it is the same.
#[derive(Default)]
struct Aliases(BTreeMap<String, u64>);

impl Aliases {
    fn of(path: &Path) -> Self {
        // Local functions of one name can't be told apart, nor need they be here.
        Self(nm(path).into_iter().map(|f| (f.name, f.address)).collect())
    }

    fn same(&self, one: &str, other: &str) -> bool {
        let address = |name| self.0.get(name);
        one == other || address(one).is_some_and(|a| Some(a) == address(other))
    }
}

/// Frames without what binutils 2.40 gets wrong.
fn agrees(found: &[Frame], expected: &[Frame], aliases: &Aliases) -> bool {
    // It takes an inlined function without a linkage name (a lambda) for the one it is inlined in.
    let misnamed = expected.len() > 1
        && expected.first().map(|f| &f.function) == expected.last().map(|f| &f.function);
    found.len() == expected.len()
        && found.iter().zip(expected).enumerate().all(|(depth, (found, expected))| {
            let (function, file, line) = comparable(found);
            let (expected_function, expected_file, expected_line) = comparable(expected);
            // It takes the compiled file for an included one, giving lines that are not there.
            let impossible = expected_file.as_deref().is_some_and(|f| f.starts_with("program."))
                && expected_line > Some(100);
            (aliases.same(&function, &expected_function) || misnamed && depth == 0)
                && (file == expected_file || impossible)
                && line == expected_line
        })
}

/// Both give the same at every address.
fn assert_same(
    module: &Arc<Module>,
    symbolizer: &mut Symbolizer,
    addresses: &[u64],
    expected: &[Vec<Frame>],
    aliases: &Aliases,
) {
    let mut different = Vec::new();
    for (&address, expected) in addresses.iter().zip(expected) {
        let found = symbolizer.frames(module, address, false);
        if !agrees(&found, expected, aliases) {
            let [found, expected] =
                [&found, expected].map(|f| f.iter().map(comparable).collect::<Vec<_>>());
            different.push(format!("{address:#x}\n  expected {expected:?}\n  found    {found:?}"));
        }
    }
    assert!(
        different.is_empty(),
        "{} of {} addresses differ, for example {}",
        different.len(),
        addresses.len(),
        different.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("\n")
    );
}

fn assert_like_addr2line(source: &str, arguments: &[&str]) {
    let workshop = Workshop::new();
    let program = workshop.compile(source, arguments);
    let addresses = addresses(&program, 3000);
    let expected = addr2line(&program, &addresses);
    let aliases = Aliases::of(&program);
    assert_same(&open(&program), &mut workshop.symbolizer(), &addresses, &expected, &aliases);
}

#[test]
fn c_is_named_as_by_addr2line() {
    for flags in [
        &["-g", "-O0"][..],
        &["-g", "-O2"],
        &["-g", "-O2", "-gdwarf-4"],
        &["-g3", "-O1", "-gz=zlib"],
        &["-g", "-O2", "-no-pie"],
        &["-g", "-O3", "-ffunction-sections", "-fno-asynchronous-unwind-tables"],
    ] {
        println!("{flags:?}");
        assert_like_addr2line("program.c", flags);
    }
}

#[test]
fn cpp_is_named_as_by_addr2line() {
    for flags in [&["-g", "-O0"][..], &["-g", "-O2"], &["-g", "-O2", "-gdwarf-4"]] {
        println!("{flags:?}");
        assert_like_addr2line("program.cpp", flags);
    }
}

#[test]
fn rust_is_named_as_by_addr2line() {
    for flags in [
        &["-g", "-Cstrip=none"][..],
        &["-g", "-O", "-Cstrip=none"],
        &["-g", "-O", "-Csymbol-mangling-version=v0", "-Cstrip=none"],
    ] {
        println!("{flags:?}");
        assert_like_addr2line("program.rs", flags);
    }
}

#[test]
fn static_and_static_pie_programs_are_named() {
    for flags in [&["-g", "-O2", "-static"][..], &["-g", "-O2", "-static-pie"]] {
        println!("{flags:?}");
        assert_like_addr2line("program.c", flags);
    }
}

/// A program with its debug information, and what addr2line knows of it then.
struct Original {
    workshop: Workshop,
    program: PathBuf,
    addresses: Vec<u64>,
    expected: Vec<Vec<Frame>>,
}

impl Original {
    fn new(source: &str) -> Self {
        let original = Self::of(source, &[]);
        assert!(original.expected.iter().any(|frames| frames.len() > 1), "something is inlined");
        original
    }

    fn of(source: &str, flags: &[&str]) -> Self {
        let workshop = Workshop::new();
        let flags = [&["-g", "-O2", "-Wl,--build-id=sha1"], flags].concat();
        let program = workshop.compile(source, &flags);
        let addresses = addresses(&program, 1000);
        let expected = addr2line(&program, &addresses);
        Self { workshop, program, addresses, expected }
    }

    /// Makes `stripped` and, elsewhere, its debug file.
    fn split(&self, debug_file: &Path) -> PathBuf {
        let stripped = self.workshop.path("stripped");
        fs::create_dir_all(debug_file.parent().expect("has a directory")).expect("mkdir");
        run("objcopy", &["--only-keep-debug", text(&self.program), text(debug_file)]);
        run("strip", &["-o", text(&stripped), text(&self.program)]);
        stripped
    }

    fn link(&self, stripped: &Path, debug_file: &Path) {
        let link = format!("--add-gnu-debuglink={}", text(debug_file));
        run("objcopy", &[&link, text(stripped)]);
    }

    /// All that addr2line knew of the original is known of this file.
    fn assert_all_known(&self, program: &Path) {
        let mut symbolizer = self.workshop.symbolizer();
        let aliases = Aliases::of(&self.program);
        assert_same(&open(program), &mut symbolizer, &self.addresses, &self.expected, &aliases);
    }

    /// Functions are named as by nm of the original, without files and lines. Which of them, the
    /// predicate says.
    fn assert_functions_known(&self, program: &Path, wanted: impl Fn(&Defined) -> bool) {
        let mut symbolizer = self.workshop.symbolizer();
        let module = open(program);
        let all = nm(&self.program);
        let mut checked = 0;
        for function in all.iter().filter(|f| f.size > 0 && wanted(f)) {
            let aliases: Vec<&str> = all
                .iter()
                .filter(|other| other.address == function.address)
                .map(|other| other.name.as_str())
                .collect();
            for address in [function.address, function.address + function.size - 1] {
                let frames = symbolizer.frames(&module, address, false);
                let [frame] = &frames[..] else { panic!("{}: {frames:?}", function.name) };
                assert!(aliases.contains(&frame.function.as_str()), "{aliases:?}: {frame:?}");
                assert_eq!((&frame.file, frame.line), (&None, None));
                checked += 1;
            }
        }
        assert!(checked > 0);
    }

    fn assert_nothing_known(&self, program: &Path, address: u64) {
        let frames = self.workshop.symbolizer().frames(&open(program), address, false);
        assert_eq!(frames, []);
    }

    fn address_of(&self, name: &str) -> u64 {
        let all = nm(&self.program);
        all.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("no {name}")).address
    }
}

#[test]
fn program_without_debug_information_has_functions_only() {
    let workshop = Workshop::new();
    let program = workshop.compile("program.c", &["-O2"]);
    let original =
        Original { workshop, program: program.clone(), addresses: vec![], expected: vec![] };
    original.assert_functions_known(&program, |_| true);
}

#[test]
fn stripped_program_has_exported_functions_only() {
    let workshop = Workshop::new();
    let program = workshop.compile("program.c", &["-O2", "-rdynamic"]);
    let stripped = workshop.path("stripped");
    run("strip", &["-o", text(&stripped), text(&program)]);
    let original = Original { workshop, program, addresses: vec![], expected: vec![] };
    original.assert_functions_known(&stripped, |f| f.name == "main" || f.name == "public_name");
    original.assert_nothing_known(&stripped, original.address_of("length"));
}

#[test]
fn debug_link_is_followed_beside_the_program_and_in_the_debug_directory() {
    let original = Original::new("program.c");
    // The same name is in the link whatever the directory.
    let beside = original.workshop.path("program.debug");
    let stripped = original.split(&beside);
    run("objcopy", &["--remove-section=.note.gnu.build-id", text(&stripped)]);
    original.link(&stripped, &beside);
    original.assert_all_known(&stripped);

    let hidden = original.workshop.path(".debug/program.debug");
    fs::create_dir(original.workshop.path(".debug")).expect("mkdir");
    fs::rename(&beside, &hidden).expect("move");
    original.assert_all_known(&stripped);

    let below_root = original.workshop.directory.path().strip_prefix("/").expect("absolute");
    let central = original.workshop.path("debug").join(below_root).join("program.debug");
    fs::create_dir_all(central.parent().expect("has a directory")).expect("mkdir");
    fs::rename(&hidden, &central).expect("move");
    original.assert_all_known(&stripped);

    // Another file of that name is not taken.
    fs::copy("/proc/self/exe", &central).expect("replace");
    original.assert_nothing_known(&stripped, original.address_of("length"));
}

#[test]
fn debug_file_is_found_by_build_id() {
    for source in ["program.c", "program.cpp"] {
        let original = Original::new(source);
        let id = open(&original.program).build_id_hex().to_owned();
        assert_eq!(id.len(), 40);
        let (first, rest) = id.split_at(2);
        let file = format!("debug/.build-id/{first}/{rest}.debug");
        let debug_file = original.workshop.path(&file);
        let stripped = original.split(&debug_file);
        original.assert_all_known(&stripped);

        fs::copy("/proc/self/exe", &debug_file).expect("replace");
        original.assert_nothing_known(&stripped, original.addresses[0]);
    }
}

#[test]
fn compressed_debug_file_is_read() {
    let original = Original::new("program.c");
    let debug_file = original.workshop.path("program.debug");
    let stripped = original.split(&debug_file);
    for format in ["zlib", "zlib-gnu", "zstd"] {
        let plain = original.workshop.path("plain.debug");
        run("objcopy", &["--only-keep-debug", text(&original.program), text(&plain)]);
        let option = format!("--compress-debug-sections={format}");
        run("objcopy", &[&option, text(&plain), text(&debug_file)]);
        let linked = original.workshop.path(format);
        fs::copy(&stripped, &linked).expect("copy");
        original.link(&linked, &debug_file);
        original.assert_all_known(&linked);
    }
}

#[test]
fn mini_debug_info_names_local_functions() {
    let original = Original::new("program.c");
    let mini = original.workshop.path("mini");
    // As rpm's find-debuginfo makes it, with all functions kept.
    run("objcopy", &["--only-keep-debug", text(&original.program), text(&mini)]);
    run("strip", &["--strip-debug", text(&mini)]);
    run("xz", &[text(&mini)]);
    let stripped = original.workshop.path("stripped");
    run("strip", &["-o", text(&stripped), text(&original.program)]);
    let section = format!("--add-section=.gnu_debugdata={}.xz", text(&mini));
    run("objcopy", &[&section, text(&stripped)]);
    original.assert_functions_known(&stripped, |_| true);
}

#[test]
fn information_that_dwz_moved_to_a_shared_file_is_found() {
    let original = Original::new("program.cpp");
    let [one, two] = ["one.debug", "two.debug"].map(|name| original.workshop.path(name));
    for file in [&one, &two] {
        run("objcopy", &["--only-keep-debug", text(&original.program), text(file)]);
    }
    let shared = original.workshop.path("shared.debug");
    run("dwz", &["-m", text(&shared), "-r", text(&one), text(&two)]);
    let sections = run("readelf", &["-SW", text(&one)]);
    assert!(sections.contains(".gnu_debugaltlink"), "dwz had something to share: {sections}");
    let stripped = original.workshop.path("stripped");
    run("strip", &["-o", text(&stripped), text(&original.program)]);
    original.link(&stripped, &one);
    run("objcopy", &["--remove-section=.note.gnu.build-id", text(&stripped)]);
    original.assert_all_known(&stripped);
}

#[test]
fn aliases_are_named_by_the_public_name() {
    let workshop = Workshop::new();
    let program = workshop.compile("program.c", &["-O2"]);
    let address = nm(&program).iter().find(|f| f.name == "weak_alias").expect("alias").address;
    let frames = workshop.symbolizer().frames(&open(&program), address, false);
    assert_eq!(frames[0].function, "public_name");
}

#[test]
fn return_address_is_looked_up_inside_the_call() {
    let workshop = Workshop::new();
    let program = workshop.compile("program.c", &["-g", "-O2"]);
    let module = open(&program);
    let unlikely = nm(&program)
        .into_iter()
        .find(|f| f.name.starts_with("unlikely"))
        .expect("function that ends in a call to exit");
    // The address after its last call is the first byte of another function, or of none.
    let behind = unlikely.address + unlikely.size;
    let mut symbolizer = workshop.symbolizer();
    assert_eq!(symbolizer.frames(&module, behind, true)[0].function, "unlikely");
    assert_ne!(
        symbolizer.frames(&module, behind, false).first().map(|f| f.function.as_str()),
        Some("unlikely")
    );
}

#[test]
fn plt_stubs_are_named_after_their_target() {
    for flags in [&["-O2"][..], &["-O2", "-Wl,-z,now"], &["-O2", "-fcf-protection", "-no-pie"]] {
        let workshop = Workshop::new();
        let program = workshop.compile("program.c", flags);
        let listing = run(
            "objdump",
            &["-d", "--section=.plt", "--section=.plt.sec", "--section=.plt.got", text(&program)],
        );
        let module = open(&program);
        let mut symbolizer = workshop.symbolizer();
        let mut checked = 0;
        for line in listing.lines().filter(|l| l.ends_with("@plt>:")) {
            let (address, name) = line.split_once(" <").expect("address <name>:");
            let address = u64::from_str_radix(address, 16).expect("hex");
            let frames = symbolizer.frames(&module, address, false);
            assert_eq!(frames.len(), 1, "{line}");
            assert_eq!(format!("{}>:", frames[0].function), name);
            checked += 1;
        }
        assert!(checked >= 4, "{listing}");
    }
}

/// Starts the C program; returns it and the addresses of `public_name` and `main` that it prints.
fn start(program: &Path) -> (Child, u64, u64) {
    start_with(Command::new(program).arg("wait"))
}

fn start_with(command: &mut Command) -> (Child, u64, u64) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("line");
    let address = |field: &str| {
        u64::from_str_radix(field.trim_start_matches("0x"), 16).expect("printed as %p")
    };
    let (first, second) = line.trim().split_once(' ').expect("two addresses");
    (child, address(first), address(second))
}

#[test]
fn ended_process_with_deleted_and_replaced_binary_is_still_named() {
    for flags in [&["-g", "-O2"][..], &["-g", "-O2", "-no-pie"], &["-g", "-O2", "-static-pie"]] {
        let workshop = Workshop::new();
        let program = workshop.compile("program.c", flags);
        let (mut child, public_name, main) = start(&program);
        let mut spaces = AddressSpaces::default();
        spaces.attach(child.id()).expect("attach");
        let pid = child.id();
        // Deleted before the process ended, and something else put in its place.
        fs::remove_file(&program).expect("delete");
        fs::write(&program, "not a program").expect("replace");
        child.kill().expect("kill");
        child.wait().expect("wait");

        let mut symbolizer = workshop.symbolizer();
        for (address, name) in [(public_name, "public_name"), (main, "main")] {
            let place = spaces.resolve(pid, address).expect("known");
            assert_eq!(place.module.path(), program);
            let frames = symbolizer.frames(place.module, place.svma, false);
            assert_eq!(frames[0].function, name);
            assert_eq!(
                frames[0].file.as_deref().and_then(|f| f.rsplit('/').next()),
                Some("program.c")
            );
        }
    }
}

/// The debug file is looked for in the target's own file system, also when the target has ended.
#[test]
fn debug_file_inside_a_container_is_found() {
    let original = Original::of("program.c", &["-static"]);
    let id = open(&original.program).build_id_hex().to_owned();
    let (first, rest) = id.split_at(2);
    let root = original.workshop.path("root");
    let debug_file = root.join(format!("symbols/.build-id/{first}/{rest}.debug"));
    let stripped = original.split(&debug_file);
    // Absolute links lead to the container's files, not to the machine's.
    std::os::unix::fs::symlink("/symbols", root.join("debug")).expect("symlink");
    fs::rename(&stripped, root.join("program")).expect("move");
    // What a container runtime does: a mount namespace with a root of its own.
    fs::create_dir(root.join("old")).expect("mkdir");
    let script = "mount --make-rprivate / && mount --bind \"$0\" \"$0\" && cd \"$0\" && \
                  pivot_root . old && exec /program wait";
    let (mut child, public_name, _) =
        start_with(Command::new("unshare").args(["--mount", "sh", "-c", script]).arg(&root));
    let pid = child.id();
    let mut spaces = AddressSpaces::default();
    spaces.attach(pid).expect("attach");
    child.kill().expect("kill");
    child.wait().expect("wait");

    let place = spaces.resolve(pid, public_name).expect("known");
    assert_eq!(place.module.name(), "/program");
    assert_eq!(place.module.build_id_hex(), id);
    let frames = Symbolizer::new(vec!["/debug".into()]).frames(place.module, place.svma, false);
    assert_eq!(frames[0].function, "public_name");
    assert!(frames[0].line.is_some());
}

#[test]
fn fork_and_exec_are_followed() {
    let workshop = Workshop::new();
    let program = workshop.compile("program.c", &["-g", "-no-pie"]);
    let mut shell = Command::new("sh")
        .args(["-c", "read line; exec \"$0\" wait"])
        .arg(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh");
    let pid = shell.id();
    let main = nm(&program).iter().find(|f| f.name == "main").expect("main").address;
    let mut spaces = AddressSpaces::default();
    spaces.attach(pid).expect("attach");
    assert!(spaces.resolve(pid, main).is_none(), "the shell has nothing there");
    let executable = |pid| memtrace::process::maps::executable(pid).expect("maps");
    let shell_code = executable(pid)[0].start;
    assert!(spaces.resolve(pid, shell_code).is_some());
    shell.stdin.as_mut().expect("piped").write_all(b"go\n").expect("write");
    let mut line = String::new();
    BufReader::new(shell.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    spaces.exec(pid);
    // What the kernel tells of each mapping that the new program makes.
    for mapping in executable(pid) {
        spaces.map(pid, &mapping);
    }
    shell.kill().expect("kill");
    shell.wait().expect("wait");
    assert!(spaces.resolve(pid, shell_code).is_none(), "the shell's code went with the exec");
    // A child that never existed: what it has can only come from its parent.
    let child = 0x7fff_fff0;
    spaces.fork(pid, child);
    spaces.exit(pid);
    assert!(spaces.resolve(pid, main).is_none());
    let place = spaces.resolve(child, main).expect("inherited");
    assert_eq!((place.module.path(), place.svma), (program.as_path(), main));
    let frames = workshop.symbolizer().frames(place.module, place.svma, false);
    assert_eq!(frames[0].function, "main");
}

#[test]
fn a_living_process_s_new_program_is_read_when_an_address_asks_for_it() {
    let workshop = Workshop::new();
    let program = workshop.compile("program.c", &["-g"]);
    let (mut child, public_name, _) = start(&program);
    let mut spaces = AddressSpaces::default();
    // Its mappings were never told.
    spaces.exec(child.id());
    let place = spaces.resolve(child.id(), public_name).expect("read");
    assert_eq!(place.module.path(), program);
    child.kill().expect("kill");
    child.wait().expect("wait");
}

#[test]
fn binary_deleted_before_attach_is_named() {
    let workshop = Workshop::new();
    let program = workshop.compile("program.c", &["-g"]);
    let (mut child, public_name, _) = start(&program);
    fs::remove_file(&program).expect("delete");
    let mut spaces = AddressSpaces::default();
    spaces.attach(child.id()).expect("attach");
    let place = spaces.resolve(child.id(), public_name).expect("known");
    assert_eq!(place.module.path(), program, "without the kernel's mark");
    let frames = workshop.symbolizer().frames(place.module, place.svma, false);
    assert_eq!(frames[0].function, "public_name");
    child.kill().expect("kill");
    child.wait().expect("wait");
}

#[test]
fn rewritten_binary_gives_no_wrong_names() {
    let workshop = Workshop::new();
    let program = workshop.compile("program.c", &["-g"]);
    let module = open(&program);
    let address = nm(&program).iter().find(|f| f.name == "main").expect("main").address;
    let mut symbolizer = workshop.symbolizer();
    assert_eq!(symbolizer.frames(&module, address, false)[0].line, Some(66));
    // In place: the same inode, shorter. Reading on in the mapping would be a SIGBUS.
    fs::OpenOptions::new().write(true).truncate(true).open(&program).expect("truncate");
    let frames = symbolizer.frames(&module, address, false);
    assert_eq!(frames.len(), 1);
    assert_eq!((frames[0].function.as_str(), frames[0].line), ("main", None));
    assert_eq!(workshop.symbolizer().frames(&module, address, false), []);
}

#[test]
fn vdso_functions_are_named() {
    let mut spaces = AddressSpaces::default();
    let pid = std::process::id();
    spaces.attach(pid).expect("attach");
    let maps = memtrace::process::maps::executable(pid).expect("maps");
    let vdso = maps.iter().find(|m| m.backing == memtrace::process::Backing::Vdso).expect("vdso");
    let mut symbolizer = Symbolizer::default();
    let mut names = BTreeMap::new();
    for address in vdso.start..vdso.end {
        let place = spaces.resolve(pid, address).expect("mapped");
        assert_eq!(place.module.name(), "[vdso]");
        for frame in symbolizer.frames(place.module, place.svma, false) {
            *names.entry(frame.function).or_insert(0) += 1;
        }
    }
    assert!(names.get("clock_gettime").is_some_and(|&bytes| bytes > 1), "{names:?}");
}

#[test]
fn library_loaded_after_attach_is_found() {
    let workshop = Workshop::new();
    let pid = std::process::id();
    let mut spaces = AddressSpaces::default();
    spaces.attach(pid).expect("attach");
    let library = workshop.compile("program.c", &["-g", "-shared", "-fPIC"]);
    let name = std::ffi::CString::new(text(&library)).expect("no NUL");
    // SAFETY: both strings end with NUL and live across the calls; the library has no constructors.
    let address = unsafe {
        let handle = libc::dlopen(name.as_ptr(), libc::RTLD_NOW);
        assert!(!handle.is_null());
        libc::dlsym(handle, c"public_name".as_ptr())
    } as u64;
    let place = spaces.resolve(pid, address).expect("found by reading the mappings again");
    assert_eq!(place.module.path(), library);
    let frames = workshop.symbolizer().frames(place.module, place.svma, false);
    assert_eq!(frames[0].function, "public_name");
}

#[test]
fn symbolizer_can_move_to_another_thread() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let module = open(Path::new("/proc/self/exe").canonicalize().expect("own path").as_path());
    let mut symbolizer = is_send(Symbolizer::default());
    let worker = std::thread::spawn(move || symbolizer.frames(&module, 0, false));
    assert_eq!(worker.join().expect("no panic"), []);
}
