//! BPF without a compiler, for the tests: a map of hits by process and a program that counts.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const MAP_CREATE: u32 = 0;
const MAP_LOOKUP: u32 = 1;
const MAP_UPDATE: u32 = 2;
const MAP_NEXT_KEY: u32 = 4;
const PROG_LOAD: u32 = 5;

const MAP_TYPE_HASH: u64 = 1;
const PROG_TYPE_KPROBE: u64 = 2;

/// Words of `union bpf_attr`, enough for the commands used here.
type Attr = [u64; 16];

fn bpf(command: u32, attr: &mut Attr) -> io::Result<i32> {
    // SAFETY: the attribute is readable for the size given; what its pointers refer to outlives
    // the call in each caller.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of::<Attr>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as i32) }
}

/// A hash map u32 → u64.
#[derive(Debug)]
pub(crate) struct Map(pub(crate) OwnedFd);

impl Map {
    pub(crate) fn new() -> Self {
        let mut attr = Attr::default();
        attr[0] = MAP_TYPE_HASH | 4 << 32;
        attr[1] = 8 | 65_536 << 32;
        let fd = bpf(MAP_CREATE, &mut attr).expect("BPF maps need root (CAP_BPF)");
        // SAFETY: just created, owned by nobody else.
        Map(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    pub(crate) fn get(&self, key: u32) -> u64 {
        let mut value = 0u64;
        let mut attr = Attr::default();
        attr[0] = self.0.as_raw_fd() as u64;
        attr[1] = (&raw const key) as u64;
        attr[2] = (&raw mut value) as u64;
        match bpf(MAP_LOOKUP, &mut attr) {
            Ok(_) => value,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => 0,
            Err(error) => panic!("map lookup: {error}"),
        }
    }

    pub(crate) fn set(&self, key: u32, value: u64) {
        let mut attr = Attr::default();
        attr[0] = self.0.as_raw_fd() as u64;
        attr[1] = (&raw const key) as u64;
        attr[2] = (&raw const value) as u64;
        bpf(MAP_UPDATE, &mut attr).unwrap();
    }

    pub(crate) fn keys(&self) -> Vec<u32> {
        let mut keys = Vec::new();
        let mut next = 0u32;
        loop {
            let last = keys.last().copied().unwrap_or(0u32);
            let mut attr = Attr::default();
            attr[0] = self.0.as_raw_fd() as u64;
            attr[1] = if keys.is_empty() { 0 } else { (&raw const last) as u64 };
            attr[2] = (&raw mut next) as u64;
            if bpf(MAP_NEXT_KEY, &mut attr).is_err() {
                return keys;
            }
            keys.push(next);
        }
    }

    /// Hits of all processes.
    pub(crate) fn total(&self) -> u64 {
        self.keys().into_iter().map(|key| self.get(key)).sum()
    }
}

const fn insn(op: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    op as u64
        | (dst as u64) << 8
        | (src as u64) << 12
        | ((off as u16) as u64) << 16
        | ((imm as u32) as u64) << 32
}

const CALL: u8 = 0x85;
const EXIT: u64 = insn(0x95, 0, 0, 0, 0);
const LOAD_MAP: u8 = 0x18;
const MOV_REG: u8 = 0xbf;
const MOV_IMM: u8 = 0xb7;
const ADD_IMM: u8 = 0x07;
const JEQ_IMM: u8 = 0x15;
const STORE_IMM_U64: u8 = 0x7a;
const STORE_REG_U32: u8 = 0x63;
const ATOMIC_U64: u8 = 0xdb;

/// Adds one to the process's entry of `map` at each run.
pub(crate) fn counting_program(map: &Map) -> OwnedFd {
    let fd = map.0.as_raw_fd();
    let key = [insn(MOV_REG, 2, 10, 0, 0), insn(ADD_IMM, 2, 0, 0, -4)];
    let map_to_r1 = [insn(LOAD_MAP, 1, 1, 0, fd), 0];
    let add_one = [insn(MOV_IMM, 1, 0, 0, 1), insn(ATOMIC_U64, 0, 1, 0, 0)];
    let mut code = vec![
        insn(CALL, 0, 0, 0, 14),           // r0 = pid_tgid
        insn(0x77, 0, 0, 0, 32),           // r0 >>= 32
        insn(STORE_REG_U32, 10, 0, -4, 0), // key = tgid
    ];
    code.extend(map_to_r1);
    code.extend(key);
    code.push(insn(CALL, 0, 0, 0, 1)); // lookup
    code.push(insn(JEQ_IMM, 0, 0, 4, 0)); // absent: skip the next four
    code.extend(add_one);
    code.push(insn(MOV_IMM, 0, 0, 0, 0));
    code.push(EXIT);
    code.push(insn(STORE_IMM_U64, 10, 0, -16, 0));
    code.extend(map_to_r1);
    code.extend(key);
    code.push(insn(MOV_REG, 3, 10, 0, 0));
    code.push(insn(ADD_IMM, 3, 0, 0, -16));
    code.push(insn(MOV_IMM, 4, 0, 0, 1)); // BPF_NOEXIST: another thread may have been first
    code.push(insn(CALL, 0, 0, 0, 2)); // update
    code.extend(map_to_r1);
    code.extend(key);
    code.push(insn(CALL, 0, 0, 0, 1)); // lookup
    code.push(insn(JEQ_IMM, 0, 0, 2, 0));
    code.extend(add_one);
    code.push(insn(MOV_IMM, 0, 0, 0, 0));
    code.push(EXIT);
    load(&code)
}

fn load(code: &[u64]) -> OwnedFd {
    let licence = CString::new("GPL").unwrap();
    let mut log = vec![0u8; 64 << 10];
    let mut attr = Attr::default();
    attr[0] = PROG_TYPE_KPROBE | (code.len() as u64) << 32;
    attr[1] = code.as_ptr() as u64;
    attr[2] = licence.as_ptr() as u64;
    attr[3] = 1 | (log.len() as u64) << 32;
    attr[4] = log.as_mut_ptr() as u64;
    match bpf(PROG_LOAD, &mut attr) {
        // SAFETY: just created, owned by nobody else.
        Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
        Err(error) => panic!(
            "BPF programs need root (CAP_BPF, CAP_PERFMON): {error}\n{}",
            String::from_utf8_lossy(&log)
        ),
    }
}
