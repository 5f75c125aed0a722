//! The dynamic linker's own list of what it loaded, read from a process's memory.
//!
//! It is what debuggers read: AT_PHDR → PT_DYNAMIC → DT_DEBUG → `r_debug` → `link_map` (`link.h` of
//! glibc; musl keeps the same layout). Unlike the environment, which programs overwrite to show a
//! title, nothing but the dynamic linker writes it.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
};

/// More than any program has; the list comes from the process's memory.
const MAX_ENTRIES: usize = 4096;
/// Real ones take half a kilobyte.
const MAX_AUXV_BYTES: u64 = 16 << 10;
/// As `e_phnum` has 16 bits; real programs have a dozen.
const MAX_PROGRAM_HEADERS: u64 = u16::MAX as u64;
/// Real dynamic sections have some dozens of entries of 16 bytes.
const MAX_DYNAMIC_BYTES: u64 = 64 << 10;

const PT_DYNAMIC: u32 = 2;
const PT_PHDR: u32 = 6;
const DT_NULL: u64 = 0;
const DT_DEBUG: u64 = 21;
const AT_PHDR: u64 = 3;
const AT_PHENT: u64 = 4;
const AT_PHNUM: u64 = 5;
/// `sizeof(Elf64_Phdr)`.
const PROGRAM_HEADER_BYTES: u64 = 56;

/// Where the dynamic sections of the loaded objects lie, in load order: the executable, preloads,
/// what these need breadth first, then what `dlopen` loaded. Objects without a file (the vDSO) are
/// in it, too.
///
/// A list that breaks off, as it may while the program is in `dlopen` or `dlclose`, is returned up
/// to there: the objects of the start come first and are never unloaded.
///
/// None when there is no list: a static program, one that is still being started, memory that can't
/// be read. A program that corrupts its own list gets a wrong answer, of at most 4096 entries.
pub(super) fn dynamic_sections(pid: u32) -> Option<Vec<u64>> {
    let mut auxv = Vec::new();
    File::open(format!("/proc/{pid}/auxv"))
        .and_then(|file| file.take(MAX_AUXV_BYTES).read_to_end(&mut auxv))
        .ok()?;
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    sections(&auxv, |bytes, address| memory.read_exact_at(bytes, address))
}

fn sections(auxv: &[u8], read: impl Fn(&mut [u8], u64) -> io::Result<()>) -> Option<Vec<u64>> {
    let debug = r_debug(auxv, &read)?;
    // r_version and its padding come before r_map.
    let [mut entry] = words(&read, debug.checked_add(8)?)?;
    let mut found = Vec::new();
    let mut previous = 0;
    while entry != 0 && found.len() < MAX_ENTRIES {
        let Some([_addr, _name, dynamic, next, back]) = words(&read, entry) else { break };
        // Freed or unfinished memory doesn't lead back. Neither does a circle.
        if back != previous {
            break;
        }
        found.push(dynamic);
        (previous, entry) = (entry, next);
    }
    (!found.is_empty()).then_some(found)
}

/// The address of the `r_debug` that the dynamic linker put into the executable's DT_DEBUG.
fn r_debug(auxv: &[u8], read: &impl Fn(&mut [u8], u64) -> io::Result<()>) -> Option<u64> {
    let auxiliary = |wanted| pairs(auxv).find(|(tag, _)| *tag == wanted).map(|(_, value)| value);
    let address = auxiliary(AT_PHDR)?;
    let count = auxiliary(AT_PHNUM)?;
    if auxiliary(AT_PHENT)? != PROGRAM_HEADER_BYTES || count > MAX_PROGRAM_HEADERS {
        return None;
    }
    let mut table = vec![0; usize::try_from(count * PROGRAM_HEADER_BYTES).ok()?];
    read(&mut table, address).ok()?;
    let headers = table.chunks_exact(PROGRAM_HEADER_BYTES as usize);
    // p_type, p_flags: 4 bytes each; p_offset, p_vaddr, p_paddr, p_filesz, p_memsz: 8 each.
    let segment = |kind: u32| {
        let header = headers.clone().find(|h| h.get(..4) == Some(&kind.to_le_bytes()))?;
        Some((word(header, 16)?, word(header, 40)?))
    };
    // Without a PT_PHDR, glibc takes the program to be loaded where it was linked.
    let bias = segment(PT_PHDR).map_or(0, |(linked_at, _)| address.wrapping_sub(linked_at));
    let (linked_at, size) = segment(PT_DYNAMIC)?;
    let mut dynamic = vec![0; usize::try_from(size.min(MAX_DYNAMIC_BYTES)).ok()?];
    read(&mut dynamic, bias.wrapping_add(linked_at)).ok()?;
    pairs(&dynamic)
        .take_while(|(tag, _)| *tag != DT_NULL)
        .find(|(tag, _)| *tag == DT_DEBUG)
        .map(|(_, value)| value)
        // Not filled in yet, or nobody to do it.
        .filter(|&value| value != 0)
}

