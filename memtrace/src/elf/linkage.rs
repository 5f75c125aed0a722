//! What a binary asks of the dynamic linker.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use object::{
    Endianness, ReadRef,
    elf::{self, FileHeader64},
    read::elf::{FileHeader, ProgramHeader},
};

use super::ElfError;

/// The program header and dynamic table entries that decide which files a program is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Linkage {
    /// PT_INTERP. None for shared libraries and for static programs, static-pie ones too.
    pub interpreter: Option<PathBuf>,
    /// DT_SONAME: the name that others ask for this library by.
    pub soname: Option<OsString>,
    /// DT_NEEDED, in file order.
    pub needed: Vec<OsString>,
    /// DT_RPATH, not expanded. Void where there is a `runpath`.
    pub rpath: Option<OsString>,
    /// DT_RUNPATH, not expanded.
    pub runpath: Option<OsString>,
}

/// Longest name or search path that is read, bytes.
const MAX_STRING: u64 = 64 << 10;
/// Most entries of a dynamic table that are looked at; real ones have some dozens.
const MAX_ENTRIES: usize = 16 << 10;

/// Reads them. Works without section headers.
///
/// # Errors
/// [`ElfError::Malformed`], also for anything but 64-bit x86 code.
pub fn linkage(bytes: &[u8]) -> Result<Linkage, ElfError> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    if header.e_machine(endian) != elf::EM_X86_64 {
        return Err(ElfError::Malformed(String::from("not x86-64 code")));
    }
    let programs = header.program_headers(endian, bytes)?;
    let mut linkage = Linkage::default();
    for program in programs {
        if program.p_type(endian) == elf::PT_INTERP {
            let name = program.data(endian, bytes).map_err(|()| broken("PT_INTERP"))?;
            linkage.interpreter = Some(PathBuf::from(text(name)?));
        }
    }
    let mut strings = None;
    let mut names = Vec::new();
    for program in programs {
        let Some(entries) = program.dynamic(endian, bytes)? else { continue };
        for entry in entries.iter().take(MAX_ENTRIES) {
            let value = entry.d_val.get(endian);
            match entry.d_tag.get(endian) {
                elf::DT_NULL => break,
                elf::DT_STRTAB => strings = Some(value),
                tag => names.push((tag, value)),
            }
        }
    }
    let Some(strings) = strings else { return Ok(linkage) };
    let base = programs
        .iter()
        .filter(|p| p.p_type(endian) == elf::PT_LOAD)
        .find_map(|p| {
            let inside = strings.checked_sub(p.p_vaddr(endian))?;
            (inside < p.p_filesz(endian)).then(|| p.p_offset(endian).checked_add(inside))?
        })
        .ok_or_else(|| broken("DT_STRTAB"))?;
    for (tag, offset) in names {
        let name = || -> Result<OsString, ElfError> {
            let at = base.checked_add(offset).ok_or_else(|| broken("a name"))?;
            let end = (bytes.len() as u64).min(at.saturating_add(MAX_STRING));
            let name = bytes.read_bytes_at_until(at..end, 0).map_err(|()| broken("a name"))?;
            Ok(OsStr::from_bytes(name).to_owned())
        };
        match tag {
            elf::DT_NEEDED => linkage.needed.push(name()?),
            elf::DT_SONAME => linkage.soname = Some(name()?),
            elf::DT_RPATH => linkage.rpath = Some(name()?),
            elf::DT_RUNPATH => linkage.runpath = Some(name()?),
            _ => {}
        }
    }
    Ok(linkage)
}

fn text(bytes: &[u8]) -> Result<&OsStr, ElfError> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    if end as u64 > MAX_STRING {
        Err(broken("PT_INTERP"))
    } else {
        Ok(OsStr::from_bytes(&bytes[..end]))
    }
}

fn broken(what: &str) -> ElfError {
    ElfError::Malformed(format!("{what} lies outside the file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_program_needs_libc_and_an_interpreter() {
        let bytes = std::fs::read("/proc/self/exe").expect("read");
        let linkage = linkage(&bytes).expect("linkage");
        assert!(linkage.interpreter.is_some_and(|i| i.starts_with("/lib64")));
        assert!(linkage.needed.iter().any(|n| n == "libc.so.6"));
        assert_eq!(linkage.soname, None);
    }

    #[test]
    fn any_cut_of_a_program_is_an_answer_or_an_error() {
        let bytes = std::fs::read("/bin/true").expect("read");
        let whole = linkage(&bytes).expect("linkage");
        for cut in (0..bytes.len()).step_by(97) {
            if let Ok(part) = linkage(&bytes[..cut]) {
                assert!(part.needed.len() <= whole.needed.len());
            }
        }
    }
}
