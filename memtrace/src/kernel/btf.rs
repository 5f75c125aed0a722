//! The running kernel's own type information: where a field lies in a struct.
//!
//! A reader of the BTF format (Documentation/bpf/btf.rst) that knows what is needed here: members of
//! structs and unions, unnamed inner ones included, and values of enums. Offsets differ from kernel
//! to kernel and the Rust compiler emits no relocations for them, so they are looked up at load.

use std::{io, path::Path};

/// Where the kernel shows its BTF (since 5.4, with CONFIG_DEBUG_INFO_BTF).
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;

/// Unnamed structs inside each other; deeper ones don't occur outside hostile input.
const MAX_NESTING: u32 = 16;

/// Why an offset is not known.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    #[error(
        "this kernel has no type information ({path}: {source}); it needs CONFIG_DEBUG_INFO_BTF=y"
    )]
    Unavailable { path: &'static str, source: io::Error },
    #[error("malformed kernel type information (byte {offset})")]
    Malformed { offset: usize },
    #[error("this kernel has no {what}")]
    NotFound { what: String },
    #[error("{what} is a bit field")]
    BitField { what: String },
}

/// Parsed type information.
pub struct Btf {
    data: Vec<u8>,
    /// Offset of each type's 12-byte header; index 0 is type 1.
    types: Vec<usize>,
    strings: usize,
    strings_end: usize,
}

/// Kinds of BTF types (include/uapi/linux/btf.h).
mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const ENUM64: u32 = 19;
    pub const LAST: u32 = 19;
}

struct Type {
    name: u32,
    kind: u32,
    members: usize,
    kind_flag: bool,
    /// Offset of what follows the header.
    body: usize,
}

impl Btf {
    /// Reads the running kernel's BTF; some milliseconds.
    pub fn load() -> Result<Self, BtfError> {
        let unavailable = |source| BtfError::Unavailable { path: KERNEL_BTF, source };
        Self::parse(std::fs::read(Path::new(KERNEL_BTF)).map_err(unavailable)?)
    }

