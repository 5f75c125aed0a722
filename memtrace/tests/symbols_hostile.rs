//! Broken and hostile binaries: no panic, no endless loop, no unbounded memory.

use std::{
    fs, panic,
    path::Path,
    process::Command,
    sync::{
        Once, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use memtrace::{
    elf::{self, Headers, Image, Table},
    symbols::{Modules, Symbolizer},
};
use proptest::prelude::*;

/// Small programs of the kinds that are met, as bytes.
fn programs() -> &'static [Vec<u8>] {
    static PROGRAMS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/symbols");
        let directory = tempfile::tempdir().expect("temporary directory");
        let output = directory.path().join("program");
        let build = |compiler: &str, source: &str, flags: &[&str]| {
            let status = Command::new(compiler)
                .arg(sources.join(source))
                .arg("-o")
                .arg(&output)
                .args(flags)
                .status()
                .unwrap_or_else(|e| panic!("this test needs the program {compiler}: {e}"));
            assert!(status.success());
            fs::read(&output).expect("compiled")
        };
        let mini = {
            let plain = build("gcc", "program.c", &["-O2"]);
            let packed = directory.path().join("mini");
            fs::write(&packed, plain).expect("write");
            let run = |program: &str, arguments: &[&str]| {
                let status = Command::new(program).args(arguments).status();
                let status =
                    status.unwrap_or_else(|e| panic!("this test needs the program {program}: {e}"));
                assert!(status.success());
            };
            let name = packed.to_str().expect("UTF-8");
            run("xz", &[name]);
            let section = format!("--add-section=.gnu_debugdata={name}.xz");
            let program = output.to_str().expect("UTF-8");
            run("objcopy", &["--strip-all", &section, program]);
            fs::read(&output).expect("made")
        };
        vec![
            build("gcc", "program.c", &["-g", "-O2"]),
            build("gcc", "program.c", &["-g", "-O1", "-gz", "-gdwarf-4"]),
            build("g++", "program.cpp", &["-g", "-O2"]),
            mini,
        ]
    })
}

/// The symbolizer survives a panic of a parser that it uses; here there must be none to survive.
fn count_panics() -> &'static AtomicUsize {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            print(info);
        }));
    });
    &PANICS
}

/// Reads all that can be read from a binary.
fn exercise(bytes: &[u8]) {
    let panics = count_panics();
    let before = panics.load(Ordering::Relaxed);
    let begun = Instant::now();
    if let Ok(headers) = Headers::read(bytes) {
        for offset in [0, 0x1000, 0x1234, u64::MAX] {
            headers.svma_of_offset(offset);
            headers.offset_of_svma(offset);
        }
    }
    let image = Image::from_bytes(bytes);
    if let Ok(file) = image.parse() {
        elf::build_id(&file);
        elf::debug_link(&file);
        elf::alt_link(&file);
        let _ = elf::mini_debug_info(&file);
        elf::plt_stubs(&file);
        for table in [Table::Static, Table::Dynamic] {
            elf::functions(&file, table).count();
        }
    }
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    std::io::Write::write_all(&mut file, bytes).expect("write");
    let module = Modules::default().open(file.path()).expect("opens whatever it holds");
    let mut symbolizer = Symbolizer::new(vec![]);
    for svma in (0x1000..0x3000).step_by(37).chain([0, u64::MAX, 1 << 63]) {
        let frames = symbolizer.frames(&module, svma, svma % 2 == 0);
        assert!(frames.len() < 1000);
    }
    assert_eq!(panics.load(Ordering::Relaxed), before, "a parser panicked");
    assert!(begun.elapsed() < Duration::from_secs(20), "took {:?}", begun.elapsed());
}

/// Half of the changes hit the first bytes, section headers or debug sections' starts, where a bit
/// decides most.
fn damage() -> impl Strategy<Value = (usize, Vec<(u32, u8)>, Option<u16>)> {
    let change = (any::<u32>(), any::<u8>());
    (0_usize..4, prop::collection::vec(change, 1..40), prop::option::weighted(0.1, any::<u16>()))
}

