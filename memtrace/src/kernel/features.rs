//! What the running kernel offers.
//!
//! Facts only, none of which fails to be collected: what can't be known is `None`. Who judges them
//! is the command that needs them.

use std::{
    ffi::CStr,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
};

use rustix::{
    fs::{Access, CWD, Mode, OFlags, access, openat, statfs},
    process::{Resource, getrlimit},
};

use super::mount::private_mount;

/// A kernel version; the third number says nothing about features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// The running kernel's; 0.0 for a release that is none.
    pub fn running() -> Self {
        Self::parse(&rustix::system::uname().release().to_string_lossy())
    }

    /// Of a release such as `6.1.0-44-cloud-amd64`.
    pub fn parse(release: &str) -> Self {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().ok());
        let mut next = || numbers.next().flatten();
        match (next(), next()) {
            (Some(major), Some(minor)) => Version { major, minor },
            _ => Version { major: 0, minor: 0 },
        }
    }
}

/// The kernel's lockdown mode, see kernel_lockdown(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lockdown {
    /// Off, or not part of this kernel.
    None,
    /// Writing to user memory from BPF is forbidden, reading kernel memory is not.
    Integrity,
    /// Reading kernel memory from BPF is forbidden too.
    Confidentiality,
}

/// Where tracefs is and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracefs {
    /// None when it is mounted at neither of the usual places.
    pub mount: Option<PathBuf>,
    /// Whether `uprobe_events` is there; None when the directory may not be searched.
    pub uprobe_events: Option<bool>,
    /// Whether this process may write it.
    pub writable: bool,
}

/// Which cgroup hierarchies are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cgroups {
    None,
    V1,
    V2,
    /// v1 with controllers, and a v2 tree beside it.
    Hybrid,
}

/// Functions that are in this kernel, by its symbol table. A version tells less: distributions take
/// functions back into older kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Functions {
    pub uprobes: bool,
    pub raw_tracepoints: bool,
    /// `bpf_ringbuf_output`, in mainline since 5.8.
    pub ring_buffer: bool,
    /// `bpf_loop`, since 5.17.
    pub bpf_loop: bool,
    /// `bpf_send_signal_thread`, since 5.6.
    pub send_signal_thread: bool,
    pub kprobes: bool,
    /// The ground of fentry programs. Loading one may still be refused.
    pub trampolines: bool,
    pub psi_triggers: bool,
}

/// A soft and a hard limit; None is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// `uname -r`.
    pub release: String,
    pub version: Version,
    /// `x86_64`.
    pub machine: String,
    /// Size of the kernel's type information, bytes; None where there is none.
    pub btf_bytes: Option<u64>,
    /// None when it can't be read.
    pub lockdown: Option<Lockdown>,
    pub tracefs: Tracefs,
    /// None when /proc/kallsyms is empty or unreadable.
    pub functions: Option<Functions>,
    /// /proc/sys/kernel/perf_event_paranoid.
    pub perf_event_paranoid: Option<i32>,
    /// /proc/sys/kernel/unprivileged_bpf_disabled.
    pub unprivileged_bpf_disabled: Option<i32>,
    pub cgroups: Cgroups,
    /// RLIMIT_MEMLOCK, bytes. Counts for BPF maps before 5.11 only: newer kernels charge the cgroup.
    pub memlock: Limit,
    /// RLIMIT_NOFILE.
    pub open_files: Limit,
}

impl Features {
    /// Looks at the running kernel; some tens of milliseconds, most of it for /proc/kallsyms.
    pub fn read() -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        Features {
            version: Version::parse(&release),
            release,
            machine: uname.machine().to_string_lossy().into_owned(),
            btf_bytes: fs::metadata(super::btf::KERNEL_BTF).ok().map(|meta| meta.len()),
            lockdown: lockdown(),
            tracefs: tracefs(),
            functions: File::open("/proc/kallsyms").ok().and_then(|f| functions(BufReader::new(f))),
            perf_event_paranoid: sysctl("perf_event_paranoid"),
            unprivileged_bpf_disabled: sysctl("unprivileged_bpf_disabled"),
            cgroups: cgroups(&fs::read_to_string("/proc/self/mounts").unwrap_or_default()),
            memlock: limit(Resource::Memlock),
            open_files: limit(Resource::Nofile),
        }
    }
}

fn sysctl(name: &str) -> Option<i32> {
    fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?.trim().parse().ok()
}

fn limit(resource: Resource) -> Limit {
    let limit = getrlimit(resource);
    Limit { soft: limit.current, hard: limit.maximum }
}

/// securityfs is often not mounted; a private mount shows it without leaving a trace. A kernel
/// without lockdown has no such file, one that can't be asked gives `None`.
fn lockdown() -> Option<Lockdown> {
    let mounted = fs::read_to_string("/sys/kernel/security/lockdown");
    let text = mounted.or_else(|_| {
        let directory = private_mount(c"securityfs")?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&directory, c"lockdown", flags, Mode::empty())?;
        let mut text = String::new();
        File::from(file).read_to_string(&mut text)?;
        io::Result::Ok(text)
    });
    match text {
        Ok(text) => lockdown_mode(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Lockdown::None),
        Err(_) => None,
    }
}

