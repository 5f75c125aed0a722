//! Program headers and build id, read without touching the rest of the file.

use std::fmt;

use object::{
    Endianness, FileKind, Object, ReadRef,
    elf::{self, FileHeader32, FileHeader64},
    read::elf::{FileHeader, ProgramHeader},
};

use super::ElfError;

/// The GNU build id: usually 20 bytes, the same in a binary and its debug file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BuildId(Box<[u8]>);

impl BuildId {
    /// None when there are no bytes or more than 64, which no linker writes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (1..=64).contains(&bytes.len()).then(|| Self(bytes.into()))
    }

    /// The raw bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for BuildId {
    /// Lower-case hex.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A part of the file that is loaded into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Address that the file itself states for the first byte (SVMA).
    pub svma: u64,
    /// Bytes in memory; those beyond `file_size` are zero.
    pub memory_size: u64,
    pub executable: bool,
}

/// What the program headers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    pub build_id: Option<BuildId>,
    /// In file order.
    pub segments: Vec<Segment>,
}

/// More program headers than any loader accepts.
const MAX_PROGRAM_HEADERS: u32 = 4096;
/// Note segments hold a few hundred bytes.
const MAX_NOTE_BYTES: u64 = 64 << 10;
/// Mappings begin and end at page borders, segments anywhere. 64 KiB pages are left out: they
/// would let neighbours overlap.
const PAGE: u64 = 4096;

impl Headers {
    /// Reads the headers from the bytes of a file or, with [`object::ReadCache`], from the file
    /// itself in a few small reads.
    ///
    /// # Errors
    /// [`ElfError::Malformed`], [`ElfError::TooLarge`].
    pub fn read<'data>(data: impl ReadRef<'data>) -> Result<Self, ElfError> {
        match FileKind::parse(data)? {
            FileKind::Elf32 => read::<FileHeader32<Endianness>, _>(data),
            FileKind::Elf64 => read::<FileHeader64<Endianness>, _>(data),
            other => Err(ElfError::Malformed(format!("unexpected kind {other:?}"))),
        }
    }

    /// The SVMA of the byte at a file offset, for code. None when no executable segment has it.
    ///
    /// A mapping covers whole pages, so an offset up to a page outside a segment counts when no
    /// segment holds it exactly.
    pub fn svma_of_offset(&self, offset: u64) -> Option<u64> {
        let code = || self.segments.iter().filter(|s| s.executable);
        code().find_map(|s| s.svma_of(offset, s.offset, s.end_offset()?)).or_else(|| {
            code().find_map(|s| {
                let first = s.offset & !(PAGE - 1);
                let end = s.end_offset()?.checked_next_multiple_of(PAGE)?;
                s.svma_of(offset, first, end)
            })
        })
    }

    /// The file offset of the code byte at an SVMA. None when no executable segment has it.
    pub fn offset_of_svma(&self, svma: u64) -> Option<u64> {
        self.segments.iter().filter(|s| s.executable).find_map(|s| {
            let inside = svma.checked_sub(s.svma).filter(|&o| o < s.file_size)?;
            s.offset.checked_add(inside)
        })
    }
}

impl Segment {
    fn end_offset(&self) -> Option<u64> {
        self.offset.checked_add(self.file_size)
    }

    fn svma_of(&self, offset: u64, first: u64, end: u64) -> Option<u64> {
        // An offset before the segment's own gives an SVMA before it, hence wrapping.
        (first..end)
            .contains(&offset)
            .then(|| self.svma.wrapping_add(offset.wrapping_sub(self.offset)))
    }
}

