//! On the same program memtrace and heaptrack give the same numbers.

use memtrace_tests::heaptrack::{Cost, Folded, Heaptrack};
use memtrace_tests::report::{Report, Site, same_function};
use memtrace_tests::{Build, Scenario, live, program};

/// libstdc++'s emergency pool for exceptions. heaptrack brings it into every process; memtrace sees
/// it where the program itself is C++.
const POOL_BYTES: u64 = 72_704;

struct Numbers {
    allocations: u64,
    temporary: u64,
    leaked: u64,
    peak: u64,
}

fn by_heaptrack(run: &Heaptrack, site: Option<&str>) -> Numbers {
    let sum = |cost: Cost| {
        let lines = run.folded(cost).unwrap();
        let own = lines.iter().filter(|line| !line.is_start_up());
        own.filter(|line| site.is_none_or(|s| line.frames.iter().any(|f| is(f, s))))
            .map(|line| line.cost)
            .sum()
    };
    Numbers {
        allocations: sum(Cost::Allocations),
        temporary: sum(Cost::Temporary),
        leaked: sum(Cost::Leaked),
        peak: sum(Cost::Peak),
    }
}

fn is(frame: &str, name: &str) -> bool {
    let function = frame.rsplit_once(" (").map_or(frame, |(function, _)| function);
    same_function(function, name)
}

fn by_memtrace(report: &Report, site: Option<&str>) -> Numbers {
    let own = |s: &&Site| !is_pool(s) && site.is_none_or(|f| s.frames.iter().any(|x| x.is(f)));
    let sum = |of: fn(&Site) -> u64| report.sites.iter().filter(own).map(of).sum();
    Numbers {
        allocations: sum(|s| s.alloc_calls),
        temporary: sum(|s| s.temporary_calls),
        leaked: sum(|s| s.live_bytes),
        peak: sum(|s| s.peak_bytes),
    }
}

fn is_pool(site: &Site) -> bool {
    let library = site.frames.first().and_then(|f| f.module.as_deref());
    library.is_some_and(|m| m.contains("libstdc++"))
        && (site.alloc_calls, site.alloc_bytes) == (1, POOL_BYTES)
}

/// heaptrack's own start-up block is that one and nothing else.
fn check_start_up(run: &Heaptrack) {
    let sum = |cost: Cost| -> u64 {
        let lines = run.folded(cost).unwrap();
        lines.iter().filter(|line| line.is_start_up()).map(|line: &Folded| line.cost).sum()
    };
    assert_eq!(sum(Cost::Allocations), 1);
    assert_eq!(sum(Cost::Peak), POOL_BYTES);
}

fn check(source: &'static str, sites: &[&str]) {
    let _turn = live();
    let run = Heaptrack::run(&program(source, Build::Plain), &[]).unwrap();
    check_start_up(&run);
    let report = Scenario::of(source).commanded_report().unwrap();
    assert!(report.exact(), "{:?}", report.losses);
    let sites = sites.iter().map(|s| Some(*s)).chain([None]);
    for site in sites {
        let heaptrack = by_heaptrack(&run, site);
        let memtrace = by_memtrace(&report, site);
        let what = site.unwrap_or("all");
        assert_eq!(memtrace.allocations, heaptrack.allocations, "{source}: calls of {what}");
        if site_is_c(source) {
            assert_eq!(memtrace.temporary, heaptrack.temporary, "{source}: temporary of {what}");
        } else {
            // heaptrack tells blocks apart by size and stack and not by address, so it can take the
            // free of another one for that of the block just allocated.
            assert!(memtrace.temporary <= heaptrack.temporary, "{source}: temporary of {what}");
        }
        assert_eq!(memtrace.leaked, heaptrack.leaked, "{source}: leaked by {what}");
        assert_eq!(memtrace.peak, heaptrack.peak, "{source}: peak of {what}");
    }
    if site_is_c(source) {
        assert_eq!(report.total("alloc_calls"), by_heaptrack(&run, None).allocations);
        assert_eq!(report.total("peak_bytes"), by_heaptrack(&run, None).peak);
        assert_eq!(report.total("leaked_bytes"), by_heaptrack(&run, None).leaked);
        assert_eq!(report.total("temporary_calls"), by_heaptrack(&run, None).temporary);
    }
}

fn site_is_c(source: &str) -> bool {
    source.ends_with(".c")
}

#[test]
fn a_mixed_load_has_the_same_calls_leaks_temporaries_and_peak() {
    let sites =
        ["mixed_malloc", "mixed_calloc", "mixed_realloc", "mixed_aligned", "mixed_temporary"];
    check("deterministic.c", &sites);
}

#[test]
fn sites_with_different_rates_have_the_same_numbers() {
    check("rates.c", &["leak_fast", "leak_slow", "leak_rare", "balanced", "half_freed"]);
}

#[test]
fn cpp_containers_have_the_same_numbers() {
    check("containers.cpp", &["fill_vector", "scoped_vector", "fill_map", "new_over_aligned"]);
}
