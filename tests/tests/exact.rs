//! Every truth program, recorded from outside (`-p`) and from its start (`-- CMD`): every number of
//! every call site, every total, and no losses.

use std::fs;
use std::path::{Path, PathBuf};

use memtrace_tests::process::{Output, PATIENCE, Running};
use memtrace_tests::{
    Build, Mode, Recorder, Report, Scenario, Truth, compare, compile, live, program,
};

/// Two tests, one for each way to record.
macro_rules! exact {
    ($name:ident, $scenario:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn attached() {
                let _turn = live();
                $scenario.attached();
            }

            #[test]
            fn from_the_start() {
                let _turn = live();
                $scenario.commanded();
            }
        }
    };
}

exact!(a_single_leak, Scenario::of("single_leak.c"));
exact!(sites_with_different_rates, Scenario::of("rates.c"));
exact!(realloc_in_all_its_meanings, Scenario::of("reallocs.c"));
exact!(calloc_big_small_and_failing, Scenario::of("callocs.c"));
exact!(aligned_functions_with_their_failures, Scenario::of("aligned.c"));
exact!(malloc_of_nothing_and_free_of_null, Scenario::of("zeros.c"));
exact!(libraries_loaded_and_unloaded_while_recording, plugin_host());
exact!(the_c_library_s_malloc_beside_another_one, two_mallocs());
exact!(four_threads_that_end, Scenario::of("threads.c"));
exact!(threads_that_ran_before, Scenario::of("old_threads.c"));
exact!(threads_that_are_cancelled_or_exit, Scenario::of("thread_death.c"));
exact!(blocks_older_than_the_recording, Scenario::of("old_blocks.c"));
exact!(temporary_allocations, Scenario::of("temporaries.c"));
exact!(the_first_maximum_and_its_shares, Scenario::of("peak.c"));
exact!(two_million_live_blocks, Scenario::of("many_live.c"));
exact!(children_that_allocate, Scenario::of("fork_child.c"));
exact!(children_that_exec, Scenario::of("fork_exec.c").arg(leaf()));
exact!(children_that_are_spawned, Scenario::of("spawn.c").arg(leaf()));
exact!(frees_by_another_thread, Scenario::of("cross_thread.c"));
exact!(blocks_of_the_c_library_by_its_caller, Scenario::of("libc_callers.c"));
exact!(allocations_in_signal_handlers, Scenario::of("in_signal.c"));
exact!(cpp_containers, Scenario::of("containers.cpp"));
exact!(cpp_containers_with_frame_pointers, framed("containers.cpp"));
exact!(rust_collections, Scenario::of("boxes.rs"));
exact!(rust_collections_with_frame_pointers, framed("boxes.rs"));
exact!(without_debug_information, Scenario::of("rates.c").build(Build::NoDebug));
exact!(with_frame_pointers, framed("rates.c"));
exact!(without_frame_pointers, Scenario::of("rates.c").build(Build::NoFramePointers));
exact!(python_calling_a_library, python());

fn framed(source: &'static str) -> Scenario {
    Scenario::of(source).build(Build::FramePointers)
}

fn leaf() -> PathBuf {
    program("leaf.c", Build::Plain)
}

fn plugin_host() -> Scenario {
    let plugin = |name: &str| {
        compile::library("plugin.c", &format!("lib{name}"), &[&format!("PLUGIN={name}")])
    };
    Scenario::of("plugin_host.c").arg(plugin("plugin_kept")).arg(plugin("plugin_closed"))
}

fn two_mallocs() -> Scenario {
    Scenario::of("two_mallocs.c").arg(compile::library("other_malloc.c", "libother_malloc", &[]))
}

/// Debian's python3, not one that a version manager put first.
fn python() -> Scenario {
    let library = compile::library("calls.c", "libcalls", &[]);
    let script = memtrace_tests::paths::programs().join("leak.py");
    Scenario::of("leak.py").binary(Path::new("/usr/bin/python3")).arg(script).arg(library)
}

#[test]
fn python_bytearrays_are_counted_at_the_function_that_makes_them() {
    let _turn = live();
    let report = python().attached();
    // The stripped interpreter exports this one of the functions on the way.
    let at = |of: fn(&memtrace_tests::report::Site) -> u64| -> u64 {
        report
            .sites
            .iter()
            .filter(|s| s.alloc_bytes > 0 && s.alloc_bytes % s.alloc_calls == 0)
            .filter(|s| s.alloc_bytes / s.alloc_calls == 1_000_004)
            .map(of)
            .sum()
    };
    assert_eq!(at(|s| s.live_blocks), 50);
    assert_eq!(at(|s| s.live_bytes), 50_000_200);
}

#[test]
fn a_program_that_deleted_its_binary_is_still_named() {
    let _turn = live();
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("self_delete");
    for attached in [true, false] {
        fs::copy(program("self_delete.c", Build::Plain), &copy).unwrap();
        let scenario = Scenario::of("self_delete.c").binary(&copy);
        if attached {
            scenario.attached()
        } else {
            scenario.commanded()
        };
        assert!(!copy.exists(), "the program did not delete itself");
    }
}

