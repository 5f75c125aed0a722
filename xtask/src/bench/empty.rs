//! The floor: what a probe costs that does nothing. An empty BPF program on breakpoints at given
//! places of one process, by raw system calls, so that no tool's own work is in it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use super::points::Point;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_KPROBE: u32 = 2;
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// `r0 = 0; exit`.
const PROGRAM: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// `struct perf_event_attr` as of its first extension, 72 bytes.
#[repr(C)]
#[derive(Default)]
struct EventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    /// The file's path.
    config1: u64,
    /// The offset in the file.
    config2: u64,
}

const _: () = assert!(size_of::<ProgLoad>() == 48 && size_of::<EventAttr>() == 72);

/// Empty probes in a process; gone when dropped.
pub struct EmptyProbes {
    _events: Vec<OwnedFd>,
    _program: OwnedFd,
}

impl EmptyProbes {
    /// Puts the empty program at each of `points` in process `pid`.
    pub fn attach(pid: u32, points: &[Point]) -> Result<Self> {
        let program = load_program().context("cannot load an empty BPF program")?;
        let kind = read_sys("type")?.parse().context("the uprobe event type is no number")?;
        // "config:0"
        let return_bit = read_sys("format/retprobe")?;
        let return_bit: u32 =
            return_bit
                .strip_prefix("config:")
                .and_then(|bit| bit.parse().ok())
                .context("the uprobe event's return flag is not where it should be")?;
        let events = points
            .iter()
            .map(|point| {
                let config = if point.at_return { 1 << return_bit } else { 0 };
                open(pid, kind, config, point, &program)
                    .with_context(|| format!("cannot probe {point}"))
            })
            .collect::<Result<_>>()?;
        Ok(Self { _events: events, _program: program })
    }
}

fn read_sys(file: &str) -> Result<String> {
    let path = format!("/sys/bus/event_source/devices/uprobe/{file}");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.trim().to_owned())
}

fn load_program() -> io::Result<OwnedFd> {
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_KPROBE,
        insn_count: PROGRAM.len() as u32,
        insns: PROGRAM.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: `attr` lives through the call, is as long as said, and points to two instructions and
    // to a C string, both static.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<ProgLoad>())
    };
    own(fd)
}

fn open(pid: u32, kind: u32, config: u64, point: &Point, program: &OwnedFd) -> io::Result<OwnedFd> {
    let path = CString::new(point.file.as_os_str().as_encoded_bytes())?;
    let attr = EventAttr {
        kind,
        size: size_of::<EventAttr>() as u32,
        config,
        sample_period: 1,
        config1: path.as_ptr() as u64,
        config2: point.offset,
        ..EventAttr::default()
    };
    let (any_cpu, no_group, close_on_exec) = (-1, -1, 8_u64);
    // SAFETY: `attr` and the path it points to live through the call, and its size is in it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            pid as libc::pid_t,
            any_cpu,
            no_group,
            close_on_exec,
        )
    };
    let event = own(fd)?;
    // SAFETY: both descriptors are open; the call takes the second one by value.
    let result =
        unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(event) }
}

fn own(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