    /// Reads BTF from bytes in this machine's byte order.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let malformed = |offset| BtfError::Malformed { offset };
        let half = |at: usize| data.get(at..).and_then(|d| d.first_chunk::<2>().copied());
        if half(0).map(u16::from_ne_bytes) != Some(MAGIC) {
            return Err(malformed(0));
        }
        let at = |offset| read(&data, offset).map(|value| value as usize);
        let header = at(4)?;
        let area = |offset: usize, len: usize| {
            let start = header.checked_add(at(offset)?).ok_or(malformed(offset))?;
            let end = start.checked_add(at(len)?).ok_or(malformed(len))?;
            if end <= data.len() { Ok((start, end)) } else { Err(malformed(len)) }
        };
        let (mut offset, types_end) = area(8, 12)?;
        let (strings, strings_end) = area(16, 20)?;
        let mut btf = Self { data, types: Vec::new(), strings, strings_end };
        while offset < types_end {
            btf.types.push(offset);
            let next = offset + 12 + btf.body_len(offset)?;
            if next > types_end {
                return Err(malformed(offset));
            }
            offset = next;
        }
        Ok(btf)
    }

    /// Byte offset of a member of a struct; members of unnamed structs and unions inside it count as
    /// its own. Of several structs with the name, the first that has the member.
    pub fn offset_of(&self, structure: &str, member: &str) -> Result<u64, BtfError> {
        let what = || format!("{structure}.{member}");
        for &offset in &self.types {
            let found = self.type_at(offset)?;
            if !matches!(found.kind, kind::STRUCT | kind::UNION)
                || self.name(found.name) != structure.as_bytes()
            {
                continue;
            }
            if let Some((bits, width)) = self.member(&found, member, 0)? {
                return if width == 0 && bits % 8 == 0 {
                    Ok(bits / 8)
                } else {
                    Err(BtfError::BitField { what: what() })
                };
            }
        }
        Err(BtfError::NotFound { what: what() })
    }

    /// Value of an enumerator, e.g. `cgroup_subsys_id`, `memory_cgrp_id`.
    pub fn enum_value(&self, enumeration: &str, enumerator: &str) -> Result<u64, BtfError> {
        for &offset in &self.types {
            let found = self.type_at(offset)?;
            let step = match found.kind {
                kind::ENUM => 8,
                kind::ENUM64 => 12,
                _ => continue,
            };
            if self.name(found.name) != enumeration.as_bytes() {
                continue;
            }
            for index in 0..found.members {
                let entry = found.body + index * step;
                if self.name(self.word(entry)?) == enumerator.as_bytes() {
                    let low = u64::from(self.word(entry + 4)?);
                    let high = if step == 12 { u64::from(self.word(entry + 8)?) } else { 0 };
                    return Ok(high << 32 | low);
                }
            }
        }
        Err(BtfError::NotFound { what: format!("{enumeration}.{enumerator}") })
    }

    /// Offset and, for bit fields, width of a member, in bits.
    fn member(
        &self,
        structure: &Type,
        wanted: &str,
        nesting: u32,
    ) -> Result<Option<(u64, u32)>, BtfError> {
        if nesting > MAX_NESTING {
            return Ok(None);
        }
        for index in 0..structure.members {
            let entry = structure.body + index * 12;
            let name = self.word(entry)?;
            let raw = self.word(entry + 8)?;
            let (bits, width) =
                if structure.kind_flag { (raw & 0xff_ffff, raw >> 24) } else { (raw, 0) };
            if self.name(name) == wanted.as_bytes() {
                return Ok(Some((u64::from(bits), width)));
            }
            if name == 0
                && let Some(inner) = self.by_id(self.word(entry + 4)?)?
                && matches!(inner.kind, kind::STRUCT | kind::UNION)
                && let Some((inside, width)) = self.member(&inner, wanted, nesting + 1)?
            {
                return Ok(Some((u64::from(bits) + inside, width)));
            }
        }
        Ok(None)
    }

    fn by_id(&self, id: u32) -> Result<Option<Type>, BtfError> {
        let offset = (id as usize).checked_sub(1).and_then(|index| self.types.get(index));
        offset.map(|&offset| self.type_at(offset)).transpose()
    }

    fn type_at(&self, offset: usize) -> Result<Type, BtfError> {
        let info = self.word(offset + 4)?;
        Ok(Type {
            name: self.word(offset)?,
            kind: info >> 24 & 0x1f,
            members: (info & 0xffff) as usize,
            kind_flag: info >> 31 != 0,
            body: offset + 12,
        })
    }

    /// Bytes between a type's header and the next type.
    fn body_len(&self, offset: usize) -> Result<usize, BtfError> {
        let found = self.type_at(offset)?;
        Ok(match found.kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * found.members,
            kind::ENUM | kind::FUNC_PROTO => 8 * found.members,
            kind::PTR..=kind::LAST => 0,
            // The kernel's own types are all known up to LAST; the length of others is not.
            _ => return Err(BtfError::Malformed { offset }),
        })
    }

    fn word(&self, offset: usize) -> Result<u32, BtfError> {
        read(&self.data, offset)
    }

    /// A name without its closing NUL; empty for one that lies outside.
    fn name(&self, offset: u32) -> &[u8] {
        let start = self.strings.saturating_add(offset as usize);
        let rest = self.data.get(start..self.strings_end).unwrap_or_default();
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

fn read(data: &[u8], offset: usize) -> Result<u32, BtfError> {
    data.get(offset..)
        .and_then(|rest| rest.first_chunk::<4>())
        .map(|bytes| u32::from_ne_bytes(*bytes))
        .ok_or(BtfError::Malformed { offset })
}

#[cfg(test)]
mod tests {
    use super::{Btf, BtfError};

    /// A header, `struct outer { u32 a; struct { u32 b; u32 c:3; }; }` and `enum e { x = 7 }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0c\0e\0x\0";
        let (outer, a, b, c, e, x) = (1, 7, 9, 11, 13, 15);
        let types: Vec<u32> = [
            // 1: int, 4 bytes
            vec![0, 1 << 24, 4, 32],
            // 2: unnamed struct with bit fields
            vec![0, 1 << 31 | 4 << 24 | 2, 8, b, 1, 0, c, 1, 3 << 24 | 32],
            // 3: struct outer
            vec![outer, 4 << 24 | 2, 12, a, 1, 0, 0, 2, 32],
            // 4: enum e
            vec![e, 6 << 24 | 1, 4, x, 7],
        ]
        .concat();
        let types_len = types.len() as u32 * 4;
        let mut data = Vec::from(0xeb9f_u16.to_ne_bytes());
        data.extend([1, 0]);
        for word in [24, 0, types_len, types_len, strings.len() as u32].iter().chain(&types) {
            data.extend(word.to_ne_bytes());
        }
        data.extend(strings);
        data
    }

    #[test]
    fn members_of_unnamed_inner_structs_count_as_the_outer_ones() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.offset_of("outer", "a").unwrap(), 0);
        assert_eq!(btf.offset_of("outer", "b").unwrap(), 4);
        assert_eq!(btf.enum_value("e", "x").unwrap(), 7);
    }

    #[test]
    fn bit_fields_and_unknown_names_are_errors() {
        let btf = Btf::parse(sample()).unwrap();
        assert!(matches!(btf.offset_of("outer", "c"), Err(BtfError::BitField { .. })));
        assert!(matches!(btf.offset_of("outer", "d"), Err(BtfError::NotFound { .. })));
        assert!(matches!(btf.offset_of("inner", "a"), Err(BtfError::NotFound { .. })));
        assert!(matches!(btf.enum_value("e", "y"), Err(BtfError::NotFound { .. })));
    }

    #[test]
    fn every_truncation_is_refused_or_harmless() {
        let whole = sample();
        for len in 0..whole.len() {
            if let Ok(btf) = Btf::parse(whole[..len].to_vec()) {
                let _ = btf.offset_of("outer", "b");
            }
        }
    }

    #[test]
    fn live_the_running_kernel_knows_its_task_struct() {
        let btf = Btf::load().expect("needs a kernel with BTF");
        let pid = btf.offset_of("task_struct", "pid").unwrap();
        assert_eq!(btf.offset_of("task_struct", "tgid").unwrap(), pid + 4);
        assert!(btf.offset_of("signal_struct", "live").unwrap() < 64);
        assert!(btf.enum_value("pid_type", "PIDTYPE_TGID").unwrap() == 1);
    }
}
