//! The functions of a module by address, from its symbol tables.

use std::cmp::Reverse;

use crate::elf::{Binding, FunctionSymbol};

use super::demangle::without_version;

/// Which function is at an address. Built once; a lookup is one binary search.
#[derive(Debug, Default)]
pub(super) struct SymbolTable {
    /// First address of each stretch that belongs to one function or to none, ascending.
    starts: Vec<u64>,
    /// The function of each stretch, as index into `names`, or [`NONE`].
    owners: Vec<u32>,
    /// Range in `text` of each name: the end; the start is the one before's end.
    ends: Vec<u32>,
    text: String,
}

const NONE: u32 = u32::MAX;

/// A symbol table larger than this is cut: 16 Mi functions or 512 MiB of names.
const MAX_FUNCTIONS: usize = 16 << 20;
const MAX_TEXT: usize = 512 << 20;

/// Collects symbols of several tables.
#[derive(Debug, Default)]
pub(super) struct Builder<'data> {
    entries: Vec<Entry<'data>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry<'data> {
    name: &'data str,
    suffix: &'static str,
    start: u64,
    /// 0: not known.
    size: u64,
    section_end: u64,
    binding: Binding,
    is_function: bool,
}

impl<'data> Builder<'data> {
    pub(super) fn add(&mut self, symbols: impl Iterator<Item = FunctionSymbol<'data>>) {
        let room = MAX_FUNCTIONS.saturating_sub(self.entries.len());
        self.entries.extend(symbols.take(room).map(|s| Entry {
            name: without_version(s.name),
            suffix: "",
            start: s.svma,
            size: s.size,
            section_end: s.section_end,
            binding: s.binding,
            is_function: s.is_function,
        }));
    }

    /// A PLT stub, named `function@plt`.
    pub(super) fn add_stub(&mut self, name: &'data str, svma: u64, size: u64) {
        self.entries.push(Entry {
            name: without_version(name),
            suffix: "@plt",
            start: svma,
            size,
            section_end: svma.saturating_add(size),
            binding: Binding::Local,
            is_function: true,
        });
    }

    pub(super) fn build(mut self) -> SymbolTable {
        self.entries.sort_unstable_by(|a, b| a.start.cmp(&b.start).then_with(|| a.preference(b)));
        self.entries.dedup_by_key(|entry| entry.start);
        self.drop_labels_inside_functions();
        SymbolTable::from_entries(&self.entries)
    }

    /// A symbol without size names code only where no sized one does.
    fn drop_labels_inside_functions(&mut self) {
        let mut covered = 0;
        self.entries.retain(|entry| {
            if entry.size == 0 {
                return entry.start >= covered;
            }
            covered = covered.max(entry.start.saturating_add(entry.size));
            true
        });
    }
}

impl Entry<'_> {
    /// Which of two names for one address comes first: a function of known size before a label, an
    /// exported name before a local one, then the most public one (`malloc`, not `__libc_malloc`),
    /// then whatever makes the choice the same each time.
    fn preference(&self, other: &Self) -> std::cmp::Ordering {
        let key = |e: &Self| {
            (
                Reverse(e.is_function),
                e.size == 0,
                e.binding == Binding::Local,
                e.name.bytes().take_while(|&b| b == b'_').count(),
                Reverse(e.binding),
                e.name.len(),
            )
        };
        key(self).cmp(&key(other)).then_with(|| self.name.cmp(other.name))
    }
}

impl SymbolTable {
    /// Turns functions that may overlap into stretches that don't; of overlapping functions the one
    /// that begins last owns the bytes.
    fn from_entries(entries: &[Entry<'_>]) -> Self {
        let mut table = Self::default();
        // Functions that are open at the current address, outermost first: end, index.
        let mut open: Vec<(u64, u32)> = Vec::new();
        for (position, entry) in entries.iter().enumerate() {
            let Some(index) = table.add_name(entry) else { break };
            table.close_until(entry.start, &mut open);
            let next = entries.get(position + 1).map_or(u64::MAX, |next| next.start);
            let end = match entry.size {
                0 => next,
                size => entry.start.saturating_add(size),
            };
            table.begin(entry.start, index);
            open.push((end.min(entry.section_end), index));
        }
        table.close_until(u64::MAX, &mut open);
        table.starts.shrink_to_fit();
        table.owners.shrink_to_fit();
        table.ends.shrink_to_fit();
        table.text.shrink_to_fit();
        table
    }

    fn close_until(&mut self, address: u64, open: &mut Vec<(u64, u32)>) {
        while let Some(&(end, _)) = open.last().filter(|(end, _)| *end <= address) {
            while open.last().is_some_and(|(inner, _)| *inner <= end) {
                open.pop();
            }
            self.begin(end, open.last().map_or(NONE, |(_, index)| *index));
        }
    }

    fn begin(&mut self, address: u64, owner: u32) {
        if self.starts.last() == Some(&address) {
            self.owners.pop();
        } else {
            self.starts.push(address);
        }
        self.owners.push(owner);
    }

    fn add_name(&mut self, entry: &Entry<'_>) -> Option<u32> {
        if self.text.len() + entry.name.len() + entry.suffix.len() > MAX_TEXT {
            return None;
        }
        self.text.push_str(entry.name);
        self.text.push_str(entry.suffix);
        let index = u32::try_from(self.ends.len()).ok()?;
        self.ends.push(u32::try_from(self.text.len()).ok()?);
        Some(index)
    }

    /// The name, still mangled, of the function that holds this address.
    pub(super) fn find(&self, svma: u64) -> Option<&str> {
        let stretch = self.starts.partition_point(|&start| start <= svma).checked_sub(1)?;
        let index = self.owners[stretch];
        if index == NONE {
            return None;
        }
        let index = index as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.text[start as usize..self.ends[index] as usize])
    }