fn words<const N: usize>(
    read: &impl Fn(&mut [u8], u64) -> io::Result<()>,
    address: u64,
) -> Option<[u64; N]> {
    let mut bytes = vec![0; N * 8];
    read(&mut bytes, address).ok()?;
    let mut words = [0; N];
    for (index, value) in words.iter_mut().enumerate() {
        *value = word(&bytes, index * 8)?;
    }
    Some(words)
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    bytes.chunks_exact(16).filter_map(|pair| Some((word(pair, 0)?, word(pair, 8)?)))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The program headers at 0x1000 of a program linked at 0, the dynamic section at 0x2000,
    /// `r_debug` at 0x3000, objects 0x100 apart from 0x4000 on, all moved by `BIAS`.
    const BIAS: u64 = 0x5500_0000_0000;

    struct Memory(Vec<u8>);

    impl Memory {
        fn new(objects: u64) -> Self {
            let mut memory = Memory(vec![0; 0x4000 + 0x100 * objects as usize]);
            for (at, kind, address, size) in
                [(0x1000, PT_PHDR, 0x1000, 112), (0x1038, PT_DYNAMIC, 0x2000, 48)]
            {
                memory.put(at, &[u64::from(kind), 0, address, 0, 0, size]);
            }
            memory.put(0x2000, &[1, 77, DT_DEBUG, BIAS + 0x3000, 0, 0]);
            memory.put(0x3000, &[1, BIAS + 0x4000]);
            for i in 0..objects {
                let object = |i: u64| BIAS + 0x4000 + 0x100 * i;
                let next = if i + 1 < objects { object(i + 1) } else { 0 };
                let previous = if i > 0 { object(i - 1) } else { 0 };
                memory.put(0x4000 + 0x100 * i as usize, &[0, 0, 1000 + i, next, previous]);
            }
            memory
        }

        fn put(&mut self, at: usize, words: &[u64]) {
            for (slot, word) in self.0[at..].chunks_exact_mut(8).zip(words) {
                slot.copy_from_slice(&word.to_le_bytes());
            }
        }

        fn sections(&self) -> Option<Vec<u64>> {
            let auxv: Vec<u8> = [AT_PHDR, BIAS + 0x1000, AT_PHENT, 56, AT_PHNUM, 2, 0, 0]
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect();
            sections(&auxv, |bytes, address| {
                let from = address.checked_sub(BIAS).and_then(|at| usize::try_from(at).ok());
                let piece = from.and_then(|at| self.0.get(at..at.checked_add(bytes.len())?));
                bytes.copy_from_slice(piece.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            })
        }
    }

    #[test]
    fn list_is_read_in_its_order() {
        assert_eq!(Memory::new(3).sections(), Some(vec![1000, 1001, 1002]));
    }

    #[test]
    fn circle_ends_where_it_closes() {
        for back_to in [0x4000, 0x4100, 0x4200] {
            let mut memory = Memory::new(3);
            memory.put(0x4218, &[BIAS + back_to]);
            assert_eq!(memory.sections(), Some(vec![1000, 1001, 1002]));
        }
    }

    #[test]
    fn list_that_leads_nowhere_is_kept_up_to_there() {
        for pointer in [1, u64::MAX, BIAS + 0x3000] {
            let mut memory = Memory::new(3);
            memory.put(0x4118, &[pointer]);
            assert_eq!(memory.sections(), Some(vec![1000, 1001]));
        }
    }

    #[test]
    fn endless_list_is_cut() {
        let memory = Memory::new(5000);
        assert_eq!(memory.sections().map(|found| found.len()), Some(MAX_ENTRIES));
    }

    #[test]
    fn program_without_a_list_has_none() {
        let mut never_filled = Memory::new(1);
        never_filled.put(0x2018, &[0]);
        let mut no_entry = Memory::new(1);
        no_entry.put(0x2010, &[0]);
        let mut no_dynamic = Memory::new(1);
        no_dynamic.put(0x1038, &[1]);
        let mut empty = Memory::new(1);
        empty.put(0x3008, &[0]);
        for memory in [never_filled, no_entry, no_dynamic, empty] {
            assert_eq!(memory.sections(), None);
        }
        assert_eq!(sections(&[], |_, _| Ok(())), None);
        assert_eq!(dynamic_sections(0x7fff_fff0), None);
    }

    #[test]
    fn own_list_begins_with_the_own_program() {
        let found = dynamic_sections(std::process::id()).expect("list");
        let files = crate::process::maps::files(std::process::id()).expect("maps");
        let of = |address: u64| files.iter().find(|m| (m.start..m.end).contains(&address));
        let crate::process::Backing::File { path, .. } =
            &of(found[0]).expect("a mapping of the own program").backing
        else {
            panic!("not a file");
        };
        assert_eq!(*path, std::env::current_exe().expect("own path"));
    }
}
