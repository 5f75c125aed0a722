//! The judgement: what the facts about this kernel and this user mean for `record`.

use std::time::Duration;

use memtrace::kernel::{
    features::{Cgroups, Features, Lockdown, Version},
    privileges::{Capabilities, Capability},
};
use serde::Serialize;

/// One line of the doctor's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub name: &'static str,
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What a check means for `record`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// As it should be.
    Ok,
    /// `record` works, with a restriction.
    Limited,
    /// `record` cannot work.
    Missing,
    /// Neither good nor bad.
    Info,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Limited => "limited",
            State::Missing => "missing",
            State::Info => "-",
        }
    }
}

/// The ring buffer came with 5.8, as did CAP_BPF and CAP_PERFMON.
const OLDEST: Version = Version { major: 5, minor: 8 };
/// BPF memory is charged to the cgroup, not to RLIMIT_MEMLOCK.
const MEMLOCK_FREE: Version = Version { major: 5, minor: 11 };
/// Descriptors that each recorded thread costs.
const DESCRIPTORS_A_THREAD: u64 = 2;

/// How loading the BPF programs went, or why not.
pub(super) type Loaded = Result<Duration, String>;

/// Every check, in the order of the table.
pub(super) fn checks(
    features: &Features,
    capabilities: Option<Capabilities>,
    loaded: &Loaded,
) -> Vec<Check> {
    let has = |capability| capabilities.is_some_and(|c| c.has(capability));
    vec![
        kernel(features),
        privileges(capabilities),
        type_information(features),
        lockdown(features),
        uprobe_events(features, has(Capability::SysAdmin)),
        kernel_function("raw tracepoints", "CONFIG_BPF_EVENTS", features, |f| f.raw_tracepoints),
        kernel_function("ring buffer", "Linux 5.8", features, |f| f.ring_buffer),
        programs(loaded),
        other_processes(has(Capability::SysPtrace)),
        lossless(features),
        locked_memory(features, has(Capability::SysResource)),
        descriptors(features),
        kprobes(features),
        cgroups(features),
    ]
}

fn check(name: &'static str, state: State, found: impl Into<String>) -> Check {
    Check { name, state, found: found.into(), remedy: None }
}

fn with_remedy(mut check: Check, remedy: impl Into<String>) -> Check {
    check.remedy = Some(remedy.into());
    check
}

fn kernel(features: &Features) -> Check {
    let found = format!("{} {}", features.release, features.machine);
    let name = "kernel";
    if features.machine != "x86_64" {
        return with_remedy(check(name, State::Missing, found), "only x86_64 is supported");
    }
    if features.version < OLDEST {
        let remedy = format!("needs Linux {}.{} or newer", OLDEST.major, OLDEST.minor);
        return with_remedy(check(name, State::Missing, found), remedy);
    }
    check(name, State::Ok, found)
}

fn privileges(capabilities: Option<Capabilities>) -> Check {
    let name = "privileges";
    let Some(capabilities) = capabilities else {
        return check(name, State::Limited, "unknown: /proc/self/status can't be read");
    };
    let lacking: Vec<_> = Capability::ALL
        .into_iter()
        .filter(|capability| !capabilities.has(*capability))
        .map(Capability::name)
        .collect();
    let found = if lacking.is_empty() {
        String::from("all that are of use")
    } else {
        format!("without {}", lacking.join(", "))
    };
    if !capabilities.may_load_bpf() {
        let remedy = "run as root (sudo), or with CAP_BPF and CAP_PERFMON";
        return with_remedy(check(name, State::Missing, found), remedy);
    }
    // Without CAP_SYS_RESOURCE limits can't be raised; that has its own line below.
    check(name, State::Ok, found)
}

fn type_information(features: &Features) -> Check {
    let name = "type information (BTF)";
    match features.btf_bytes {
        Some(bytes) => check(name, State::Ok, format!("{} KiB", bytes / 1024)),
        None => with_remedy(
            check(name, State::Missing, "no /sys/kernel/btf/vmlinux"),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        ),
    }
}

fn lockdown(features: &Features) -> Check {
    let name = "lockdown";
    match features.lockdown {
        Some(Lockdown::None) => check(name, State::Ok, "off"),
        Some(Lockdown::Integrity) => {
            check(name, State::Ok, "integrity: reading memory is allowed, and that is enough")
        }
        Some(Lockdown::Confidentiality) => with_remedy(
            check(name, State::Missing, "confidentiality: BPF may not read kernel memory"),
            "boot with lockdown=integrity or without lockdown",
        ),
        None => check(name, State::Info, "unknown: securityfs can't be read"),
    }
}

