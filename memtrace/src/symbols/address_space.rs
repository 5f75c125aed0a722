//! Which module and which address in it an absolute address of a process means.

use std::sync::Arc;

use crate::process::{Mapping, ProcessError, Root, maps};

use super::{Module, Modules};

/// The executable mappings of one process, the latest at each address.
///
/// A mapping stays until another one takes its place, so that stacks that were taken before a
/// `dlclose` and are looked up after it keep their names. Cloning shares the list until one of the
/// clones changes.
#[derive(Clone, Debug)]
pub struct AddressSpace {
    pid: u32,
    root: Option<Root>,
    /// By address, without overlaps.
    ranges: Arc<Vec<Range>>,
}

/// An address inside a module.
#[derive(Clone, Copy, Debug)]
pub struct Resolved<'a> {
    pub module: &'a Arc<Module>,
    /// As the file's own symbol table would state it; the file offset when it is not ELF.
    pub svma: u64,
}

/// What is known of an absolute address.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    Module(Resolved<'a>),
    /// Executable memory without a file: JIT code.
    Anonymous,
    Unmapped,
}

#[derive(Clone, Debug)]
struct Range {
    start: u64,
    end: u64,
    /// File offset of `start`.
    offset: u64,
    module: Option<Arc<Module>>,
}

/// Past this many ranges, those that are not mapped any more are dropped. Linux allows 65,530
/// mappings a process unless it is told otherwise.
const MAX_RANGES: usize = 1 << 17;

impl AddressSpace {
    /// Reads the mappings of a process and opens their files.
    ///
    /// # Errors
    /// All of [`ProcessError`].
    pub fn read(pid: u32, modules: &mut Modules) -> Result<Self, ProcessError> {
        let mappings = maps::executable(pid)?;
        // Without the right to enter its root, files are still reached through map_files.
        let mut space = Self::empty(pid, Root::of(pid).ok());
        space.extend(&mappings, modules);
        Ok(space)
    }

    /// A process of which nothing is known yet but where its files are looked up.
    pub(super) fn empty(pid: u32, root: Option<Root>) -> Self {
        Self { pid, root, ranges: Arc::default() }
    }

    /// What a fork leaves in the child.
    pub fn fork(&self, child: u32) -> Self {
        Self { pid: child, ..self.clone() }
    }

    /// What an exec leaves: nothing but the root directory.
    pub(super) fn exec(&self) -> Self {
        Self::empty(self.pid, self.root.clone())
    }

    /// Reads the mappings again; those that are new replace the ones that they overlap.
    ///
    /// # Errors
    /// All of [`ProcessError`].
    pub fn refresh(&mut self, modules: &mut Modules) -> Result<(), ProcessError> {
        let mappings = maps::executable(self.pid)?;
        self.extend(&mappings, modules);
        Ok(())
    }

    fn extend(&mut self, mappings: &[Mapping], modules: &mut Modules) {
        for mapping in mappings {
            self.add(mapping, modules);
        }
    }

    /// Adds one executable mapping, from a perf mmap event for example, in place of what it
    /// overlaps.
    pub fn add(&mut self, mapping: &Mapping, modules: &mut Modules) {
        let module = modules.of_mapping(self.pid, mapping, self.root.as_ref());
        if mapping.start >= mapping.end {
            return;
        }
        if self.ranges.len() >= MAX_RANGES {
            let ranges = Arc::make_mut(&mut self.ranges);
            let mapped = maps::executable(self.pid).unwrap_or_default();
            ranges.retain(|r| {
                let next = mapped.partition_point(|m| m.end <= r.start);
                mapped.get(next).is_some_and(|m| m.start < r.end)
            });
            if ranges.len() >= MAX_RANGES {
                ranges.clear();
            }
        }
        // The vDSO is no file: what counts is the distance from its start.
        let is_vdso = mapping.backing == crate::process::Backing::Vdso;
        self.insert(Range {
            start: mapping.start,
            end: mapping.end,
            offset: if is_vdso { 0 } else { mapping.offset },
            module,
        });
    }

    fn insert(&mut self, new: Range) {
        let first = self.ranges.partition_point(|r| r.end <= new.start);
        let last = first + self.ranges[first..].partition_point(|r| r.start < new.end);
        if let [old] = &self.ranges[first..last]
            && old.is_same(&new)
        {
            return;
        }
        let ranges = Arc::make_mut(&mut self.ranges);
        let before = ranges[first..last].first().and_then(|r| r.until(new.start));
        let after = ranges[first..last].last().and_then(|r| r.from(new.end));
        ranges.splice(first..last, before.into_iter().chain([new]).chain(after));
    }