#[test]
fn a_program_that_exits_at_once_is_still_named() {
    let _turn = live();
    Scenario::of("quick_exit.c").commanded();
}

/// The calls in flight at the end are not counted, and harm nothing.
#[test]
fn a_process_that_ends_inside_of_allocator_calls_is_recorded_to_the_end() {
    let _turn = live();
    for report in
        [Scenario::of("exit_in_flight.c").attached(), Scenario::of("exit_in_flight.c").commanded()]
    {
        let spinning = report.sum_with("spinning", |s| s.alloc_calls);
        let live = report.sum_with("spinning", |s| s.live_blocks);
        assert!(spinning > 100, "only {spinning} calls of the spinning threads");
        assert!(live <= 3, "{live} blocks of three threads that free at once");
    }
}

#[test]
fn a_stripped_program_is_counted_by_module_and_offset() {
    let _turn = live();
    let scenario = Scenario::of("single_leak.c").build(Build::Stripped);
    for report in [scenario.attached_report().unwrap(), scenario.commanded_report().unwrap()] {
        assert!(report.exact(), "{:?}", report.losses);
        assert_eq!(report.total("alloc_calls"), 1000);
        assert_eq!(report.total("leaked_bytes"), 64000);
        let sites: Vec<_> = report.sites.iter().filter(|s| s.alloc_calls > 0).collect();
        assert!(!sites.is_empty());
        for site in &sites {
            let frame = &site.frames[0];
            let module = frame.module.as_deref();
            assert!(module.is_some_and(|m| m.ends_with("single_leak")), "{frame:?}");
            assert_eq!(frame.address, sites[0].frames[0].address, "one call site: {sites:?}");
            assert!(frame.function.as_deref().is_none_or(str::is_empty), "a name from nowhere");
        }
    }
}

#[test]
fn a_static_program_with_symbols_is_recorded_from_its_own_malloc() {
    let _turn = live();
    let scenario = Scenario::of("rates.c").build(Build::Static);
    let truth = Truth::of("rates.c", Mode::Attach).unwrap();
    compare(&scenario.attached_report().unwrap(), &truth).unwrap();
}

#[test]
fn inlined_functions_are_frames_of_their_own_with_file_and_line() {
    let _turn = live();
    for report in [Scenario::of("inlined.c").attached(), Scenario::of("inlined.c").commanded()] {
        let source = fs::read_to_string(memtrace_tests::paths::programs().join("inlined.c"));
        let source = source.unwrap();
        let line_of = |name: &str| {
            let marker = format!("/* {name}'s line */");
            let line = source.lines().position(|l| l.contains(&marker)).unwrap();
            u32::try_from(line + 1).unwrap()
        };
        let expected = [("innermost", true), ("between", true), ("around", false)];
        let site = site_of(&report, "innermost");
        for (frame, (name, inlined)) in site.frames.iter().zip(expected) {
            assert!(frame.is(name), "{frame:?} is not {name}");
            assert_eq!(frame.inlined, inlined, "{frame:?}");
            assert_eq!(frame.line, Some(line_of(name)), "{frame:?}");
            assert!(frame.file.as_deref().is_some_and(|f| f.ends_with("inlined.c")), "{frame:?}");
        }
        let site = site_of(&report, "outlined");
        assert_eq!(site.frames[0].line, Some(line_of("outlined")));
        assert!(!site.frames[0].inlined);
    }
}

fn site_of<'a>(report: &'a Report, function: &str) -> &'a memtrace_tests::report::Site {
    report.sites.iter().find(|s| s.frames.first().is_some_and(|f| f.is(function))).unwrap()
}

#[test]
fn two_processes_are_recorded_together() {
    let _turn = live();
    let names = ["rates.c", "temporaries.c"];
    let mut targets: Vec<Running> =
        names.iter().map(|source| Scenario::of(source).ready().unwrap()).collect();
    let pids: Vec<u32> = targets.iter().map(Running::pid).collect();
    let recording = Recorder::new().attach(&pids).unwrap();
    for target in &mut targets {
        target.say("go").unwrap();
        target.line(Output::Stdout, "done", PATIENCE).unwrap();
    }
    let report = recording.stop().unwrap().report().unwrap();
    for mut target in targets {
        target.say("end").unwrap();
        target.wait(PATIENCE).unwrap().success().unwrap();
    }
    let mut truth = Truth::of(names[0], Mode::Attach).unwrap();
    let other = Truth::of(names[1], Mode::Attach).unwrap();
    for (key, value) in other.totals {
        if let Some(total) = truth.totals.get_mut(&key) {
            *total += value;
        }
    }
    truth.sites.extend(other.sites);
    compare(&report, &truth).unwrap();
}