fn read<'data, Elf, R>(data: R) -> Result<Headers, ElfError>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let header = Elf::parse(data)?;
    let endian = header.endian()?;
    let count = header.phnum(endian, data)?;
    if count > MAX_PROGRAM_HEADERS {
        return Err(ElfError::TooLarge {
            what: "program header table",
            bytes: u64::from(count) * u64::from(header.e_phentsize(endian)),
            limit: u64::from(MAX_PROGRAM_HEADERS) * u64::from(header.e_phentsize(endian)),
        });
    }
    let mut headers = Headers::default();
    for program in header.program_headers(endian, data)? {
        match program.p_type(endian) {
            elf::PT_LOAD => headers.segments.push(Segment {
                offset: program.p_offset(endian).into(),
                file_size: program.p_filesz(endian).into(),
                svma: program.p_vaddr(endian).into(),
                memory_size: program.p_memsz(endian).into(),
                executable: program.p_flags(endian).contains(elf::PF_X),
            }),
            elf::PT_NOTE
                if headers.build_id.is_none()
                    && program.p_filesz(endian).into() <= MAX_NOTE_BYTES =>
            {
                headers.build_id = note_build_id(program, endian, data);
            }
            _ => {}
        }
    }
    Ok(headers)
}

/// Broken notes mean no build id, not an unusable file.
fn note_build_id<'data, P, R>(program: &P, endian: Endianness, data: R) -> Option<BuildId>
where
    P: ProgramHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let mut notes = program.notes(endian, data).ok()??;
    while let Ok(Some(note)) = notes.next() {
        if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
            return BuildId::new(note.desc());
        }
    }
    None
}

/// The build id from a parsed file's notes, sections included: a separate debug file's program
/// headers point at bytes that were left out of it.
pub fn build_id(file: &object::File<'_>) -> Option<BuildId> {
    file.build_id().ok().flatten().and_then(BuildId::new)
}

#[cfg(test)]
mod tests {
    use object::ReadCache;

    use super::*;

    #[test]
    fn file_and_memory_give_the_same_headers() {
        let path = std::env::current_exe().expect("own path");
        let bytes = std::fs::read(&path).expect("read");
        let cache = ReadCache::new(std::fs::File::open(&path).expect("open"));
        let from_file = Headers::read(&cache).expect("headers");
        assert_eq!(from_file, Headers::read(&*bytes).expect("headers"));
        let parsed = object::File::parse(&*bytes).expect("parse");
        assert_eq!(from_file.build_id, build_id(&parsed));
        assert!(from_file.segments.iter().any(|s| s.executable));
    }

    #[test]
    fn offsets_and_svmas_are_each_others_inverse() {
        let bytes = std::fs::read("/proc/self/exe").expect("read");
        let headers = Headers::read(&*bytes).expect("headers");
        let code = headers.segments.iter().find(|s| s.executable).expect("code");
        for offset in [code.offset, code.offset + 1, code.offset + code.file_size - 1] {
            let svma = headers.svma_of_offset(offset).expect("svma");
            assert_eq!(headers.offset_of_svma(svma), Some(offset));
            assert_eq!(svma, code.svma + (offset - code.offset));
        }
        assert_eq!(headers.svma_of_offset(u64::MAX), None);
        assert_eq!(headers.offset_of_svma(code.svma + code.file_size), None);
    }

    #[test]
    fn exact_segment_is_preferred_to_the_page_around_another() {
        let segment = |offset, svma| Segment {
            offset,
            file_size: 0x100,
            svma,
            memory_size: 0x100,
            executable: true,
        };
        let headers = Headers {
            build_id: None,
            segments: vec![segment(0x1000, 0x1000), segment(0x1200, 0x40_1200)],
        };
        assert_eq!(headers.svma_of_offset(0x1250), Some(0x40_1250));
        assert_eq!(headers.svma_of_offset(0x1180), Some(0x1180));
        assert_eq!(headers.svma_of_offset(0x2000), None);
    }

    #[test]
    fn build_id_prints_as_hex() {
        assert_eq!(BuildId::new(&[0, 0xab, 9]).expect("id").to_string(), "00ab09");
        assert_eq!(BuildId::new(&[]), None);
        assert_eq!(BuildId::new(&[0; 65]), None);
    }
}
