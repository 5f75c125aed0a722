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

fn check_all(build: Build) {
    let _turn = live();
    let scenario = Scenario::of("deep.c").build(build);
    for report in [scenario.attached(), scenario.commanded()] {
        [5, 20, 60, 127, 200].into_iter().for_each(|depth| check(&report, depth));
    }
}

#[test]
fn stacks_of_a_build_with_frame_pointers_are_whole() {
    check_all(Build::FramePointers);
}

/// Needs the unwinder by `.eh_frame`.
#[test]
fn stacks_of_a_stock_build_are_whole() {
    check_all(Build::NoFramePointers);
}
