use std::{borrow::Cow, fs, time::Instant};

use memtrace_common::unwind::{PAGE_BYTES, Rule, cfa};
use proptest::{collection::vec, prelude::any, prop_assert, prop_assert_eq, proptest};

use super::{
    TextSegment, UnwindError, UnwindTable, address_of_offset,
    frames::{Collector, Piece},
    sections::Section,
    table,
};

/// The kernel's own little ELF file in this process: small, and it has frame information.
fn vdso() -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let maps = fs::read_to_string("/proc/self/maps").expect("own mappings");
    let line = maps.lines().find(|l| l.ends_with("[vdso]")).expect("a vDSO");
    let (start, end) = line.split(' ').next().and_then(|r| r.split_once('-')).expect("a range");
    let number = |text| u64::from_str_radix(text, 16).expect("a hexadecimal number");
    let (start, end) = (number(start), number(end));
    let mut bytes = vec![0; (end - start) as usize];
    let memory = fs::File::open("/proc/self/mem").expect("own memory");
    memory.read_exact_at(&mut bytes, start).expect("a readable vDSO");
    bytes
}

fn c_library() -> Vec<u8> {
    let maps = fs::read_to_string("/proc/self/maps").expect("own mappings");
    let path = maps.lines().find_map(|l| {
        let at = l.find('/')?;
        l[at..].contains("libc.so").then(|| l[at..].to_owned())
    });
    fs::read(path.expect("a C library")).expect("a readable C library")
}

fn rule(offset: i32) -> Rule {
    Rule { cfa: cfa::RSP, cfa_offset: offset, ..Rule::NONE }
}

#[test]
fn vdso_has_a_table() {
    let table = UnwindTable::read(&*vdso()).expect("a table");
    assert!(table.rows.len() > 4, "{}", table.rows.len());
    assert_eq!(table.damaged, 0);
}

#[test]
fn file_without_section_headers_gives_the_same_table() {
    let bytes = c_library();
    let with = UnwindTable::read(&*bytes).expect("a table");
    let mut stripped = bytes;
    // e_shoff, then e_shnum and e_shstrndx.
    stripped[40..48].fill(0);
    stripped[60..64].fill(0);
    let without = UnwindTable::read(&*stripped).expect("a table");
    assert!(with == without);
}

#[test]
fn file_and_memory_give_the_same_table() {
    let path = "/proc/self/exe";
    let bytes = fs::read(path).expect("own program");
    let cache = object::ReadCache::new(fs::File::open(path).expect("own program"));
    let from_file = UnwindTable::read(&cache).expect("a table");
    assert!(from_file == UnwindTable::read(&*bytes).expect("a table"));
    assert!(from_file.rows.len() > 1000);
}

