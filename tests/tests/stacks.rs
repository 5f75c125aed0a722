//! Stacks of known depth.

use memtrace_tests::compare::stack;
use memtrace_tests::report::Site;
use memtrace_tests::{Build, Report, Scenario, live};

/// Frames that are recorded at most; a deeper stack keeps its innermost ones.
const MAX_FRAMES: usize = 128;

fn site_of(report: &Report, depth: usize) -> &Site {
    let name = format!("bottom_{depth}");
    let mut sites = report.sites.iter().filter(|s| s.frames.first().is_some_and(|f| f.is(&name)));
    let site = sites.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(sites.next().is_none(), "{name} has more than one stack");
    site
}

fn check(report: &Report, depth: usize) {
    let site = site_of(report, depth);
    let physical: Vec<_> = site.frames.iter().filter(|f| !f.inlined).collect();
    let descents = physical.iter().skip(1).take_while(|f| f.is("descend")).count();
    assert_eq!(descents, depth.min(MAX_FRAMES - 1), "frames of descend in {}", stack(site));
    let after = &physical[1 + descents..];
    if depth < MAX_FRAMES - 1 {
        assert!(after.len() >= 2, "the stack ends early: {}", stack(site));
        assert!(after[0].is("workload") && after[1].is("main"), "{:?}", &after[..2]);
        // glibc keeps no frame pointers, so its frames below `main` can't be told by them.
        let by_frame_pointers = report.rest["meta"]["unwinder"] == "frame-pointer";
        assert!(by_frame_pointers || site.end == "complete", "{}: {}", site.end, stack(site));
    } else {
        assert!(after.is_empty(), "more than {MAX_FRAMES} frames: {}", stack(site));
        assert_eq!(site.end, "depth_limit", "a cut stack must say so");
    }
}

fn check_all(report: &Report) {
    [5, 20, 60, 127, 200].into_iter().for_each(|depth| check(report, depth));
}

fn deep(build: Build) -> Scenario {
    Scenario::of("deep.c").build(build)
}

#[test]
fn stacks_of_a_build_with_frame_pointers_are_whole() {
    let _turn = live();
    check_all(&deep(Build::FramePointers).attached());
    check_all(&deep(Build::FramePointers).commanded());
}

/// Needs the unwinder by `.eh_frame`.
#[test]
fn stacks_of_a_stock_build_are_whole() {
    let _turn = live();
    check_all(&deep(Build::NoFramePointers).attached());
    check_all(&deep(Build::NoFramePointers).commanded());
}

/// The frame below a handler is the interrupted instruction itself and no return address.
#[test]
fn stacks_of_signal_handlers_go_on_into_the_interrupted_code() {
    let _turn = live();
    let report = Scenario::of("in_signal.c").attached();
    for interrupted in ["interrupted_in_a_call", "interrupted_at_entry"] {
        let sites = report.sites.iter().filter(|s| s.frames.iter().any(|f| f.is(interrupted)));
        let sites: Vec<&Site> = sites.collect();
        let calls: u64 = sites.iter().map(|s| s.alloc_calls).sum();
        let expected = if interrupted == "interrupted_at_entry" { 20 } else { 40 };
        assert_eq!(calls, expected, "calls with {interrupted} in their stack");
        for site in sites {
            let at = |name: &str| {
                let found = site.frames.iter().position(|f| f.is(name));
                found.unwrap_or_else(|| panic!("no {name} in {}", stack(site)))
            };
            assert!(at("handler_leak") < at("handler"), "{}", stack(site));
            assert!(at("handler") < at(interrupted), "{}", stack(site));
            assert!(at(interrupted) < at("workload"), "{}", stack(site));
            assert!(at("workload") < at("main"), "{}", stack(site));
        }
    }
}
