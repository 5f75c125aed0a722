//! The tables of real binaries, row by row against binutils' `readelf`.

use std::{collections::HashMap, fs, process::Command};

use memtrace_common::unwind::{Rule, cfa, rbp};

use super::UnwindTable;

/// A row as readelf prints it, with the addresses that it holds for.
struct Expected {
    start: u64,
    end: u64,
    cfa: String,
    rbp: Option<String>,
    ra: String,
}

/// Columns of one printed table.
#[derive(Clone, Default)]
struct Columns {
    rbp: Option<usize>,
    ra: usize,
}

fn parse(text: &str) -> Vec<Expected> {
    let mut expected = Vec::new();
    // The only row of each common entry, by the entry's offset.
    let mut common: HashMap<u64, (String, Option<String>, String)> = HashMap::new();
    let mut columns = Columns::default();
    let hex = |s: &str| u64::from_str_radix(s, 16).expect("a hexadecimal number");
    for block in text.split("\n\n") {
        let mut cie = None;
        let mut end = 0;
        let mut rows: Vec<Expected> = Vec::new();
        for line in block.lines() {
            // A register as a value is printed twice: `r8 (r8)`.
            let fields: Vec<&str> =
                line.split_ascii_whitespace().filter(|f| !f.starts_with('(')).collect();
            match fields[..] {
                [offset, _, _, "CIE", ..] => cie = Some(hex(offset)),
                [_, _, _, "FDE", from, range] => {
                    let from = hex(from.strip_prefix("cie=").expect("cie="));
                    let (start, stop) =
                        range.strip_prefix("pc=").and_then(|r| r.split_once("..")).expect("pc=");
                    end = hex(stop);
                    // Without rows of its own the function has its common entry's, if that has one.
                    if let Some((cfa, rbp, ra)) = common.get(&from).cloned() {
                        rows.push(Expected { start: hex(start), end, cfa, rbp, ra });
                    }
                }
                ["LOC", "CFA", ref names @ ..] => {
                    columns = Columns {
                        rbp: names.iter().position(|&n| n == "rbp"),
                        ra: names.iter().position(|&n| n == "ra").expect("a column ra"),
                    };
                    rows.clear();
                }
                [at, cfa, ref values @ ..] if at.len() == 16 && cie.is_some() => {
                    let rbp = columns.rbp.map(|c| values[c].to_owned());
                    let row = (cfa.to_owned(), rbp, values[columns.ra].to_owned());
                    common.insert(cie.expect("a common entry"), row);
                }
                [at, cfa, ref values @ ..] if at.len() == 16 => {
                    let start = hex(at);
                    if let Some(last) = rows.last_mut() {
                        last.end = start;
                    }
                    rows.push(Expected {
                        start,
                        end,
                        cfa: cfa.to_owned(),
                        rbp: columns.rbp.map(|c| values[c].to_owned()),
                        ra: values[columns.ra].to_owned(),
                    });
                }
                _ => {}
            }
        }
        expected.append(&mut rows);
    }
    expected
}

fn matches(expected: &Expected, rule: Rule) -> bool {
    if expected.ra == "u" {
        return rule == Rule::OUTERMOST;
    }
    let offset = |text: &str, prefix| -> Option<i64> {
        text.strip_prefix(prefix).and_then(|n: &str| n.parse().ok())
    };
    if expected.ra != "c-8" {
        return [cfa::SIGNAL, cfa::UNSUPPORTED].contains(&rule.cfa);
    }
    let cfa = match &*expected.cfa {
        "exp" if rule.cfa == cfa::UNSUPPORTED => return true,
        "exp" => [cfa::PLT, cfa::AT_RSP, cfa::AT_RBP].contains(&rule.cfa),
        text => match (offset(text, "rsp"), offset(text, "rbp")) {
            (Some(n), _) => rule.cfa == cfa::RSP && i64::from(rule.cfa_offset) == n,
            (_, Some(n)) => rule.cfa == cfa::RBP && i64::from(rule.cfa_offset) == n,
            _ => return rule == Rule::UNSUPPORTED,
        },
    };
    // "u" stands for unspecified, too.
    let rbp = match expected.rbp.as_deref() {
        None | Some("s") => rule.rbp == rbp::SAME,
        Some("u") => [rbp::SAME, rbp::UNKNOWN].contains(&rule.rbp),
        Some("exp") => [rbp::AT_RBP, rbp::AT_CFA, rbp::UNKNOWN].contains(&rule.rbp),
        Some(text) => match offset(text, "c") {
            Some(n) => rule.rbp == rbp::AT_CFA && i64::from(rule.rbp_offset) == n,
            None => rule.rbp == rbp::UNKNOWN,
        },
    };
    cfa && rbp
}

/// Compares at the first and the last byte of every row; returns the number of rows.
fn compare(path: &str) -> usize {
    let output = Command::new("readelf")
        .args(["--debug-dump=frames-interp", "--wide", path])
        .output()
        .expect("readelf runs (package binutils)");
    // Debug information frames are another section of the same output.
    let text = String::from_utf8_lossy(&output.stdout);
    let text = text.split("Contents of the .debug_frame").next().expect("a first part");
    let expected = parse(text);
    let bytes = fs::read(path).expect("a readable file");
    let table = UnwindTable::read(&*bytes).expect("a table");
    assert_eq!(table.damaged, 0, "{path}");
    for row in expected.iter().filter(|r| r.start < r.end) {
        for svma in [row.start, row.end - 1] {
            let rule = table.lookup(svma);
            assert!(
                matches(row, rule),
                "{path} at {svma:#x}: readelf says CFA {} rbp {:?} ra {}, the table {rule:?}",
                row.cfa,
                row.rbp,
                row.ra
            );
        }
    }
    expected.len()
}

/// Files that this test program has mapped, which include the C library.
fn own_files() -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/maps").expect("own mappings");
    let mut paths: Vec<_> = maps
        .lines()
        .filter(|l| l.contains(" r-xp "))
        .filter_map(|l| l.split_once('/').map(|(_, path)| format!("/{path}")))
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

#[test]
fn tables_of_mapped_files_say_what_readelf_says() {
    let files = own_files();
    assert!(files.iter().any(|f| f.contains("libc")), "{files:?}");
    for path in files {
        let rows = compare(&path);
        assert!(rows > 100, "{path} has {rows} rows");
    }
}

#[test]
fn tables_of_programs_say_what_readelf_says() {
    let directory = "/usr/lib/x86_64-linux-gnu";
    let candidates = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            ["libstdc++.so.6", "libm.so.6", "libcrypto.so", "libjemalloc.so", "libz.so.1"]
                .iter()
                .any(|n| name.starts_with(n))
        })
        .chain(
            ["python3", "perl", "gdb", "bash", "redis-server"]
                .map(|n| std::path::Path::new("/usr/bin").join(n)),
        )
        .filter_map(|path| fs::canonicalize(path).ok())
        .filter(|path| fs::read(path).is_ok_and(|b| b.starts_with(b"\x7fELF")));
    let mut compared = 0;
    for path in candidates {
        compared += compare(path.to_str().expect("a plain path"));
    }
    assert!(compared > 1000, "{compared} rows of system programs");
}
