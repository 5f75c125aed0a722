//! Reads every function's frame description, as a list of address ranges with rules.

use std::collections::HashMap;

use gimli::{
    BaseAddresses, CieOrFde, DebugFrame, EhFrame, EndianSlice, FrameDescriptionEntry, LittleEndian,
    UnwindContext, UnwindSection,
};
use memtrace_common::unwind::Rule;

use super::{MAX_ROWS, TextSegment, rule, sections::Section};

/// How many times over the section's bytes may be interpreted. Every function repeats its common
/// entry's instructions, a few bytes; a hostile file can make that the square of its size.
const WORK_FACTOR: usize = 16;

/// A run of instructions with one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub start: u64,
    pub end: u64,
    /// Index into [`Collector::rules`].
    pub rule: u16,
}

/// Number of [`Rule::NONE`] in every table.
pub const NONE: u16 = 0;
/// Number of [`Rule::FILLING`] in every table.
pub const FILLING: u16 = 1;

/// What has been read so far.
pub struct Collector<'text> {
    text: &'text [TextSegment],
    pub pieces: Vec<Piece>,
    pub rules: Vec<Rule>,
    ids: HashMap<Rule, u16>,
    pub damaged: u32,
}

type Bytes<'data> = EndianSlice<'data, LittleEndian>;

impl<'text> Collector<'text> {
    /// `text` are the addresses that can hold instructions.
    pub fn new(text: &'text [TextSegment]) -> Self {
        let mut collector =
            Self { text, pieces: Vec::new(), rules: Vec::new(), ids: HashMap::new(), damaged: 0 };
        // Those that a table needs even if no function has them, in the order of their numbers.
        for rule in [Rule::NONE, Rule::FILLING, Rule::UNSUPPORTED] {
            collector.id(rule);
        }
        collector
    }

    /// Adds what `.eh_frame` says.
    pub fn eh_frame(&mut self, section: &Section<'_>, got: Option<u64>) {
        let mut bases = BaseAddresses::default().set_eh_frame(section.address);
        if let Some(got) = got {
            bases = bases.set_got(got);
        }
        let mut eh_frame = EhFrame::new(&section.bytes, LittleEndian);
        eh_frame.set_address_size(8);
        self.section(&eh_frame, &bases, section.bytes.len(), &[]);
        self.pieces.sort_by_key(|p| p.start);
    }

    /// Adds the functions of `.debug_frame` that begin where nothing is known so far.
    pub fn debug_frame(&mut self, section: &Section<'_>) {
        let mut debug_frame = DebugFrame::new(&section.bytes, LittleEndian);
        debug_frame.set_address_size(8);
        let known = std::mem::take(&mut self.pieces);
        self.section(&debug_frame, &BaseAddresses::default(), section.bytes.len(), &known);
        self.pieces.extend_from_slice(&known);
        self.pieces.sort_by_key(|p| p.start);
    }

    fn section<'data, S>(
        &mut self,
        section: &S,
        bases: &BaseAddresses,
        length: usize,
        known: &[Piece],
    ) where
        S: UnwindSection<Bytes<'data>>,
    {
        let mut context = UnwindContext::new();
        let mut work = length.saturating_mul(WORK_FACTOR).saturating_add(1 << 20);
        // Functions next to each other share their common entry: the last one is kept.
        let mut last_cie = None;
        let mut entries = section.entries(bases);
        loop {
            let partial = match entries.next() {
                Ok(Some(CieOrFde::Cie(_))) => continue,
                Ok(Some(CieOrFde::Fde(partial))) => partial,
                Ok(None) => return,
                // Lengths chain the entries: nothing behind a broken one can be found.
                Err(_) => return self.damaged = self.damaged.saturating_add(1),
            };
            let at = partial.cie_offset();
            let parsed = partial.parse(|section, bases, offset| match &last_cie {
                Some((known, cie)) if *known == at => Ok(gimli::CommonInformationEntry::clone(cie)),
                _ => section.cie_from_offset(bases, offset),
            });
            let Ok(fde) = parsed else {
                self.damaged = self.damaged.saturating_add(1);
                continue;
            };
            if last_cie.as_ref().is_none_or(|(known, _)| *known != at) {
                last_cie = Some((at, fde.cie().clone()));
            }
            work = work.saturating_sub(fde.entry_len()).saturating_sub(fde.cie().entry_len());
            if work == 0 || self.pieces.len() > MAX_ROWS {
                return self.damaged = self.damaged.saturating_add(1);
            }
            if !covers(known, fde.initial_address()) {
                self.function(section, bases, &mut context, &fde);
            }
        }
    }

    fn function<'data, S>(
        &mut self,
        section: &S,
        bases: &BaseAddresses,
        context: &mut UnwindContext<usize>,
        fde: &FrameDescriptionEntry<Bytes<'data>>,
    ) where
        S: UnwindSection<Bytes<'data>>,
    {
        // What the linker dropped has address 0 or lies outside any code.
        let (mut next, end) =
            (fde.initial_address(), fde.initial_address().saturating_add(fde.len()));
        if next >= end
            || !self
                .text
                .iter()
                .any(|t| t.address <= next && end <= t.address.saturating_add(t.size))
        {
            return;
        }
        let return_address = fde.cie().return_address_register();
        let whole = match fde.rows(section, bases, context) {
            Ok(mut rows) => loop {
                match rows.next_row() {
                    Ok(Some(row)) => {
                        // Rows may be stated beyond the function's end, and wrap.
                        let stop = row.end_address().min(end);
                        if row.start_address() != next || stop < next {
                            break false;
                        }
                        let rule = self.id(rule::convert(row, section, return_address));
                        if stop > next {
                            self.pieces.push(Piece { start: next, end: stop, rule });
                        }
                        next = stop;
                    }
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            },
            Err(_) => false,
        };
        if !whole {
            self.damaged = self.damaged.saturating_add(1);
        }
        if next < end {
            let rule = self.id(Rule::UNSUPPORTED);
            self.pieces.push(Piece { start: next, end, rule });
        }
    }

    /// The number of a rule; that of [`Rule::UNSUPPORTED`] once there are too many.
    fn id(&mut self, rule: Rule) -> u16 {
        if let Some(&id) = self.ids.get(&rule) {
            return id;
        }
        let Ok(id) = u16::try_from(self.rules.len()) else {
            return self.ids[&Rule::UNSUPPORTED];
        };
        self.rules.push(rule);
        self.ids.insert(rule, id);
        id
    }
}

/// Whether sorted `pieces` say something about `address`.
fn covers(pieces: &[Piece], address: u64) -> bool {
    let after = pieces.partition_point(|p| p.start <= address);
    after > 0 && address < pieces[after - 1].end
}
