//! Against the real allocators of Debian, checked by binutils' disassembler. Needs the packages
//! binutils, gcc, libc6-dev, musl, libjemalloc2, libtcmalloc-minimal4, libmimalloc2.0.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use memtrace_common::point::Function;

use super::{
    PlanError, PlannedPoint, ProbePlan, ProbedFile, SkipReason, plan_for_command, plan_for_process,
};
use crate::{
    elf::prologue::Emulation,
    probes::{launch::Environment, running::ScopeError},
    process::ProcessError,
};

const EMULATION: Emulation = Emulation::of_kernel(6, 1);

/// A child that is killed when the test ends, however it ends.
struct Target(Child);

impl Target {
    fn spawn(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::null()).spawn().expect("spawn");
        Target(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Once it has mapped a file of that name.
    fn wait_for(self, name: &str) -> Self {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid())).expect("maps");
            if maps.lines().any(|line| line.contains("r-xp") && line.contains(name)) {
                return self;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("{name} was never mapped");
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Address, mnemonic of the instructions from `start` on.
fn objdump(file: &Path, start: u64) -> Vec<(u64, String)> {
    let output = Command::new("objdump")
        .args(["-d", "-M", "intel", "--no-show-raw-insn"])
        .arg(format!("--start-address={start:#x}"))
        .arg(format!("--stop-address={:#x}", start + 160))
        .arg(file)
        .output()
        .expect("objdump (package binutils)");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .filter_map(|line| {
            let (address, rest) = line.trim().split_once(":\t")?;
            let words = rest.split_whitespace().filter(|w| !matches!(*w, "bnd" | "rex.W"));
            let mnemonic = words.clone().next()?.to_owned();
            Some((u64::from_str_radix(address, 16).ok()?, mnemonic))
        })
        .collect()
}

/// Every spot lies on an instruction, under the name that objdump gives it, with as many pushes
/// before it as the plan says.
fn check(file: &ProbedFile) {
    let headers =
        crate::elf::Headers::read(&*fs::read(&file.path).expect("read")).expect("headers");
    let svma = |offset| headers.svma_of_offset(offset).expect("svma");
    for point in &file.points {
        let listing = objdump(&file.path, svma(point.function_offset));
        for spot in std::iter::once(&point.spot).chain(&point.alternatives) {
            let at = listing
                .iter()
                .position(|(address, _)| *address == svma(spot.entry))
                .unwrap_or_else(|| panic!("{point:?} not on an instruction: {listing:x?}"));
            let mnemonic = spot.instruction.split(' ').next().unwrap_or_default();
            assert!(same(mnemonic, &listing[at].1), "{spot:?} is {}", listing[at].1);
            let pushes = listing[..at].iter().filter(|(_, m)| m == "push").count();
            assert_eq!(usize::from(spot.pushed), 8 * pushes, "{point:?}");
            if let Some(ret) = spot.returns {
                let at = listing.iter().position(|(a, _)| *a == svma(ret.offset)).expect("return");
                assert!(listing[..at].iter().all(|(_, m)| m != "push" && m != "sub"), "{point:?}");
            }
        }
        let costs: Vec<bool> = std::iter::once(&point.spot)
            .chain(&point.alternatives)
            .map(|spot| spot.emulated)
            .collect();
        assert!(costs.is_sorted_by(|a, b| a >= b), "cheapest first: {point:?}");
    }
}

/// Names that differ between the two disassemblers.
fn same(a: &str, b: &str) -> bool {
    a == b || (a == "jmp" && b == "jmp") || (a.starts_with("set") && b.starts_with("set"))
}

fn point(file: &ProbedFile, function: Function) -> &PlannedPoint {
    file.points
        .iter()
        .find(|p| p.function == function || p.aliases.contains(&function))
        .unwrap_or_else(|| panic!("no {} in {}", function.name(), file.path.display()))
}

fn preload(library: &str) -> Environment {
    assert!(Path::new(library).exists(), "{library} is missing: see this file's first lines");
    Environment { ld_preload: OsString::from(library), ..Environment::default() }
}

fn plan_with(environment: &Environment) -> ProbePlan {
    plan_for_command(Path::new("/bin/true"), environment, EMULATION).expect("plan")
}

#[test]
fn libc_of_this_machine_is_probed_on_emulated_instructions() {
    let plan = plan_with(&Environment::default());
    assert_eq!(plan.files.len(), 1, "{plan}");
    let libc = &plan.files[0];
    assert!(libc.path.ends_with("libc.so.6"));
    check(libc);
    for function in [
        Function::Malloc,
        Function::Calloc,
        Function::Realloc,
        Function::Free,
        Function::PosixMemalign,
        Function::AlignedAlloc,
    ] {
        assert!(point(libc, function).spot.emulated, "{plan}");
    }
    assert!(point(libc, Function::Free).spot.returns.is_none());
    // glibc gives both names to one piece of code.
    let aligned = point(libc, Function::AlignedAlloc);
    assert_eq!(aligned.function_offset, point(libc, Function::Memalign).function_offset);
    assert!(plan.skipped.is_empty(), "{plan}");
}

#[test]
fn process_and_command_give_the_same_plan() {
    let target = Target::spawn(Command::new("/bin/sleep").arg("60")).wait_for("libc.so.6");
    let running = plan_for_process(target.pid(), EMULATION).expect("plan");
    let planned =
        plan_for_command(Path::new("/bin/sleep"), &Environment::default(), EMULATION).unwrap();
    assert_eq!(running.files[0].points, planned.files[0].points);
    assert_eq!(running.files.len(), planned.files.len());
}

#[test]
fn preloaded_allocators_interpose() {
    for library in [
        "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2",
        "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4",
        "/usr/lib/x86_64-linux-gnu/libmimalloc.so.2.0",
    ] {
        let environment = preload(library);
        let plan = plan_with(&environment);
        assert_eq!(plan.files[0].path, Path::new(library), "{plan}");
        for function in [Function::Malloc, Function::Calloc, Function::Realloc, Function::Free] {
            point(&plan.files[0], function);
        }
        // Only what the library leaves out comes from libc.
        for other in &plan.files[1..] {
            for p in &other.points {
                assert!(
                    plan.files[0].points.iter().all(|q| q.function != p.function),
                    "{} twice: {plan}",
                    p.function.name()
                );
            }
        }
        plan.files.iter().for_each(check);
    }
}

#[test]
fn preloaded_allocator_of_a_running_process_is_found_by_its_mapping() {
    let library = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";
    preload(library);
    let mut command = Command::new("/bin/sleep");
    command.arg("60").env("LD_PRELOAD", library);
    let target = Target::spawn(&mut command).wait_for("libc.so.6");
    let plan = plan_for_process(target.pid(), EMULATION).expect("plan");
    assert!(plan.files[0].path.ends_with("libjemalloc.so.2"), "{plan}");
    let libc: Vec<_> = plan.files[1..].iter().flat_map(|f| &f.points).map(|p| p.function).collect();
    assert_eq!(libc, [Function::Pvalloc, Function::Reallocarray], "{plan}");
}

/// Links with jemalloc, overwrites the environment that the kernel shows, then maps executable the
/// file `ready`, so that one can wait for it.
fn title_setter(dir: &Path) -> PathBuf {
    let program = dir.join("title");
    fs::write(dir.join("ready"), [0; 16]).expect("write");
    let source = format!(
        "#include <fcntl.h>\n#include <stdlib.h>\n#include <string.h>\n\
         #include <sys/mman.h>\n#include <unistd.h>\nextern char **environ;\n\
         int main(void) {{\n\
         for (char **e = environ; *e; e++) memset(*e, 0, strlen(*e));\n\
         mmap(0, 1, PROT_READ | PROT_EXEC, MAP_PRIVATE, open({:?}, O_RDONLY), 0);\n\
         for (;;) {{ free(malloc(10)); pause(); }} }}",
        dir.join("ready").display().to_string()
    );
    compile(dir, &program, &source, &["-fno-builtin", "-Wl,--no-as-needed", "-l:libjemalloc.so.2"]);
    program
}

#[test]
fn process_that_overwrote_its_environment_keeps_its_preloads() {
    let libc = "/lib/x86_64-linux-gnu/libc.so.6";
    preload(libc);
    let dir = tempfile::tempdir().expect("directory");
    let ready = dir.path().join("ready").display().to_string();
    let mut command = Command::new(title_setter(dir.path()));
    let target = Target::spawn(command.env("LD_PRELOAD", libc)).wait_for(&ready);
    let environment = fs::read(format!("/proc/{}/environ", target.pid())).expect("environment");
    assert!(!environment.is_empty() && environment.iter().all(|&byte| byte == 0));
    let plan = plan_for_process(target.pid(), EMULATION).expect("plan");
    assert!(plan.files[0].path.ends_with("libc.so.6"), "{plan}");
    point(&plan.files[0], Function::Malloc);
    point(&plan.files[0], Function::Free);
}

#[test]
fn allocator_that_a_process_is_linked_with_comes_before_libc() {
    let dir = tempfile::tempdir().expect("directory");
    let ready = dir.path().join("ready").display().to_string();
    let mut command = Command::new(title_setter(dir.path()));
    let target = Target::spawn(&mut command).wait_for(&ready);
    let plan = plan_for_process(target.pid(), EMULATION).expect("plan");
    assert!(plan.files[0].path.ends_with("libjemalloc.so.2"), "{plan}");
    point(&plan.files[0], Function::Malloc);
    point(&plan.files[0], Function::Free);
}

#[test]
fn musl_is_found_behind_its_interpreter() {
    let dir = tempfile::tempdir().expect("directory");
    let program = dir.path().join("program");
    // No musl-gcc needed: any dynamic program whose interpreter and libc are musl's.
    compile(
        dir.path(),
        &program,
        "void *malloc(unsigned long); int main(void) { return malloc(1) == 0; }",
        &[
            "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1",
            "-nostdlib",
            "-Wl,-emain",
            "-L/usr/lib/x86_64-linux-musl",
            "-L/lib/x86_64-linux-musl",
            "-l:libc.so",
        ],
    );
    let plan = plan_for_command(&program, &Environment::default(), EMULATION).expect("plan");
    assert_eq!(plan.files.len(), 1, "{plan}");
    let libc = &plan.files[0];
    assert!(libc.path.ends_with("ld-musl-x86_64.so.1") || libc.path.ends_with("libc.so"));
    check(libc);
    assert!(point(libc, Function::Malloc).spot.instruction.starts_with("jmp"));
    assert_eq!(point(libc, Function::Valloc).function, Function::Valloc);
}

fn compile(dir: &Path, program: &Path, source: &str, arguments: &[&str]) {
    let file = dir.join("source.c");
    fs::write(&file, source).expect("write");
    let status = Command::new("gcc")
        .arg("-O1")
        .arg(&file)
        .arg("-o")
        .arg(program)
        .args(arguments)
        .status()
        .expect("gcc");
    assert!(status.success());
}

fn static_program(dir: &Path) -> PathBuf {
    let program = dir.join("static");
    let source = "#include <stdlib.h>\n#include <unistd.h>\n\
         int main(void) { free(malloc(1)); for (;;) pause(); }";
    compile(dir, &program, source, &["-static"]);
    program
}

#[test]
fn static_program_is_probed_itself() {
    let dir = tempfile::tempdir().expect("directory");
    let program = static_program(dir.path());
    let plan = plan_for_command(&program, &Environment::default(), EMULATION).expect("plan");
    assert_eq!(plan.files.len(), 1);
    check(&plan.files[0]);
    assert!(point(&plan.files[0], Function::Malloc).spot.emulated, "{plan}");
}

#[test]
fn deleted_executable_is_still_read() {
    let dir = tempfile::tempdir().expect("directory");
    let program = static_program(dir.path());
    let before = plan_for_command(&program, &Environment::default(), EMULATION).expect("plan");
    let target = Target::spawn(&mut Command::new(&program)).wait_for("static");
    fs::remove_file(&program).expect("remove");
    let plan = plan_for_process(target.pid(), EMULATION).expect("plan");
    assert!(plan.files[0].deleted);
    assert_eq!(plan.files[0].path, program);
    assert_eq!(plan.files[0].points, before.files[0].points);
}

#[test]
fn stripped_static_program_is_an_error_that_says_what_to_try() {
    let dir = tempfile::tempdir().expect("directory");
    let program = static_program(dir.path());
    assert!(Command::new("strip").arg(&program).status().expect("strip").success());
    let error = plan_for_command(&program, &Environment::default(), EMULATION).unwrap_err();
    let PlanError::NoAllocator(none) = &error else { panic!("{error}") };
    assert!(none.is_static && !none.has_symbols);
    let text = error.to_string();
    assert!(text.starts_with("no allocator found: looked for malloc, calloc, "), "{text}");
    assert!(text.contains("stripped") && text.contains(&*program.to_string_lossy()), "{text}");
}

#[test]
fn library_loaded_later_is_named_but_not_probed() {
    let dir = tempfile::tempdir().expect("directory");
    let program = dir.path().join("loads");
    let library = dir.path().join("liblater.so");
    let source = "void *malloc(unsigned long n) { return (void *)n; }";
    compile(dir.path(), &library, source, &["-shared", "-fPIC", "-fno-builtin"]);
    let source = format!(
        "#include <dlfcn.h>\n#include <unistd.h>\n\
         int main(void) {{ if (!dlopen({:?}, RTLD_NOW)) return 1; for (;;) pause(); }}",
        library.display().to_string()
    );
    compile(dir.path(), &program, &source, &[]);
    let target = Target::spawn(&mut Command::new(&program)).wait_for("liblater.so");
    let plan = plan_for_process(target.pid(), EMULATION).expect("plan");
    assert_eq!(plan.files.len(), 1, "{plan}");
    assert!(plan.files[0].path.ends_with("libc.so.6"));
    assert_eq!(plan.skipped.len(), 1, "{plan}");
    assert_eq!(plan.skipped[0].reason, SkipReason::NotInLookup);
    assert!(plan.to_string().contains("dlopen"));
}

#[test]
fn allocator_of_the_executable_itself_comes_first() {
    let dir = tempfile::tempdir().expect("directory");
    let program = dir.path().join("own");
    let source = "static char heap[1 << 20]; static unsigned long used;\n\
         void *malloc(unsigned long n) { used += n; return heap + used - n; }\n\
         void free(void *p) { if (p) used++; }\n\
         int main(void) { return malloc(1) == 0; }";
    compile(dir.path(), &program, source, &["-rdynamic", "-fno-builtin"]);
    let plan = plan_for_command(&program, &Environment::default(), EMULATION).expect("plan");
    assert_eq!(plan.files[0].path, program);
    let own: Vec<_> = plan.files[0].points.iter().map(|p| p.function).collect();
    assert_eq!(own.len(), 2, "{plan}");
    assert!(own.contains(&Function::Malloc) && own.contains(&Function::Free));
    plan.files.iter().for_each(check);
}

#[test]
fn indirect_functions_are_skipped_with_the_reason() {
    let dir = tempfile::tempdir().expect("directory");
    let program = dir.path().join("indirect");
    let source = "static void *real(unsigned long n) { return (void *)n; }\n\
         static void *pick(void) { return real; }\n\
         void *malloc(unsigned long) __attribute__((ifunc(\"pick\")));\n\
         void free(void *p) { __asm__ volatile(\"\" : : \"r\"(p)); }\n\
         int main(void) { return malloc(1) == 0; }";
    compile(dir.path(), &program, source, &["-rdynamic", "-fno-builtin"]);
    let plan = plan_for_command(&program, &Environment::default(), EMULATION).expect("plan");
    assert_eq!(plan.skipped.len(), 1, "{plan}");
    assert_eq!(plan.skipped[0].function, Some(Function::Malloc));
    assert_eq!(plan.skipped[0].reason, SkipReason::Indirect);
    let all: Vec<_> = plan.files.iter().flat_map(|f| &f.points).map(|p| p.function).collect();
    assert!(!all.contains(&Function::Malloc), "libc's must not stand in for it: {plan}");
}

#[test]
fn script_stands_for_its_interpreter() {
    let dir = tempfile::tempdir().expect("directory");
    let script = dir.path().join("script");
    fs::write(&script, "#!/bin/sh -e\nexit 0\n").expect("write");
    let plan = plan_for_command(&script, &Environment::default(), EMULATION).expect("plan");
    assert!(plan.files[0].path.ends_with("libc.so.6"));
    fs::write(&script, format!("#!{}\n", script.display())).expect("write");
    let error = plan_for_command(&script, &Environment::default(), EMULATION).unwrap_err();
    assert!(error.to_string().contains("too many interpreters"), "{error}");
}

#[test]
fn what_cannot_be_run_is_an_error() {
    let dir = tempfile::tempdir().expect("directory");
    let plan = |path: &Path| {
        plan_for_command(path, &Environment::default(), EMULATION).unwrap_err().to_string()
    };
    assert!(plan(&dir.path().join("none")).contains("cannot read"));
    assert!(plan(dir.path()).contains("not a regular file"));
    let text = dir.path().join("text");
    fs::write(&text, "hello").expect("write");
    assert!(plan(&text).contains("cannot record"));
}

#[test]
fn processes_without_user_memory_are_different_errors() {
    let kernel_thread = plan_for_process(2, EMULATION).unwrap_err();
    assert!(
        matches!(kernel_thread, PlanError::Scope(ScopeError::KernelThread(2))),
        "{kernel_thread}"
    );
    let nobody = plan_for_process(0x7fff_fff0, EMULATION).unwrap_err();
    assert!(matches!(
        nobody,
        PlanError::Scope(ScopeError::Process(ProcessError::NoSuchProcess { .. }))
    ));
    let target = Target::spawn(&mut Command::new("/bin/true"));
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match plan_for_process(target.pid(), EMULATION) {
            Err(PlanError::Scope(ScopeError::Zombie(pid))) => break assert_eq!(pid, target.pid()),
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    }
}