    /// The module and SVMA of an absolute address. None for code without a file and for addresses
    /// that are not mapped.
    pub fn resolve(&self, address: u64) -> Option<Resolved<'_>> {
        match self.place(address) {
            Place::Module(resolved) => Some(resolved),
            Place::Anonymous | Place::Unmapped => None,
        }
    }

    pub(super) fn place(&self, address: u64) -> Place<'_> {
        let at = self.ranges.partition_point(|r| r.end <= address);
        let Some(range) = self.ranges.get(at).filter(|r| r.start <= address) else {
            return Place::Unmapped;
        };
        let Some(module) = &range.module else { return Place::Anonymous };
        let offset = range.offset.wrapping_add(address - range.start);
        Place::Module(Resolved { module, svma: module.svma_of_offset(offset) })
    }
}

impl Range {
    fn is_same(&self, other: &Self) -> bool {
        self.start == other.start
            && self.end == other.end
            && self.offset == other.offset
            && self.module.as_ref().map(|m| m.id()) == other.module.as_ref().map(|m| m.id())
    }

    /// The part below an address.
    fn until(&self, end: u64) -> Option<Self> {
        (self.start < end).then(|| Self { end, ..self.clone() })
    }

    /// The part from an address on.
    fn from(&self, start: u64) -> Option<Self> {
        (start < self.end).then(|| Self {
            start,
            offset: self.offset.wrapping_add(start.wrapping_sub(self.start)),
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64, offset: u64) -> Range {
        Range { start, end, offset, module: None }
    }

    proptest! {
        /// Against one cell per address: the last writer wins, offsets stay right in what is left.
        #[test]
        fn later_mapping_replaces_what_it_overlaps(maps in prop::collection::vec((0_u64..60, 1_u64..30), 0..25)) {
            let mut space = AddressSpace::empty(1, None);
            let mut cells = [None; 100];
            for (number, &(start, length)) in maps.iter().enumerate() {
                let base = (number as u64 + 1) * 1000;
                space.insert(range(start, start + length, base + start));
                for address in start..start + length {
                    cells[address as usize] = Some(base + address);
                }
            }
            let mut found = [None; 100];
            for r in space.ranges.iter() {
                prop_assert!(r.start < r.end);
                for address in r.start..r.end {
                    prop_assert!(found[address as usize].is_none(), "overlap at {address}");
                    found[address as usize] = Some(r.offset + (address - r.start));
                }
            }
            prop_assert!(space.ranges.is_sorted_by_key(|r| r.start));
            prop_assert_eq!(found, cells);
        }
    }

    #[test]
    fn fork_shares_until_one_side_changes() {
        let mut parent = AddressSpace::empty(1, None);
        parent.insert(range(0x1000, 0x2000, 0));
        let child = parent.fork(2);
        assert!(Arc::ptr_eq(&parent.ranges, &child.ranges));
        parent.insert(range(0x1000, 0x2000, 0));
        assert!(Arc::ptr_eq(&parent.ranges, &child.ranges), "the same mapping again is no change");
        parent.insert(range(0x1800, 0x3000, 0));
        assert_eq!(child.ranges.len(), 1);
        assert_eq!(parent.ranges.len(), 2);
    }

    #[test]
    fn own_function_resolves_to_the_own_binary() {
        let mut modules = Modules::default();
        let space = AddressSpace::read(std::process::id(), &mut modules).expect("own maps");
        let address = own_function_resolves_to_the_own_binary as *const () as u64;
        let resolved = space.resolve(address).expect("mapped");
        assert_eq!(resolved.module.path(), std::env::current_exe().expect("own path"));
        assert!(resolved.module.is_readable());
        let bytes = std::fs::read("/proc/self/exe").expect("read");
        let file = object::File::parse(&*bytes).expect("parse");
        let named = crate::elf::functions(&file, crate::elf::Table::Static)
            .find(|f| f.svma == resolved.svma)
            .expect("a symbol is exactly there");
        assert!(named.name.contains("own_function_resolves_to_the_own_binary"), "{}", named.name);
        assert!(space.resolve(1).is_none());
        assert!(modules.all().iter().any(|m| m.name() == "[vdso]"));
    }
}
