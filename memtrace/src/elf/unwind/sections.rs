//! Where a file keeps its call frame information.

use std::borrow::Cow;

use object::{
    LittleEndian, ReadRef,
    elf::{self, FileHeader64, ProgramHeader64, SectionHeader64},
    read::{
        CompressedFileRange, CompressionFormat,
        elf::{FileHeader, ProgramHeader, SectionHeader},
    },
};

use super::{MAX_SECTION_BYTES, TextSegment, UnwindError};

/// No loader takes more.
const MAX_PROGRAM_HEADERS: u32 = 4096;

/// Binaries built with a section a function have some ten thousand before they are linked.
const MAX_SECTIONS: u32 = 1 << 20;

/// A section's bytes and address.
pub struct Section<'data> {
    pub address: u64,
    pub bytes: Cow<'data, [u8]>,
}

/// What of a file matters for unwinding.
pub struct Sections<'data> {
    pub text: Vec<TextSegment>,
    pub eh_frame: Option<Section<'data>>,
    pub debug_frame: Option<Section<'data>>,
    /// Address of `.got`, which a pointer encoding may refer to.
    pub got: Option<u64>,
}

type Header = FileHeader64<LittleEndian>;

impl<'data> Sections<'data> {
    /// # Errors
    /// All but [`UnwindError::None`].
    pub fn read<R: ReadRef<'data>>(data: R) -> Result<Self, UnwindError> {
        let header = check(data)?;
        let endian = LittleEndian;
        let programs = headers_within(
            "program header table",
            header.phnum(endian, data)?,
            MAX_PROGRAM_HEADERS,
        )
        .and_then(|()| Ok(header.program_headers(endian, data)?))?;
        let text = programs
            .iter()
            .filter(|p| p.p_type(endian) == elf::PT_LOAD && p.p_flags(endian).contains(elf::PF_X))
            .map(|p| TextSegment {
                offset: p.p_offset(endian),
                file_size: p.p_filesz(endian),
                address: p.p_vaddr(endian),
                size: p.p_memsz(endian),
            })
            .collect();
        let mut found = Self { text, eh_frame: None, debug_frame: None, got: None };
        // Section headers are no part of what runs: a file may lack them, or hold rubbish there.
        if let Err(error @ UnwindError::TooLarge { .. }) = found.by_section(header, data) {
            return Err(error);
        }
        if found.eh_frame.is_none() {
            found.eh_frame = by_program_header(programs, data)?;
        }
        Ok(found)
    }

    fn by_section<R: ReadRef<'data>>(
        &mut self,
        header: &'data Header,
        data: R,
    ) -> Result<(), UnwindError> {
        let endian = LittleEndian;
        headers_within("section header table", header.shnum(endian, data)?, MAX_SECTIONS)?;
        let sections = header.sections(endian, data)?;
        for section in sections.iter() {
            match sections.section_name(endian, section) {
                Ok(b".eh_frame") if section.sh_type(endian) != elf::SHT_NOBITS => {
                    self.eh_frame = Some(contents(section, data)?);
                }
                Ok(b".debug_frame") if section.sh_type(endian) != elf::SHT_NOBITS => {
                    self.debug_frame = Some(contents(section, data)?);
                }
                Ok(b".got") => self.got = Some(section.sh_addr(endian)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The header, of a file that runs on this unwinder's machine.
fn check<'data, R: ReadRef<'data>>(data: R) -> Result<&'data Header, UnwindError> {
    // Magic, class, byte order; type and machine, which have the same place in all classes.
    let start = data.read_bytes_at(0, 20).map_err(|()| UnwindError::NotElf)?;
    let [0x7f, b'E', b'L', b'F', class, order, ..] = *start else {
        return Err(UnwindError::NotElf);
    };
    let number = |at: usize| {
        let bytes = [start[at], start[at + 1]];
        if order == elf::ELFDATA2MSB.0 {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        }
    };
    let (kind, machine) = (number(16), number(18));
    // Class 32 with this machine is the x32 ABI, whose registers are saved in another way.
    if machine != elf::EM_X86_64.0 || class != elf::ELFCLASS64.0 {
        return Err(UnwindError::Machine { machine });
    }
    if kind != elf::ET_EXEC.0 && kind != elf::ET_DYN.0 {
        return Err(UnwindError::Kind { kind });
    }
    Ok(Header::parse(data)?)
}

fn contents<'data, R: ReadRef<'data>>(
    section: &SectionHeader64<LittleEndian>,
    data: R,
) -> Result<Section<'data>, UnwindError> {
    let endian = LittleEndian;
    let range = match section.compression(endian, data)? {
        None => CompressedFileRange::none(section.file_range(endian)),
        Some((header, offset, compressed_size)) => CompressedFileRange {
            format: match header.ch_type.get(endian) {
                elf::ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
                elf::ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
                _ => CompressionFormat::Unknown,
            },
            offset,
            compressed_size,
            uncompressed_size: header.ch_size.get(endian),
        },
    };
    section_within(range.compressed_size.max(range.uncompressed_size))?;
    Ok(Section { address: section.sh_addr(endian), bytes: range.data(data)?.decompress()? })
}

/// `.eh_frame` as the C++ runtime finds it: `PT_GNU_EH_FRAME` is `.eh_frame_hdr`, which points at
/// it. Its end is not stated; a terminator ends it, at the latest its segment does.
fn by_program_header<'data, R: ReadRef<'data>>(
    programs: &[ProgramHeader64<LittleEndian>],
    data: R,
) -> Result<Option<Section<'data>>, UnwindError> {
    let endian = LittleEndian;
    let Some(header) = programs.iter().find(|p| p.p_type(endian) == elf::PT_GNU_EH_FRAME) else {
        return Ok(None);
    };
    section_within(header.p_filesz(endian))?;
    let bytes = header.data(endian, data).map_err(|()| UnwindError::OutOfFile)?;
    let bases = gimli::BaseAddresses::default().set_eh_frame_hdr(header.p_vaddr(endian));
    let Ok(parsed) = gimli::EhFrameHdr::new(bytes, gimli::LittleEndian).parse(&bases, 8) else {
        return Ok(None);
    };
    let Ok(address) = parsed.eh_frame_ptr().direct() else { return Ok(None) };
    for load in programs.iter().filter(|p| p.p_type(endian) == elf::PT_LOAD) {
        let Some(skip) = address.checked_sub(load.p_vaddr(endian)) else { continue };
        let Some(size) = load.p_filesz(endian).checked_sub(skip).filter(|&s| s > 0) else {
            continue;
        };
        let offset = load.p_offset(endian).checked_add(skip).ok_or(UnwindError::OutOfFile)?;
        // The rest of the segment may be anything, and may be large.
        let size = size.min(MAX_SECTION_BYTES);
        let bytes = data.read_bytes_at(offset, size).map_err(|()| UnwindError::OutOfFile)?;
        return Ok(Some(Section { address, bytes: Cow::Borrowed(bytes) }));
    }
    Ok(None)
}

fn headers_within(what: &'static str, count: u32, limit: u32) -> Result<(), UnwindError> {
    if count > limit {
        return Err(UnwindError::TooLarge { what, size: count.into(), limit: limit.into() });
    }
    Ok(())
}

fn section_within(size: u64) -> Result<(), UnwindError> {
    if size > MAX_SECTION_BYTES {
        let what = "frame information section";
        return Err(UnwindError::TooLarge { what, size, limit: MAX_SECTION_BYTES });
    }
    Ok(())
}