/// `none [integrity] confidentiality`: the mode in force is in brackets.
fn lockdown_mode(text: &str) -> Option<Lockdown> {
    match text.split_once('[')?.1.split_once(']')?.0 {
        "none" => Some(Lockdown::None),
        "integrity" => Some(Lockdown::Integrity),
        "confidentiality" => Some(Lockdown::Confidentiality),
        _ => None,
    }
}

/// `TRACEFS_MAGIC` of `include/uapi/linux/magic.h`.
const TRACEFS_MAGIC: u64 = 0x7472_6163;

/// Where tracefs is usually mounted; the second is the old place.
const TRACEFS_PLACES: [&CStr; 2] = [c"/sys/kernel/tracing", c"/sys/kernel/debug/tracing"];

fn tracefs() -> Tracefs {
    let found = TRACEFS_PLACES
        .into_iter()
        .find(|place| statfs(*place).is_ok_and(|stat| stat.f_type as u64 == TRACEFS_MAGIC));
    let Some(place) = found else {
        return Tracefs { mount: None, uprobe_events: None, writable: false };
    };
    let mount = PathBuf::from(place.to_string_lossy().into_owned());
    let events = mount.join("uprobe_events");
    let exists = access(&events, Access::EXISTS);
    let searchable = openat(CWD, place, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).is_ok();
    Tracefs {
        uprobe_events: match exists {
            Ok(()) => Some(true),
            Err(_) if searchable => Some(false),
            Err(_) => None,
        },
        writable: access(&events, Access::WRITE_OK).is_ok(),
        mount: Some(mount),
    }
}

/// Lines of `address type name [module]`.
fn functions(mut kallsyms: impl BufRead) -> Option<Functions> {
    let mut found = Functions::default();
    let mut any = false;
    let mut line = Vec::new();
    loop {
        line.clear();
        match kallsyms.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => any = true,
        }
        let name = line.trim_ascii_end().splitn(3, |&b| b == b' ').nth(2).unwrap_or_default();
        match name {
            b"uprobe_register" | b"uprobe_register_refctr" => found.uprobes = true,
            b"bpf_probe_register" | b"bpf_raw_tp_link_attach" => found.raw_tracepoints = true,
            b"bpf_ringbuf_output" => found.ring_buffer = true,
            b"bpf_loop" => found.bpf_loop = true,
            b"bpf_send_signal_thread" => found.send_signal_thread = true,
            b"register_kprobe" => found.kprobes = true,
            b"bpf_trampoline_link_prog" => found.trampolines = true,
            b"psi_trigger_create" => found.psi_triggers = true,
            _ => {}
        }
    }
    any.then_some(found)
}

fn cgroups(mounts: &str) -> Cgroups {
    let has = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    match (has("cgroup"), has("cgroup2")) {
        (true, true) => Cgroups::Hybrid,
        (true, false) => Cgroups::V1,
        (false, true) => Cgroups::V2,
        (false, false) => Cgroups::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_understood() {
        for (release, major, minor) in [
            ("6.18.44-fc-v595", 6, 18),
            ("6.1.0-44-cloud-amd64", 6, 1),
            ("5.14.0-427.13.1.el9_4.x86_64", 5, 14),
            ("6.12+deb13-amd64", 6, 12),
            ("7.0-rc1", 7, 0),
            ("strange", 0, 0),
        ] {
            assert_eq!(Version::parse(release), Version { major, minor }, "{release}");
        }
        assert!(Version { major: 5, minor: 17 } < Version { major: 6, minor: 1 });
    }

    #[test]
    fn lockdown_mode_is_the_one_in_brackets() {
        assert_eq!(lockdown_mode("none [integrity] confidentiality\n"), Some(Lockdown::Integrity));
        assert_eq!(lockdown_mode("[none] integrity confidentiality\n"), Some(Lockdown::None));
        assert_eq!(
            lockdown_mode("none integrity [confidentiality]\n"),
            Some(Lockdown::Confidentiality)
        );
        assert_eq!(lockdown_mode(""), None);
        assert_eq!(lockdown_mode("[new]"), None);
    }

    #[test]
    fn kernel_functions_are_found_by_whole_names() {
        let text = "0000000000000000 T bpf_loop\n0000000000000000 t register_kprobes\n\
                    ffffffff813db380 T psi_trigger_create\n0 t bpf_ringbuf_output\t[module]\n";
        let found = functions(text.as_bytes()).expect("functions");
        let wanted = Functions { bpf_loop: true, psi_triggers: true, ..Functions::default() };
        assert_eq!(found, wanted);
        assert_eq!(functions(&b""[..]), None);
    }

    #[test]
    fn hierarchies_are_told_by_their_mounts() {
        let v1 = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(cgroups(v1), Cgroups::V1);
        assert_eq!(cgroups(v2), Cgroups::V2);
        assert_eq!(cgroups(&format!("{v1}{v2}")), Cgroups::Hybrid);
        assert_eq!(cgroups("tmpfs /cgroup tmpfs rw 0 0\n"), Cgroups::None);
    }

    #[test]
    fn live_this_kernel_has_what_memtrace_is_tested_on() {
        let features = Features::read();
        assert_eq!(features.version, Version::running());
        assert!(features.version >= Version { major: 5, minor: 8 }, "{features:?}");
        let functions = features.functions.expect("kallsyms");
        assert!(functions.uprobes && functions.raw_tracepoints && functions.ring_buffer);
        assert!(features.btf_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert!(features.lockdown.is_some(), "root can mount securityfs");
    }
}
