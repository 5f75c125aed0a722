//! From a binary's call frame information to the compact table that the kernel-side unwinder
//! searches (layout and meaning in [`memtrace_common::unwind`]).
//!
//! Sources are `.eh_frame`, by section or, in files without sections, by `PT_GNU_EH_FRAME`; and
//! `.debug_frame` for functions that `.eh_frame` says nothing of (Go, some assembly). x86-64 only.
//!
//! Input is hostile: sizes are checked before anything of that size is read or made, the work is
//! bounded by a multiple of the section's size, and a function whose information is broken or asks
//! for what the kernel side can't do gets [`Rule::UNSUPPORTED`], which ends a stack, rather than a
//! rule that would invent frames.

mod frames;
mod rule;
mod sections;
mod table;

#[cfg(test)]
mod readelf_tests;
#[cfg(test)]
mod tests;

use memtrace_common::unwind::{PageRows, Row, Rule};
use object::ReadRef;

use sections::Sections;

/// Most bytes of a `.eh_frame` or (uncompressed) `.debug_frame`. Chromium's has 12 MiB.
pub const MAX_SECTION_BYTES: u64 = 256 << 20;

/// Most bytes between the first and the last instruction with unwind information.
pub const MAX_TEXT_BYTES: u64 = 1 << 30;

/// Most rows of one binary. libLLVM has 1.1 million.
pub const MAX_ROWS: usize = 8 << 20;

/// Why a binary has no unwind table.
#[derive(Debug, thiserror::Error)]
pub enum UnwindError {
    /// Not an ELF file at all.
    #[error("not an ELF file")]
    NotElf,
    /// Its headers are broken.
    #[error("broken ELF file: {0}")]
    Broken(#[from] object::Error),
    /// Its headers point to where the file has nothing.
    #[error("broken ELF file: its headers point outside the file")]
    OutOfFile,
    /// The unwinder knows the registers of x86-64 only.
    #[error("unwind tables are made for x86-64 only, and this file is for ELF machine {machine}")]
    Machine { machine: u16 },
    /// Not an executable or a shared library.
    #[error("not an executable or shared library (ELF type {kind})")]
    Kind { kind: u16 },
    /// There is no `.eh_frame` and no `.debug_frame`, or nothing in them concerns code of this
    /// file.
    #[error("the file has no call frame information")]
    None,
    /// A part of the file is larger than anything real.
    #[error("{what} is too large: {size}, at most {limit} is read")]
    TooLarge { what: &'static str, size: u64, limit: u64 },
}

/// A binary's unwind table. Addresses are the file's own (SVMA).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnwindTable {
    /// Address of page 0, a multiple of [`memtrace_common::unwind::PAGE_BYTES`].
    pub base: u64,
    /// Sorted by address; the first one is at `base`. [`Row::rule`] is an index into `rules`.
    pub rows: Vec<Row>,
    /// One per KiB of text from `base` on.
    pub pages: Vec<PageRows>,
    /// Distinct rules; the first one is [`Rule::NONE`].
    pub rules: Vec<Rule>,
    /// Functions whose information was broken, in part at least.
    pub damaged: u32,
    /// Executable segments: how a mapping's file offset becomes an address of the file.
    pub text: Vec<TextSegment>,
}

/// An executable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextSegment {
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Address of the first byte (SVMA).
    pub address: u64,
    /// Bytes in memory.
    pub size: u64,
}

/// Mappings begin at page borders, segments anywhere.
const PAGE: u64 = 4096;

/// The address (SVMA) of the code byte at file offset `offset`; None when no executable segment has
/// it, whole pages counted.
pub fn address_of_offset(text: &[TextSegment], offset: u64) -> Option<u64> {
    let within = |s: &&TextSegment| {
        let first = s.offset & !(PAGE - 1);
        let end = s.offset.saturating_add(s.file_size).saturating_add(PAGE - 1) & !(PAGE - 1);
        (first..end).contains(&offset)
    };
    // An offset before the segment's own gives an address before its own, hence wrapping.
    text.iter().find(within).map(|s| s.address.wrapping_add(offset.wrapping_sub(s.offset)))
}

impl UnwindTable {
    /// Reads the table of an ELF file: from its bytes, or with [`object::ReadCache`] from the file
    /// itself, of which only headers and frame information are then read.
    ///
    /// # Errors
    /// [`UnwindError`]. Damage inside the frame information is no error: what is before and after
    /// it is used, and it is counted in [`UnwindTable::damaged`].
    pub fn read<'data, R: ReadRef<'data>>(data: R) -> Result<Self, UnwindError> {
        let sections = Sections::read(data)?;
        let mut collector = frames::Collector::new(&sections.text);
        if let Some(eh_frame) = &sections.eh_frame {
            collector.eh_frame(eh_frame, sections.got);
        }
        if let Some(debug_frame) = &sections.debug_frame {
            collector.debug_frame(debug_frame);
        }
        table::build(collector, sections.text.clone())
    }

    /// The rule for the instruction at `svma`, found as the kernel side finds it;
    /// [`Rule::NONE`] outside the table.
    pub fn lookup(&self, svma: u64) -> Rule {
        table::lookup(self, svma).unwrap_or(Rule::NONE)
    }

    /// Bytes of kernel memory that the table takes, rules aside.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.rows) + size_of_val(&*self.pages)
    }
}
