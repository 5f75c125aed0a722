//! A report against the truth: every number of every call site, and nothing beside them.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use crate::report::{Report, Site as Reported};
use crate::truth::{Site, Truth};

/// How the program is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `-p`: attached when ready, stopped before the program ends.
    Attach,
    /// `-- CMD`: from the first allocation to the end.
    Command,
}

/// All differences between `report` and `truth`, one a line.
///
/// # Errors
/// There are some.
pub fn compare(report: &Report, truth: &Truth) -> Result<(), String> {
    let mut problems = Vec::new();
    let mut seen: BTreeMap<&str, Site> = BTreeMap::new();
    for site in &report.sites {
        match owner(site, truth) {
            Some((name, depth)) => {
                if depth > 0 && !truth.sites[name].any_depth {
                    problems.push(format!("{name} is not the caller in {}", stack(site)));
                }
                add(seen.entry(name).or_default(), site);
            }
            None if is_foreign(site, truth) => {}
            None => problems.push(format!("nobody's allocation: {}", describe(site))),
        }
    }
    for (name, expected) in &truth.sites {
        let found = seen.remove(name.as_str()).unwrap_or_default();
        check_site(name, expected, &found, &mut problems);
    }
    for (key, expected) in &truth.totals {
        let found = report.totals.get(key).and_then(Value::as_u64);
        if found != Some(*expected) {
            problems.push(format!("totals.{key}: truth {expected}, reported {found:?}"));
        }
    }
    check_sums(report, &mut problems);
    if !report.complete {
        problems.push("the recording is not complete".to_owned());
    }
    if !report.exact() {
        problems.push(format!("losses.exact is false: {:?}", report.losses));
    }
    if problems.is_empty() { Ok(()) } else { Err(listing(report, &problems)) }
}

/// The innermost frame that is a site of the truth, by name and its depth in physical frames.
fn owner<'a>(site: &Reported, truth: &'a Truth) -> Option<(&'a str, usize)> {
    let mut depth = 0;
    for frame in &site.frames {
        let name = truth.sites.keys().find(|name| frame.is(name));
        if let Some(name) = name {
            return Some((name, depth));
        }
        depth += usize::from(!frame.inlined);
    }
    None
}

fn is_foreign(site: &Reported, truth: &Truth) -> bool {
    let Some(frame) = site.frames.first() else { return false };
    let has = |text: &str| {
        frame.function.as_deref().is_some_and(|f| f.contains(text))
            || frame.module.as_deref().is_some_and(|m| m.contains(text))
    };
    truth.foreign.iter().any(|text| has(text))
}

fn add(sum: &mut Site, site: &Reported) {
    sum.calls += site.alloc_calls;
    sum.bytes += site.alloc_bytes;
    sum.live_blocks += site.live_blocks;
    sum.live_bytes += site.live_bytes;
    sum.temporary += site.temporary_calls;
    sum.failed += site.failed_calls;
    *sum.peak_bytes.get_or_insert(0) += site.peak_bytes;
}

fn check_site(name: &str, expected: &Site, found: &Site, problems: &mut Vec<String>) {
    let pairs = [
        ("calls", expected.calls, found.calls),
        ("bytes", expected.bytes, found.bytes),
        ("live blocks", expected.live_blocks, found.live_blocks),
        ("live bytes", expected.live_bytes, found.live_bytes),
        ("temporary", expected.temporary, found.temporary),
        ("failed", expected.failed, found.failed),
    ];
    let found_peak = found.peak_bytes.unwrap_or(0);
    let peak = ("peak bytes", expected.peak_bytes.unwrap_or(found_peak), found_peak);
    for (what, expected, found) in pairs.into_iter().chain([peak]) {
        if expected != found {
            problems.push(format!("{name}: {what}: truth {expected}, reported {found}"));
        }
    }
}

/// The totals are the sums of the sites, and each block is live or released.
fn check_sums(report: &Report, problems: &mut Vec<String>) {
    let sum = |of: fn(&Reported) -> u64| report.sites.iter().map(of).sum::<u64>();
    let dropped = report.totals.get("exec_dropped_blocks").and_then(Value::as_u64).unwrap_or(0);
    let checks = [
        ("alloc_calls", sum(|s| s.alloc_calls)),
        ("alloc_bytes", sum(|s| s.alloc_bytes)),
        ("temporary_calls", sum(|s| s.temporary_calls)),
        ("leaked_blocks", sum(|s| s.live_blocks)),
        ("leaked_bytes", sum(|s| s.live_bytes)),
        ("peak_bytes", sum(|s| s.peak_bytes)),
        ("failed_calls", sum(|s| s.failed_calls)),
    ];
    for (key, sum) in checks {
        let total = report.total(key);
        if total != sum {
            problems.push(format!("totals.{key} is {total}, the sites together have {sum}"));
        }
    }
    let released = report.total("free_calls") + dropped;
    let live = report.total("alloc_calls").checked_sub(released);
    if live != Some(report.total("leaked_blocks")) {
        problems.push(format!(
            "totals: {} allocations less {released} releases are not {} leaked blocks",
            report.total("alloc_calls"),
            report.total("leaked_blocks")
        ));
    }
}

