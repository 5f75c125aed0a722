use std::{path::PathBuf, time::Duration};

use memtrace::kernel::{
    features::{Cgroups, Features, Functions, Limit, Lockdown, Tracefs, Version},
    privileges::Capabilities,
};

use super::{Check, State, checks};

fn good() -> Features {
    Features {
        release: "6.12.1".into(),
        version: Version { major: 6, minor: 12 },
        machine: "x86_64".into(),
        btf_bytes: Some(5 << 20),
        lockdown: Some(Lockdown::None),
        tracefs: Tracefs {
            mount: Some(PathBuf::from("/sys/kernel/tracing")),
            uprobe_events: Some(true),
            writable: true,
        },
        functions: Some(Functions {
            uprobes: true,
            raw_tracepoints: true,
            ring_buffer: true,
            bpf_loop: true,
            send_signal_thread: true,
            kprobes: true,
            trampolines: true,
            psi_triggers: true,
        }),
        perf_event_paranoid: Some(2),
        unprivileged_bpf_disabled: Some(2),
        cgroups: Cgroups::V2,
        memlock: Limit { soft: Some(65536), hard: Some(65536) },
        open_files: Limit { soft: Some(1024), hard: Some(524_288) },
    }
}

fn judged(features: &Features) -> Vec<Check> {
    checks(features, Some(Capabilities::from_bits(u64::MAX)), &Ok(Duration::from_millis(40)))
}

fn missing(checks: &[Check]) -> Vec<&'static str> {
    checks.iter().filter(|c| c.state == State::Missing).map(|c| c.name).collect()
}

#[test]
fn a_good_machine_misses_nothing() {
    let all = judged(&good());
    assert_eq!(missing(&all), [] as [&str; 0]);
    assert!(all.iter().all(|check| check.state != State::Limited), "{all:?}");
}

#[test]
fn each_missing_feature_is_named_with_a_remedy() {
    let functions = good().functions.expect("functions");
    let tracefs = good().tracefs;
    for (name, features) in [
        ("kernel", Features { version: Version { major: 5, minor: 4 }, ..good() }),
        ("kernel", Features { machine: "aarch64".into(), ..good() }),
        ("type information (BTF)", Features { btf_bytes: None, ..good() }),
        ("lockdown", Features { lockdown: Some(Lockdown::Confidentiality), ..good() }),
        (
            "uprobe events (tracefs)",
            Features { functions: Some(Functions { uprobes: false, ..functions }), ..good() },
        ),
        (
            "uprobe events (tracefs)",
            Features { tracefs: Tracefs { writable: false, ..tracefs.clone() }, ..good() },
        ),
        (
            "raw tracepoints",
            Features {
                functions: Some(Functions { raw_tracepoints: false, ..functions }),
                ..good()
            },
        ),
        (
            "ring buffer",
            Features { functions: Some(Functions { ring_buffer: false, ..functions }), ..good() },
        ),
    ] {
        let all = judged(&features);
        assert_eq!(missing(&all), [name]);
        let check = all.iter().find(|c| c.name == name).expect("check");
        assert!(check.remedy.is_some(), "{check:?}");
    }
}

#[test]
fn what_is_not_needed_is_not_missing() {
    let functions = Functions { kprobes: false, trampolines: false, ..Functions::default() };
    let functions =
        Functions { uprobes: true, raw_tracepoints: true, ring_buffer: true, ..functions };
    let features = Features {
        functions: Some(functions),
        lockdown: Some(Lockdown::Integrity),
        tracefs: Tracefs { mount: None, uprobe_events: None, writable: false },
        ..good()
    };
    assert_eq!(missing(&judged(&features)), [] as [&str; 0]);
    let hidden = Features { functions: None, lockdown: None, ..good() };
    assert_eq!(missing(&judged(&hidden)), [] as [&str; 0]);
}

#[test]
fn without_privileges_record_cannot_work() {
    let unmounted = Features {
        tracefs: Tracefs { mount: None, uprobe_events: None, writable: false },
        ..good()
    };
    let none = Some(Capabilities::from_bits(0));
    let all = checks(&unmounted, none, &Err("permission denied".into()));
    assert_eq!(missing(&all), ["privileges", "uprobe events (tracefs)", "BPF programs"]);
    assert!(all[1].found.contains("CAP_BPF"));
}

#[test]
fn missing_sys_resource_is_not_fatal() {
    let mut all = u64::MAX;
    all &= !(1 << 24);
    let capabilities = Some(Capabilities::from_bits(all));
    let new = checks(&good(), capabilities, &Ok(Duration::ZERO));
    assert_eq!(missing(&new), [] as [&str; 0]);
    let old = Features { version: Version { major: 5, minor: 10 }, ..good() };
    let old = checks(&old, capabilities, &Ok(Duration::ZERO));
    let memory = old.iter().find(|c| c.name == "locked memory").expect("check");
    assert_eq!(memory.state, State::Limited);
}