fn uprobe_events(features: &Features, may_mount: bool) -> Check {
    let name = "uprobe events (tracefs)";
    let tracefs = &features.tracefs;
    if tracefs.uprobe_events == Some(false) || features.functions.is_some_and(|f| !f.uprobes) {
        return with_remedy(
            check(name, State::Missing, "not in this kernel"),
            "use a kernel built with CONFIG_UPROBE_EVENTS=y",
        );
    }
    match &tracefs.mount {
        Some(mount) if tracefs.writable => check(name, State::Ok, mount.display().to_string()),
        Some(mount) => with_remedy(
            check(name, State::Missing, format!("{} may not be written", mount.display())),
            "run as root (sudo)",
        ),
        None if may_mount => {
            check(name, State::Ok, "tracefs is not mounted; a private mount is used")
        }
        None => with_remedy(
            check(name, State::Missing, "tracefs is not mounted"),
            "sudo mount -t tracefs tracefs /sys/kernel/tracing",
        ),
    }
}

/// A function that the kernel must have. Where its symbol table is hidden, loading the programs is
/// the only test.
fn kernel_function(
    name: &'static str,
    origin: &str,
    features: &Features,
    has: impl Fn(memtrace::kernel::features::Functions) -> bool,
) -> Check {
    match features.functions.map(has) {
        Some(true) => check(name, State::Ok, "in this kernel"),
        Some(false) => with_remedy(
            check(name, State::Missing, "not in this kernel"),
            format!("use a kernel with {origin}"),
        ),
        None => check(name, State::Info, "unknown: /proc/kallsyms is empty"),
    }
}

fn programs(loaded: &Loaded) -> Check {
    let name = "BPF programs";
    match loaded {
        Ok(time) => check(name, State::Ok, format!("loaded in {} ms", time.as_millis())),
        Err(reason) => check(name, State::Missing, reason),
    }
}

fn other_processes(may_ptrace: bool) -> Check {
    let name = "other users' processes";
    if may_ptrace {
        return check(name, State::Ok, "can be recorded");
    }
    with_remedy(
        check(name, State::Limited, "can't be looked into without CAP_SYS_PTRACE"),
        "run as root (sudo)",
    )
}

fn lossless(features: &Features) -> Check {
    let name = "record --lossless";
    match features.functions {
        Some(functions) if functions.send_signal_thread => check(name, State::Ok, "can be used"),
        Some(_) => check(name, State::Limited, "needs Linux 5.6 (bpf_send_signal_thread)"),
        None => check(name, State::Info, "unknown: /proc/kallsyms is empty"),
    }
}

fn locked_memory(features: &Features, may_raise: bool) -> Check {
    let name = "locked memory";
    if features.version >= MEMLOCK_FREE {
        return check(name, State::Ok, "BPF memory is charged to the cgroup, not to a limit");
    }
    match features.memlock.soft {
        None => check(name, State::Ok, "unlimited"),
        Some(_) if may_raise => check(name, State::Ok, "limited, and raised when needed"),
        Some(bytes) => with_remedy(
            check(name, State::Limited, format!("limited to {} KiB", bytes / 1024)),
            "ulimit -l unlimited, or CAP_SYS_RESOURCE",
        ),
    }
}

fn descriptors(features: &Features) -> Check {
    let name = "file descriptors";
    match features.open_files.hard {
        None => check(name, State::Ok, "unlimited"),
        Some(limit) => check(
            name,
            State::Ok,
            format!("limit {limit}: about {} threads at once", limit / DESCRIPTORS_A_THREAD),
        ),
    }
}

fn kprobes(features: &Features) -> Check {
    let name = "kprobes";
    match features.functions {
        Some(functions) if functions.kprobes => check(name, State::Info, "in this kernel"),
        Some(_) => check(name, State::Info, "not in this kernel; record does not need them"),
        None => check(name, State::Info, "unknown: /proc/kallsyms is empty"),
    }
}

fn cgroups(features: &Features) -> Check {
    let found = match features.cgroups {
        Cgroups::None => "none mounted",
        Cgroups::V1 => "v1",
        Cgroups::V2 => "v2",
        Cgroups::Hybrid => "v1 and v2 side by side",
    };
    check("cgroups", State::Info, found)
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