fn damaged(kind: usize, changes: &[(u32, u8)], cut: Option<u16>) -> Vec<u8> {
    let mut bytes = programs()[kind].clone();
    let length = bytes.len();
    for (number, &(position, value)) in changes.iter().enumerate() {
        let position = position as usize;
        let at = match number % 4 {
            0 => position % 0x400,
            1 => length - 1 - position % 0x900,
            _ => position % length,
        };
        bytes[at] = value;
    }
    if let Some(cut) = cut {
        bytes.truncate(length * usize::from(cut) / (1 << 16));
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn damaged_binary_never_panics((kind, changes, cut) in damage()) {
        exercise(&damaged(kind, &changes, cut));
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        exercise(&bytes);
        let header = &programs()[0][..16];
        let length = header.len().min(bytes.len());
        bytes[..length].copy_from_slice(&header[..length]);
        exercise(&bytes);
    }
}

/// A chain of ever deeper inlined functions, from the assembler.
#[test]
fn deeply_nested_inlined_functions_do_not_overflow_the_stack() {
    use std::fmt::Write;
    let depth = 200_000;
    let mut assembly = String::from(
        ".text\n.globl main\n.type main,@function\nmain: nop\n ret\n.Lend:\n.size main,.-main\n\
         .section .debug_abbrev,\"\",@progbits\n\
         .uleb128 1,0x11\n.byte 1\n.uleb128 0x11,0x01,0x12,0x07,0,0\n\
         .uleb128 2,0x2e\n.byte 1\n.uleb128 0x03,0x08,0x11,0x01,0x12,0x07,0,0\n\
         .uleb128 3,0x1d\n.byte 1\n.uleb128 0,0\n\
         .uleb128 0\n\
         .section .debug_info,\"\",@progbits\n.long .Lstop-.Lstart\n.Lstart: .short 4\n\
         .long .debug_abbrev\n.byte 8\n\
         .uleb128 1\n.quad main\n.quad .Lend-main\n\
         .uleb128 2\n.string \"main\"\n.quad main\n.quad .Lend-main\n",
    );
    writeln!(assembly, ".fill {depth},1,3\n.fill {depth},1,0\n.byte 0\n.byte 0\n.Lstop:")
        .expect("text");
    let directory = tempfile::tempdir().expect("temporary directory");
    let source = directory.path().join("deep.s");
    let program = directory.path().join("deep");
    fs::write(&source, assembly.replace(".uleb128 0,0\n.uleb128", ".byte 0,0\n.uleb128"))
        .expect("write");
    let status = Command::new("gcc").arg(&source).arg("-o").arg(&program).status();
    assert!(status.expect("this test needs the program gcc").success());
    let module = Modules::default().open(&program).expect("opens");
    let bytes = fs::read(&program).expect("read");
    let file = object::File::parse(&*bytes).expect("parse");
    let main = elf::functions(&file, Table::Static).find(|f| f.name == "main").expect("main");
    let frames = Symbolizer::new(vec![]).frames(&module, main.svma, false);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].function, "main");
}

/// A few KiB of xz that unpack to a gigabyte.
#[test]
fn compression_bomb_is_refused() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let section = directory.path().join("zeros.xz");
    let script = format!("head -c 1G /dev/zero | xz -1 > {}", section.display());
    let status = Command::new("sh").args(["-c", &script]).status().expect("sh");
    assert!(status.success());
    let program = directory.path().join("program");
    let option = format!("--add-section=.gnu_debugdata={}", section.display());
    let status = Command::new("objcopy").arg(option).arg("/bin/true").arg(&program).status();
    assert!(status.expect("this test needs the program objcopy").success());
    let bytes = fs::read(&program).expect("read");
    let file = object::File::parse(&*bytes).expect("parse");
    assert!(matches!(elf::mini_debug_info(&file), Err(elf::ElfError::TooLarge { .. })));
}