    /// Memory it holds, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.text.capacity()
            + self.starts.capacity() * 8
            + self.owners.capacity() * 4
            + self.ends.capacity() * 4
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn symbol(name: &'static str, svma: u64, size: u64) -> FunctionSymbol<'static> {
        FunctionSymbol {
            name,
            svma,
            size,
            section_end: 0x1000,
            binding: Binding::Global,
            is_function: true,
            is_ifunc: false,
        }
    }

    fn table(symbols: &[FunctionSymbol<'static>]) -> SymbolTable {
        let mut builder = Builder::default();
        builder.add(symbols.iter().copied());
        builder.build()
    }

    #[test]
    fn address_belongs_to_the_function_that_covers_it() {
        let table = table(&[symbol("b", 0x200, 0x10), symbol("a", 0x100, 0x20)]);
        assert_eq!(table.find(0xff), None);
        assert_eq!(table.find(0x100), Some("a"));
        assert_eq!(table.find(0x11f), Some("a"));
        assert_eq!(table.find(0x120), None);
        assert_eq!(table.find(0x20f), Some("b"));
        assert_eq!(table.find(0x210), None);
        assert_eq!(table.find(u64::MAX), None);
    }

    #[test]
    fn inner_function_wins_and_the_outer_one_goes_on_behind_it() {
        let table = table(&[symbol("outer", 0x100, 0x100), symbol("inner", 0x120, 0x10)]);
        assert_eq!(table.find(0x11f), Some("outer"));
        assert_eq!(table.find(0x120), Some("inner"));
        assert_eq!(table.find(0x130), Some("outer"));
        assert_eq!(table.find(0x1ff), Some("outer"));
        assert_eq!(table.find(0x200), None);
    }

    #[test]
    fn symbol_without_size_reaches_to_the_next_but_not_across_the_section() {
        let label = |name, svma| FunctionSymbol { is_function: false, ..symbol(name, svma, 0) };
        let table = table(&[
            label("inside", 0x110),
            symbol("sized", 0x100, 0x40),
            label("first", 0x200),
            FunctionSymbol { section_end: 0x280, ..label("second", 0x240) },
            symbol("later", 0x300, 1),
        ]);
        assert_eq!(table.find(0x110), Some("sized"));
        assert_eq!(table.find(0x23f), Some("first"));
        assert_eq!(table.find(0x27f), Some("second"));
        assert_eq!(table.find(0x280), None);
        assert_eq!(table.find(0x300), Some("later"));
    }

    #[test]
    fn public_name_is_preferred_whatever_the_order() {
        let with = |name, binding| FunctionSymbol { binding, ..symbol(name, 0x100, 8) };
        let mut symbols = vec![
            with("__libc_malloc", Binding::Global),
            with("__malloc", Binding::Local),
            with("malloc@@GLIBC_2.2.5", Binding::Global),
            with("malloc", Binding::Local),
        ];
        for _ in 0..symbols.len() {
            symbols.rotate_left(1);
            assert_eq!(table(&symbols).find(0x104), Some("malloc"));
        }
        // A weak public name before a strong one that begins with underscores.
        let pair = [with("__libc_valloc", Binding::Global), with("valloc", Binding::Weak)];
        assert_eq!(table(&pair).find(0x100), Some("valloc"));
        let exits = [with("_Exit", Binding::Weak), with("_exit", Binding::Global)];
        assert_eq!(table(&exits).find(0x100), Some("_exit"));
    }

    #[test]
    fn stubs_are_marked() {
        let mut builder = Builder::default();
        builder.add_stub("malloc@GLIBC_2.2.5", 0x20, 16);
        assert_eq!(builder.build().find(0x2f), Some("malloc@plt"));
    }

    proptest! {
        /// Against the definition: of all sized functions that cover an address, the last to begin.
        #[test]
        fn lookup_equals_a_linear_search(functions in prop::collection::vec((0_u64..200, 1_u64..60), 0..30)) {
            const NAMES: &[&str] = &["a","b","c","d","e","f","g","h","i","j","k","l","m","n","o","p",
                "q","r","s","t","u","v","w","x","y","z","A","B","C","D"];
            let symbols: Vec<_> = functions
                .iter()
                .zip(NAMES)
                .map(|(&(start, size), name)| FunctionSymbol { section_end: 230, ..symbol(name, start, size) })
                .collect();
            let built = table(&symbols);
            for address in 0..300 {
                // Of several at one address, the preferred name is the first by the alphabet.
                let first_of = |s: &FunctionSymbol<'static>| symbols.iter().filter(|o| o.svma == s.svma).map(|o| o.name).min();
                let expected = symbols
                    .iter()
                    .filter(|s| first_of(s) == Some(s.name))
                    .filter(|s| (s.svma..(s.svma + s.size).min(230)).contains(&address))
                    .max_by_key(|s| s.svma)
                    .map(|s| s.name);
                prop_assert_eq!(built.find(address), expected, "{}", address);
            }
        }
    }
}
