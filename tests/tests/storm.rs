//! As many events as four threads can make.

use memtrace_tests::{Mode, Recorder, Report, Scenario, Truth, live};

/// The exit status of a recording that is complete but not exact.
const LOSSES: i32 = 3;

fn storm(recorder: Recorder) -> Scenario {
    Scenario::of("storm.c").recorder(recorder)
}

#[test]
fn lossless_attached_loses_nothing() {
    let _turn = live();
    storm(Recorder::new().lossless()).attached();
}

#[test]
fn lossless_from_the_start_loses_nothing() {
    let _turn = live();
    storm(Recorder::new().lossless()).commanded();
}

/// A small ring makes the brake work.
#[test]
fn lossless_with_a_small_ring_loses_nothing() {
    let _turn = live();
    storm(Recorder::new().lossless().with("--ring-size").with("1M")).attached();
}

/// A ring that is far too small loses events; every one of them is accounted for.
#[test]
fn what_is_lost_is_counted_exactly() {
    let _turn = live();
    let recorder = Recorder::new().with("--ring-size").with("64K");
    let recorded = storm(recorder).attached_recorded().unwrap();
    let report = recorded.report_anyway().unwrap();
    let truth = Truth::of("storm.c", Mode::Attach).unwrap();
    let calls = truth.sum(|s| s.calls);
    let frees = truth.totals["free_calls"];

    let lost = report.loss("lost_allocs") + report.loss("thread_table_full");
    assert_eq!(
        report.total("alloc_calls") + report.loss("lost_allocs"),
        calls,
        "{}",
        text(&report)
    );
    assert_eq!(report.total("alloc_bytes"), report.total("alloc_calls") * 64, "{}", text(&report));
    let seen = report.total("free_calls") + report.total("unknown_frees");
    let told = seen + report.loss("lost_frees");
    // When a thread ends, glibc frees what its cache holds: one block of 64 bytes and the cache.
    let by_glibc = 2 * 4;
    assert!((frees..=frees + by_glibc).contains(&told), "{told} frees: {}", text(&report));
    let lossy = lost + report.loss("lost_frees") > 0;
    assert_eq!(report.exact(), !lossy, "{}", text(&report));
    // A recording with losses says so by its exit status.
    assert_eq!(recorded.finished.status.code(), Some(if lossy { LOSSES } else { 0 }));
}

fn text(report: &Report) -> String {
    format!("totals {:?} losses {:?}", report.totals, report.losses)
}
