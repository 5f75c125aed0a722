//! Functions, files and lines from DWARF.

use std::sync::Arc;

use addr2line::Context;
use gimli::{EndianSlice, Reader, RunTimeEndian, Section, SectionId};
use object::{CompressionFormat, Object, ObjectSection};

use crate::elf::Image;

type Slice = EndianSlice<'static, RunTimeEndian>;

/// The debug information of one module, read as it is asked for.
pub(super) struct Dwarf {
    // Declared first, so dropped first: it borrows from the fields below.
    context: Context<Slice>,
    unpacked: Vec<Box<[u8]>>,
    images: Vec<Arc<Image>>,
    /// Of the sections that look-ups parse into tables.
    parsed_bytes: usize,
}

/// A function at an address; not demangled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RawFrame {
    pub function: Option<String>,
    pub file: Option<String>,
    pub line: Option<u32>,
}

/// Compressed sections of one module unpack to no more than this, bytes.
const MAX_UNPACKED: u64 = 2 << 30;
/// Deepest nesting of debugging entries. Compilers make a few dozen; addr2line recurses once per
/// inlined function in an inlined function, and must not run out of stack on a made-up file.
const MAX_DEPTH: isize = 256;

impl Dwarf {
    /// None when the image has no usable debug information. `supplementary` is dwz's shared file.
    pub(super) fn load(image: Arc<Image>, supplementary: Option<Arc<Image>>) -> Option<Self> {
        let mut unpacked = Vec::new();
        let mut dwarf = load_sections(&image, &mut unpacked)?;
        if dwarf.debug_info.reader().is_empty() {
            return None;
        }
        if let Some(shared) = &supplementary
            && let Some(sections) = load_sections(shared, &mut unpacked)
        {
            dwarf.set_sup(sections);
        }
        if dwarf.sup().is_some_and(|sup| !is_shallow(sup)) || !is_shallow(&dwarf) {
            return None;
        }
        dwarf.populate_abbreviations_cache(gimli::AbbreviationsCacheStrategy::Duplicates);
        let parsed_bytes = dwarf.debug_info.reader().len() + dwarf.debug_line.reader().len();
        let context = Context::from_dwarf(dwarf).ok()?;
        let images = [image].into_iter().chain(supplementary).collect();
        Some(Self { context, unpacked, images, parsed_bytes })
    }

    /// The functions at an address, innermost inlined one first. Empty when nothing is known.
    pub(super) fn frames(&self, svma: u64) -> Vec<RawFrame> {
        let mut frames = Vec::new();
        let Ok(mut found) = self.context.find_frames(svma).skip_all_loads() else { return frames };
        while let Ok(Some(frame)) = found.next() {
            let name = frame.function.and_then(|f| f.raw_name().ok().map(|n| n.into_owned()));
            let location = frame.location;
            frames.push(RawFrame {
                function: name.filter(|n| !n.is_empty()),
                file: location.as_ref().and_then(|l| l.file).map(str::to_owned),
                // Line 0 means that the instruction belongs to no line.
                line: location.and_then(|l| l.line).filter(|&line| line != 0),
            });
        }
        frames
    }

    /// Memory that this may come to hold, bytes: unpacked sections, and about as much in tables as
    /// the sections they are made from.
    pub(super) fn bytes(&self) -> usize {
        self.unpacked.iter().map(|s| s.len()).sum::<usize>() + self.parsed_bytes
    }

    pub(super) fn is_unchanged(&self) -> bool {
        self.images.iter().all(|image| image.is_unchanged())
    }
}

fn load_sections(image: &Arc<Image>, unpacked: &mut Vec<Box<[u8]>>) -> Option<gimli::Dwarf<Slice>> {
    let file = image.parse().ok()?;
    let endian = if file.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
    gimli::Dwarf::load(|id: SectionId| -> Result<Slice, gimli::Error> {
        let bytes = section(&file, id.name(), unpacked).unwrap_or_default();
        Ok(EndianSlice::new(bytes, endian))
    })
    .ok()
}

fn section(
    file: &object::File<'_>,
    name: &str,
    unpacked: &mut Vec<Box<[u8]>>,
) -> Option<&'static [u8]> {
    let data = file.section_by_name(name)?.compressed_data().ok()?;
    let bytes = if data.format == CompressionFormat::None {
        data.data
    } else {
        let before: u64 = unpacked.iter().map(|s| s.len() as u64).sum();
        if before.saturating_add(data.uncompressed_size) > MAX_UNPACKED {
            return None;
        }
        unpacked.push(data.decompress().ok()?.into_owned().into_boxed_slice());
        unpacked.last()?
    };
    // SAFETY: the bytes lie in an `Image` or in a boxed slice, which keep their address when they
    // are moved. `Dwarf` owns both (the image by `Arc`) and drops them after the context that
    // borrows from them; neither is changed or freed before. No reference leaves `Dwarf`: its
    // methods return owned values.
    Some(unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) })
}

/// False when entries are nested deeper than [`MAX_DEPTH`].
fn is_shallow<R: Reader>(dwarf: &gimli::Dwarf<R>) -> bool {
    let mut units = dwarf.units();
    while let Ok(Some(header)) = units.next() {
        let Ok(unit) = dwarf.unit(header) else { continue };
        let Ok(mut entries) = unit.entries_raw(None) else { continue };
        while !entries.is_empty() {
            if entries.next_depth() > MAX_DEPTH {
                return false;
            }
            // A unit that is broken further on is refused by addr2line as a whole.
            match entries.read_abbreviation() {
                Ok(Some(abbreviation)) => {
                    if entries.skip_attributes(abbreviation.attributes()).is_err() {
                        break;
                    }
                }
                Ok(None) => {}
                Err(_) => break,
            }
        }
    }
    true
}
