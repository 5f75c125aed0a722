//! Exports agree with the report to the byte.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use memtrace_tests::report::{Site, same_function};
use memtrace_tests::{Build, Recorder, Report, Scenario, live, paths};

fn export(file: &Path, format: &str, metric: &str) -> String {
    let output = Command::new(paths::memtrace())
        .arg("export")
        .arg(file)
        .args(["--format", format, "--metric", metric])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{format} {metric}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// One line of `a;b;c N`, root first.
fn folded(text: &str) -> BTreeMap<Vec<String>, u64> {
    let mut stacks = BTreeMap::new();
    for line in text.lines() {
        let (stack, cost) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no cost in `{line}`"));
        let cost: u64 = cost.parse().unwrap_or_else(|_| panic!("no cost in `{line}`"));
        assert!(cost > 0, "a stack of nothing: {line}");
        let frames = stack.split(';').map(str::to_owned).collect();
        assert!(stacks.insert(frames, cost).is_none(), "a stack twice: {line}");
    }
    stacks
}

/// A metric's word, its total's key, and what a site has of it.
type Metric = (&'static str, &'static str, fn(&Site) -> u64);

const METRICS: [Metric; 5] = [
    ("leaked", "leaked_bytes", |s| s.live_bytes),
    ("peak", "peak_bytes", |s| s.peak_bytes),
    ("allocated", "alloc_bytes", |s| s.alloc_bytes),
    ("calls", "alloc_calls", |s| s.alloc_calls),
    ("temporary", "temporary_calls", |s| s.temporary_calls),
];

/// A recording and its report.
fn recorded(source: &'static str, file: &Path) -> Report {
    Scenario::of(source)
        .build(Build::FramePointers)
        .recorder(Recorder::new().file(file))
        .commanded()
}

#[test]
fn folded_stacks_of_each_metric_add_up_to_its_total() {
    let _turn = live();
    let directory = tempfile::tempdir().unwrap();
    for source in ["rates.c", "temporaries.c", "peak.c", "containers.cpp"] {
        let file = directory.path().join(format!("{source}.mtrc"));
        let report = recorded(source, &file);
        for (metric, total, of) in METRICS {
            let stacks = folded(&export(&file, "folded", metric));
            let sum: u64 = stacks.values().sum();
            assert_eq!(sum, report.total(total), "{source} {metric}");
            for site in report.sites.iter().filter(|s| of(s) > 0) {
                let Some(function) = site.frames.first().and_then(|f| f.function.clone()) else {
                    continue;
                };
                let leaf = |frames: &&Vec<String>| {
                    frames.last().is_some_and(|f| f.contains(function.split('(').next().unwrap()))
                };
                let exported: u64 =
                    stacks.iter().filter(|(frames, _)| leaf(frames)).map(|(_, c)| c).sum();
                assert!(exported >= of(site), "{source} {metric}: {function} has {exported}");
            }
        }
    }
}

#[test]
fn folded_stacks_begin_at_the_root() {
    let _turn = live();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rates.mtrc");
    recorded("rates.c", &file);
    let stacks = folded(&export(&file, "folded", "leaked"));
    let (frames, cost) = stacks
        .iter()
        .find(|(frames, _)| frames.iter().any(|f| same_function(f, "leak_rare")))
        .expect("leak_rare");
    assert_eq!(*cost, 900_000);
    let at = |name: &str| frames.iter().position(|f| same_function(f, name)).unwrap();
    assert!(at("main") < at("leak_rare"), "{frames:?}");
    assert_eq!(at("leak_rare"), frames.len() - 1, "{frames:?}");
}

#[test]
fn the_flame_graph_is_a_whole_interactive_svg_with_the_sites_in_it() {
    let _turn = live();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rates.mtrc");
    recorded("rates.c", &file);
    for (metric, names) in [
        ("leaked", ["leak_fast", "leak_slow", "leak_rare"]),
        ("allocated", ["balanced", "half_freed", "leak_rare"]),
        ("calls", ["balanced", "half_freed", "leak_fast"]),
    ] {
        let svg = export(&file, "svg", metric);
        assert!(svg.trim_start().starts_with("<?xml"), "{}", &svg[..100.min(svg.len())]);
        assert!(svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("<script"), "not interactive");
        for name in names {
            assert!(svg.contains(name), "{metric}: no {name}");
        }
        well_formed(&svg);
    }
}

/// Checked by an XML parser of Debian's python3.
fn well_formed(svg: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("graph.svg");
    std::fs::write(&path, svg).unwrap();
    let check = "import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])";
    let status = Command::new("/usr/bin/python3").args(["-c", check]).arg(&path).status().unwrap();
    assert!(status.success(), "the SVG is not well-formed XML");
}

/// Nothing of this kind happened: no stacks, and still no failure.
#[test]
fn a_metric_without_any_cost_exports_nothing() {
    let _turn = live();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rates.mtrc");
    recorded("rates.c", &file);
    assert_eq!(export(&file, "folded", "temporary"), "");
}

#[test]
fn an_unknown_format_or_metric_is_refused() {
    let _turn = live();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rates.mtrc");
    recorded("rates.c", &file);
    for (format, metric) in [("gif", "leaked"), ("folded", "beauty")] {
        let output = Command::new(paths::memtrace())
            .arg("export")
            .arg(&file)
            .args(["--format", format, "--metric", metric])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.status.code() != Some(101), "{stderr}");
        assert!(output.stdout.is_empty());
    }
}

/// The text report names the same sites with the same numbers.
#[test]
fn the_text_report_shows_the_leaking_sites() {
    let _turn = live();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rates.mtrc");
    recorded("rates.c", &file);
    let output = Command::new(paths::memtrace()).arg("report").arg(&file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for name in ["leak_rare", "leak_slow", "leak_fast", "rates.c"] {
        assert!(text.contains(name), "no {name} in:\n{text}");
    }
    let leaks = text.split("MOST MEMORY LEAKED").nth(1).expect("a section of leaks");
    let at = |name: &str| leaks.find(name).unwrap_or_else(|| panic!("no {name} in:\n{leaks}"));
    assert!(at("leak_rare") < at("leak_slow"), "not by leaked bytes:\n{text}");
    assert!(at("leak_slow") < at("leak_fast"), "not by leaked bytes:\n{text}");
}