fn listing(report: &Report, problems: &[String]) -> String {
    let mut text = format!("{} differences:\n", problems.len());
    for problem in problems.iter().take(40) {
        let _ = writeln!(text, "  {problem}");
    }
    let _ = writeln!(text, "totals {:?}\nlosses {:?}\nsites:", report.totals, report.losses);
    for site in report.sites.iter().take(30) {
        let _ = writeln!(text, "  {}", describe(site));
    }
    text
}

fn describe(site: &Reported) -> String {
    format!(
        "calls {} bytes {} live {}/{} temporary {} failed {} at {}",
        site.alloc_calls,
        site.alloc_bytes,
        site.live_blocks,
        site.live_bytes,
        site.temporary_calls,
        site.failed_calls,
        stack(site)
    )
}

/// The stack in one line, innermost first.
pub fn stack(site: &Reported) -> String {
    let mut text = String::new();
    for (i, frame) in site.frames.iter().enumerate() {
        if i == 12 {
            let _ = write!(text, " < … {} frames", site.frames.len());
            break;
        }
        let separator = if i == 0 { "" } else { " < " };
        match (&frame.function, &frame.module) {
            (Some(function), _) if !function.is_empty() => {
                let _ = write!(text, "{separator}{function}");
            }
            (_, module) => {
                let module = module.as_deref().unwrap_or("?");
                let _ = write!(text, "{separator}{module}+{}", frame.address);
            }
        }
    }
    if text.is_empty() { "no frames".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(sites: &str, totals: &str, exact: bool) -> Report {
        let text = format!(
            r#"{{"totals": {totals}, "losses": {{"exact": {exact}}}, "complete": true, "sites": [{sites}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn site(frames: &[&str], calls: u64, bytes: u64) -> String {
        let frames: Vec<String> = frames
            .iter()
            .map(|f| {
                format!(
                    r#"{{"function": "{f}", "file": null, "line": null, "module": "/m/{f}.so", "address": "0x1", "inlined": false}}"#
                )
            })
            .collect();
        format!(
            r#"{{"frames": [{}], "alloc_calls": {calls}, "alloc_bytes": {bytes}, "live_blocks": {calls}, "live_bytes": {bytes}, "peak_bytes": {bytes}, "temporary_calls": 0, "failed_calls": 0, "end": "complete"}}"#,
            frames.join(",")
        )
    }

    fn totals(calls: u64, bytes: u64) -> String {
        format!(
            r#"{{"alloc_calls": {calls}, "alloc_bytes": {bytes}, "free_calls": 0, "temporary_calls": 0, "peak_bytes": {bytes}, "leaked_bytes": {bytes}, "leaked_blocks": {calls}, "failed_calls": 0, "unknown_frees": 0}}"#
        )
    }

    fn truth() -> Truth {
        let site = Site { calls: 2, bytes: 16, live_blocks: 2, live_bytes: 16, ..Site::default() };
        Truth {
            sites: [("leak".to_owned(), site)].into(),
            totals: [("unknown_frees".to_owned(), 0)].into(),
            foreign: vec!["libstart".into()],
        }
    }

    #[test]
    fn stacks_of_one_function_are_summed_and_foreign_ones_left_out() {
        let sites = [
            site(&["leak", "main"], 1, 8),
            site(&["leak", "other"], 1, 8),
            site(&["libstart", "main"], 1, 100),
        ];
        compare(&report(&sites.join(","), &totals(3, 116), true), &truth()).unwrap();
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let good = site(&["leak", "main"], 2, 16);
        let wrong = |sites: &str, totals: &str, exact: bool, says: &str| {
            let error = compare(&report(sites, totals, exact), &truth()).unwrap_err();
            assert!(error.contains(says), "{says}: {error}");
        };
        wrong(&good, &totals(2, 16), false, "losses.exact is false");
        wrong(&good, &totals(2, 17), true, "the sites together have 16");
        wrong(&site(&["leak"], 1, 16), &totals(1, 16), true, "calls: truth 2, reported 1");
        let inner = site(&["wrapper", "leak"], 2, 16);
        wrong(&inner, &totals(2, 16), true, "not the caller");
        let stranger = format!("{good},{}", site(&["main"], 1, 1));
        wrong(&stranger, &totals(3, 17), true, "nobody's allocation");
        let unknown = totals(2, 16).replace(r#""unknown_frees": 0"#, r#""unknown_frees": 1"#);
        wrong(&good, &unknown, true, "totals.unknown_frees");
        let freed = totals(2, 16).replace(r#""free_calls": 0"#, r#""free_calls": 1"#);
        wrong(&good, &freed, true, "less 1 releases");
    }
}
