//! The truth programs tell the truth: an oracle that shares nothing with memtrace counts the same.
//! These tests need no root and no BPF.

use memtrace_tests::heaptrack::{Cost, Folded, Heaptrack};
use memtrace_tests::report::same_function;
use memtrace_tests::{Build, Mode, Truth, compile, oracle, program};

/// Every number of every site, and the totals where no foreign allocation is part of them.
fn check(source: &str, args: &[&str], deep: bool) {
    check_but(source, args, deep, &[]);
}

fn check_but(source: &str, args: &[&str], deep: bool, but: &[&str]) {
    let truth = Truth::of(source, Mode::Command).unwrap();
    let counted = oracle::run(&program(source, Build::Exported), args, &truth, deep).unwrap();
    let mut wrong = Vec::new();
    for (name, expected) in &truth.sites {
        if but.contains(&name.as_str()) {
            continue;
        }
        let mut found = counted.sites.get(name).cloned().unwrap_or_default();
        found.any_depth = expected.any_depth;
        found.peak_bytes = expected.peak_bytes.and(found.peak_bytes.or(Some(0)));
        if found != *expected {
            wrong.push(format!("{name}: stated {expected:?}\n    counted {found:?}"));
        }
    }
    if truth.foreign.is_empty() && but.is_empty() {
        if !counted.foreign.is_empty() {
            wrong.push(format!("not in the truth: {:?}", counted.foreign));
        }
        for (key, found) in &counted.totals {
            let expected = truth.totals.get(key).unwrap_or(found);
            if expected != found {
                wrong.push(format!("total {key}: stated {expected}, counted {found}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{source}:\n  {}", wrong.join("\n  "));
}

#[test]
fn single_threaded_c_programs_state_what_the_oracle_counts() {
    let sources = [
        "single_leak.c",
        "rates.c",
        "reallocs.c",
        "callocs.c",
        "aligned.c",
        "zeros.c",
        "old_blocks.c",
        "temporaries.c",
        "peak.c",
        "many_live.c",
        "deep.c",
        "quick_exit.c",
        "in_signal.c",
    ];
    sources.iter().for_each(|source| check(source, &[], false));
}

#[test]
fn threaded_c_programs_state_what_the_oracle_counts() {
    let sources = [
        "threads.c",
        "old_threads.c",
        "thread_death.c",
        "exit_in_flight.c",
        "cross_thread.c",
        "storm.c",
    ];
    sources.iter().for_each(|source| check(source, &[], false));
}

#[test]
fn programs_with_children_state_what_the_oracle_counts() {
    let leaf = program("leaf.c", Build::Exported);
    let leaf = leaf.to_str().unwrap();
    check("fork_child.c", &[], false);
    check("spawn.c", &[leaf], false);
    // What a child does before its exec, the oracle can't write down.
    check_but("fork_exec.c", &[leaf], false, &["before_exec"]);
}

#[test]
fn programs_with_libraries_state_what_the_oracle_counts() {
    let kept = compile::library("plugin.c", "libplugin_kept", &["PLUGIN=plugin_kept"]);
    let closed = compile::library("plugin.c", "libplugin_closed", &["PLUGIN=plugin_closed"]);
    let args = [kept.to_str().unwrap(), closed.to_str().unwrap()];
    check("plugin_host.c", &args, false);
    let other = compile::library("other_malloc.c", "libother_malloc", &[]);
    check("two_mallocs.c", &[other.to_str().unwrap()], false);
}

#[test]
fn callers_of_the_c_library_state_what_the_oracle_counts() {
    check("libc_callers.c", &[], true);
}

#[test]
fn the_cpp_program_states_what_the_oracle_counts() {
    check("containers.cpp", &[], true);
}

#[test]
fn the_rust_program_states_what_the_oracle_counts() {
    check("boxes.rs", &[], true);
}

/// heaptrack follows neither failures nor reallocarray nor some aligned functions, and counts a
/// temporary by site and size instead of by block; these programs do without.
#[test]
fn heaptrack_counts_the_same() {
    let sources = ["single_leak.c", "rates.c", "callocs.c", "temporaries.c", "containers.cpp"];
    for source in sources {
        let truth = Truth::of(source, Mode::Command).unwrap();
        let run = Heaptrack::run(&program(source, Build::Plain), &[]).unwrap();
        let folded = |cost| run.folded(cost).unwrap();
        let calls = folded(Cost::Allocations);
        let (leaked, temporary) = (folded(Cost::Leaked), folded(Cost::Temporary));
        for (name, site) in &truth.sites {
            let found = (sum(&calls, name), sum(&leaked, name));
            assert_eq!(found, (site.calls, site.live_bytes), "{source}: {name}");
            if source == "temporaries.c" {
                assert_eq!(sum(&temporary, name), site.temporary, "{source}: {name}");
            }
        }
    }
}

fn sum(lines: &[Folded], site: &str) -> u64 {
    let of = |line: &&Folded| line.frames.iter().any(|f| is(f, site));
    lines.iter().filter(of).map(|line| line.cost).sum()
}

/// heaptrack appends the source file: `fill_map() (containers.cpp)`.
fn is(frame: &str, name: &str) -> bool {
    let function = frame.rsplit_once(" (").map_or(frame, |(function, _)| function);
    same_function(function, name)
}