#[test]
fn other_machines_are_a_typed_error() {
    let mut bytes = vdso();
    bytes[18] = 183;
    match UnwindTable::read(&*bytes) {
        Err(UnwindError::Machine { machine: 183 }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_elf_is_a_typed_error() {
    for bytes in [&b""[..], b"\x7fELF", b"#!/bin/sh\nexec true\n"] {
        assert!(matches!(UnwindTable::read(bytes), Err(UnwindError::NotElf)), "{bytes:?}");
    }
}

#[test]
fn common_entry_repeated_by_every_function_is_not_read_for_ever() {
    // 60 KB of nops in the common entry, and 50,000 functions that begin with it.
    let mut bytes = Vec::new();
    let common = [&[1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x03][..], &[0; 60_003][..]].concat();
    bytes.extend_from_slice(&(common.len() as u32 + 4).to_le_bytes());
    bytes.extend_from_slice(&0u32.to_le_bytes());
    bytes.extend_from_slice(&common);
    for i in 0..50_000u32 {
        let back = bytes.len() as u32 + 4;
        bytes.extend_from_slice(&16u32.to_le_bytes());
        bytes.extend_from_slice(&back.to_le_bytes());
        bytes.extend_from_slice(&(0x1000 + i * 16).to_le_bytes());
        bytes.extend_from_slice(&16u32.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
    }
    let text = [TextSegment { offset: 0, file_size: 1 << 24, address: 0, size: 1 << 24 }];
    let mut collector = Collector::new(&text);
    let start = Instant::now();
    collector.eh_frame(&Section { address: 0x100_0000, bytes: Cow::Owned(bytes) }, None);
    assert_eq!(collector.damaged, 1);
    assert!(!collector.pieces.is_empty(), "some functions are read");
    assert!(collector.pieces.len() < 5000, "{}", collector.pieces.len());
    // All of them would take minutes in a debug build.
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn offset_becomes_address_also_where_pages_are_shared() {
    let text = [
        TextSegment { offset: 0x1234, file_size: 0x100, address: 0x401_234, size: 0x100 },
        TextSegment { offset: 0x3000, file_size: 0x1001, address: 0x60_3000, size: 0x1001 },
    ];
    assert_eq!(address_of_offset(&text, 0x1000), Some(0x401_000));
    assert_eq!(address_of_offset(&text, 0x4000), Some(0x60_4000));
    assert_eq!(address_of_offset(&text, 0x5000), None);
}

#[test]
fn text_too_far_apart_is_refused() {
    let text = [TextSegment { offset: 0, file_size: 0, address: 0, size: u64::MAX }];
    let mut collector = Collector::new(&text);
    collector.pieces = vec![
        Piece { start: 0x1000, end: 0x1010, rule: 1 },
        Piece { start: 0x1000 + (2 << 30), end: 0x1010 + (2 << 30), rule: 1 },
    ];
    let refused = table::build(collector, Vec::new());
    assert!(matches!(refused, Err(UnwindError::TooLarge { .. })), "{refused:?}");
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        flips in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..40),
        keep in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut bytes = vdso();
        let length = bytes.len();
        for (at, value) in flips {
            bytes[at.index(length)] = value;
        }
        if let Some(keep) = keep {
            bytes.truncate(keep.index(length));
        }
        if let Ok(table) = UnwindTable::read(&*bytes) {
            prop_assert!(table.rows.len() <= 4 * length);
            for page in &table.pages {
                prop_assert!(page.first <= page.last);
                prop_assert!((page.last as usize) < table.rows.len());
            }
            for row in &table.rows {
                prop_assert!(usize::from(row.rule) < table.rules.len());
            }
        }
    }

    #[test]
    fn damaged_frame_sections_never_panic(bytes in vec(any::<u8>(), 0..400), address in any::<u64>()) {
        let text = [TextSegment { offset: 0, file_size: u64::MAX, address: 0, size: u64::MAX }];
        let mut collector = Collector::new(&text);
        collector.eh_frame(&Section { address, bytes: Cow::Borrowed(&bytes) }, Some(address));
        collector.debug_frame(&Section { address, bytes: Cow::Borrowed(&bytes) });
        let _ = table::build(collector, Vec::new());
    }

    /// Ranges in any order, overlapping, with gaps: what the search finds is what a scan of the
    /// ranges finds.
    #[test]
    fn search_finds_the_rule_of_the_range(
        start in 0u64..5000,
        lengths in vec((0u64..70, 1u64..3000, 2u16..6), 1..80),
        overlap in 0u64..40,
    ) {
        let text = [TextSegment { offset: 0, file_size: u64::MAX, address: 0, size: u64::MAX }];
        let mut collector = Collector::new(&text);
        collector.rules = [Rule::NONE, Rule::FILLING].into_iter().chain((2..6).map(|i| rule(i * 8))).collect();
        let mut next = start;
        for (gap, length, rule) in lengths {
            let from = (next + gap).saturating_sub(overlap);
            collector.pieces.push(Piece { start: from, end: from + length, rule });
            next = from + length;
        }
        collector.pieces.sort_by_key(|p| p.start);
        let pieces = collector.pieces.clone();
        let table = table::build(collector, Vec::new()).expect("a table");
        prop_assert_eq!(table.base % PAGE_BYTES, 0);
        // What is known first stays; a gap of up to 15 bytes is filling.
        let mut known_to = 0;
        let mut before = false;
        let first = pieces.first().map_or(0, |p| p.start);
        for piece in &pieces {
            let from = piece.start.max(known_to);
            if from >= piece.end {
                continue;
            }
            if before {
                for address in known_to..from {
                    let filled = from - known_to <= 15;
                    let expected = if filled { Rule::FILLING } else { Rule::NONE };
                    prop_assert_eq!(table.lookup(address), expected, "gap at {:#x}", address);
                }
            }
            let expected = table.rules[usize::from(piece.rule)];
            for address in from..piece.end {
                prop_assert_eq!(table.lookup(address), expected, "at {:#x}", address);
            }
            before = true;
            known_to = piece.end;
        }
        if first > 0 {
            prop_assert_eq!(table.lookup(first - 1), Rule::NONE);
        }
        prop_assert_eq!(table.lookup(known_to), Rule::NONE);
        prop_assert_eq!(table.lookup(u64::MAX), Rule::NONE);
    }
}
