//! What this process may do.

use std::{fmt, fs, io};

/// Capabilities (`include/uapi/linux/capability.h`) that make a difference here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Capability {
    DacOverride = 1,
    Kill = 5,
    SysPtrace = 19,
    SysAdmin = 21,
    SysResource = 24,
    Perfmon = 38,
    Bpf = 39,
}

impl Capability {
    /// Every one of them, by number.
    pub const ALL: [Capability; 7] = [
        Capability::DacOverride,
        Capability::Kill,
        Capability::SysPtrace,
        Capability::SysAdmin,
        Capability::SysResource,
        Capability::Perfmon,
        Capability::Bpf,
    ];

    /// `CAP_BPF` and so on.
    pub const fn name(self) -> &'static str {
        match self {
            Capability::DacOverride => "CAP_DAC_OVERRIDE",
            Capability::Kill => "CAP_KILL",
            Capability::SysPtrace => "CAP_SYS_PTRACE",
            Capability::SysAdmin => "CAP_SYS_ADMIN",
            Capability::SysResource => "CAP_SYS_RESOURCE",
            Capability::Perfmon => "CAP_PERFMON",
            Capability::Bpf => "CAP_BPF",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Effective capabilities.
///
/// In a user namespace of its own a process may hold them all and still be refused: BPF and perf
/// want them in the initial one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// This process's.
    ///
    /// # Errors
    /// Those of reading /proc/self/status.
    pub fn own() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        parse(&status).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// From a mask as in `CapEff`: bit N is capability N.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Whether it is effective.
    pub const fn has(self, capability: Capability) -> bool {
        self.0 >> (capability as u8) & 1 != 0
    }

    /// Loading BPF programs that read kernel and user memory. CAP_SYS_ADMIN stands for both others,
    /// as it did alone before 5.8.
    pub const fn may_load_bpf(self) -> bool {
        self.has(Capability::SysAdmin)
            || (self.has(Capability::Bpf) && self.has(Capability::Perfmon))
    }
}

fn parse(status: &str) -> Option<Capabilities> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok().map(Capabilities)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_capabilities_are_read_from_status() {
        let some =
            parse("Name:\tx\nCapPrm:\t0\nCapEff:\t000001fffeffffff\n").expect("capabilities");
        assert!(!some.has(Capability::SysResource));
        assert!(Capability::ALL.into_iter().filter(|c| some.has(*c)).count() == 6);
        let none = parse("CapEff:\t0000000000000000\n").expect("capabilities");
        assert!(Capability::ALL.into_iter().all(|c| !none.has(c)));
        assert_eq!(parse("CapEff:\tx"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn bpf_needs_both_or_the_old_one() {
        let of = |list: &[Capability]| Capabilities(list.iter().map(|c| 1 << (*c as u8)).sum());
        assert!(!of(&[Capability::Bpf]).may_load_bpf());
        assert!(of(&[Capability::Bpf, Capability::Perfmon]).may_load_bpf());
        assert!(of(&[Capability::SysAdmin]).may_load_bpf());
    }
}
