//! The tables of a profile while it is being recorded: everything is stored once and named by index.

use std::hash::{BuildHasher, Hash};
use std::ops::Range;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use memtrace_common::limits::MAX_FRAMES;
use memtrace_common::stack::StackEnd;
use rustc_hash::FxBuildHasher;

use super::dirty::Dirty;
use super::{Line, Location, LocationId, Module, ModuleId, Stack, StackId, StringId};

/// Longest string that is stored, bytes; longer ones are cut.
pub const MAX_STRING_BYTES: usize = 64 * 1024;

/// Most functions at one location that are stored; the innermost ones are kept.
pub const MAX_LINES: usize = 256;

/// Strings, modules, locations and stacks of a recording under way.
///
/// Indices are handed out densely from 0 and never change their meaning. Ids that a caller passes
/// in must have come from the same tables; anything else is a bug and panics.
#[derive(Debug, Default)]
pub struct Tables {
    pub(crate) strings: Vec<String>,
    string_ids: HashTable<StringId>,
    pub(crate) modules: Vec<Module>,
    module_ids: HashTable<ModuleId>,
    pub(crate) locations: Vec<Location>,
    location_ids: HashTable<LocationId>,
    /// Locations already handed out by `take_new_locations`.
    seen_locations: LocationId,
    pub(crate) stacks: Vec<Stack>,
    /// One per stack: its Stack record came.
    explained: Vec<bool>,
    /// Explained stacks by what they are.
    stack_ids: HashTable<StackId>,
    pub(crate) changed_lines: Dirty,
    pub(crate) changed_stacks: Dirty,
}

impl Tables {
    /// The id of this string, cut to [`MAX_STRING_BYTES`].
    pub fn string(&mut self, text: &str) -> StringId {
        let text = cut(text, MAX_STRING_BYTES);
        let same = |stored: &String| stored == text;
        intern(&mut self.strings, &mut self.string_ids, text, same, String::as_str, str::to_owned)
    }

    /// The id of this file. `build_id` is lower-case hex, empty when the file has none.
    pub fn module(&mut self, path: &str, build_id: &str) -> ModuleId {
        let module = Module { path: self.string(path), build_id: self.string(build_id) };
        intern(
            &mut self.modules,
            &mut self.module_ids,
            &module,
            |stored| *stored == module,
            |stored| stored,
            Module::clone,
        )
    }

    /// The id of this instruction. `address` is as in [`Location::address`].
    pub fn location(&mut self, module: Option<ModuleId>, address: u64) -> LocationId {
        assert!(module.is_none_or(|id| (id as usize) < self.modules.len()));
        let key = (module, address);
        // The lines of a location come later, so they are no part of what it is found by.
        let hash = |key: &(Option<ModuleId>, u64)| FxBuildHasher.hash_one(key);
        let locations = &mut self.locations;
        let found = self.location_ids.entry(
            hash(&key),
            |id| {
                let stored = &locations[*id as usize];
                (stored.module, stored.address) == key
            },
            |id| {
                let stored = &locations[*id as usize];
                hash(&(stored.module, stored.address))
            },
        );
        match found {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let id = dense(locations.len());
                entry.insert(id);
                locations.push(Location { module, address, lines: Vec::new() });
                id
            }
        }
    }

    /// Locations that appeared since the last call: those to look symbols up for.
    pub fn take_new_locations(&mut self) -> Range<LocationId> {
        let end = dense(self.locations.len());
        std::mem::replace(&mut self.seen_locations, end)..end
    }

    /// The location with this id.
    pub fn get_location(&self, id: LocationId) -> &Location {
        &self.locations[id as usize]
    }

    /// The file with this id.
    pub fn get_module(&self, id: ModuleId) -> &Module {
        &self.modules[id as usize]
    }

    /// The text of this id.
    pub fn get_string(&self, id: StringId) -> &str {
        &self.strings[id as usize]
    }

    /// Names the functions at a location, innermost inlined one first; may come at any time after
    /// the location, and again. More than [`MAX_LINES`] are cut.
    pub fn set_lines(&mut self, id: LocationId, mut lines: Vec<Line>) {
        lines.truncate(MAX_LINES);
        let known = |string: StringId| (string as usize) < self.strings.len();
        assert!(lines.iter().all(|line| known(line.function) && line.file.is_none_or(known)));
        self.locations[id as usize].lines = lines;
        self.changed_lines.mark(id);
    }

    /// True when the frames of this stack are not known yet.
    pub fn wants_stack(&self, id: StackId) -> bool {
        !self.explained.get(id as usize).copied().unwrap_or(false)
    }

    /// Sets the frames of a stack, innermost first; the first call for an id wins. Frames beyond
    /// [`MAX_FRAMES`] are cut.
    pub(crate) fn set_stack(
        &mut self,
        id: StackId,
        pid: u32,
        end: StackEnd,
        locations: &[LocationId],
    ) {
        assert!(locations.iter().all(|location| (*location as usize) < self.locations.len()));
        if !self.wants_stack(id) {
            return;
        }
        let locations = &locations[..locations.len().min(MAX_FRAMES)];
        self.explained[id as usize] = true;
        let stack = Stack { locations: locations.to_vec(), end: end as u8, pid };
        let stacks = &self.stacks;
        let hash = |stack: &Stack| FxBuildHasher.hash_one(stack);
        self.stack_ids.insert_unique(hash(&stack), id, |id| hash(&stacks[*id as usize]));
        self.stacks[id as usize] = stack;
        self.changed_stacks.mark(id);
    }

    /// The stack of this process with these frames and this end, if its record has come.
    pub(crate) fn find_stack(
        &self,
        pid: u32,
        end: StackEnd,
        locations: &[LocationId],
    ) -> Option<StackId> {
        let locations = &locations[..locations.len().min(MAX_FRAMES)];
        let stack = Stack { locations: locations.to_vec(), end: end as u8, pid };
        self.stack_ids
            .find(FxBuildHasher.hash_one(&stack), |id| self.stacks[*id as usize] == stack)
            .copied()
    }

    /// Adds the next stack, whose record has not come.
    pub(crate) fn add_stack(&mut self, pid: u32) {
        self.changed_stacks.mark(dense(self.stacks.len()));
        self.stacks.push(Stack { pid, ..Stack::default() });
        self.explained.push(false);
    }
}

/// Finds `key` in `items`, or adds it.
fn intern<T, K: Hash + ?Sized>(
    items: &mut Vec<T>,
    ids: &mut HashTable<u32>,
    key: &K,
    same: impl Fn(&T) -> bool,
    key_of: impl Fn(&T) -> &K,
    make: impl FnOnce(&K) -> T,
) -> u32 {
    let found = ids.entry(
        FxBuildHasher.hash_one(key),
        |id| same(&items[*id as usize]),
        |id| FxBuildHasher.hash_one(key_of(&items[*id as usize])),
    );
    match found {
        Entry::Occupied(entry) => *entry.get(),
        Entry::Vacant(entry) => {
            let id = dense(items.len());
            entry.insert(id);
            items.push(make(key));
            id
        }
    }
}

/// The next index of a table. A table of 2^32 entries would take more than 100 GiB.
fn dense(len: usize) -> u32 {
    u32::try_from(len).expect("fewer than 2^32 entries")
}

/// At most `limit` bytes of the text, cut between characters.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use memtrace_common::stack::StackEnd;

    use super::{MAX_STRING_BYTES, Tables};
    use crate::profile::{Line, Location, Stack};

    #[test]
    fn equal_things_get_one_id() {
        let mut tables = Tables::default();
        let libc = tables.module("/lib/libc.so.6", "ab");
        assert_eq!(tables.module("/lib/libc.so.6", "ab"), libc);
        assert_ne!(tables.module("/lib/libc.so.6", "cd"), libc);
        let here = tables.location(Some(libc), 0x1000);
        assert_eq!(tables.location(Some(libc), 0x1000), here);
        assert_ne!(tables.location(None, 0x1000), here);
        assert_eq!(tables.string("ab"), tables.get_module(libc).build_id);
        for n in 0..1000 {
            tables.string(&n.to_string());
        }
        assert_eq!(tables.string("/lib/libc.so.6"), tables.get_module(libc).path);
    }

    #[test]
    fn lines_come_later_and_do_not_change_the_location_s_id() {
        let mut tables = Tables::default();
        let here = tables.location(None, 7);
        assert_eq!(tables.take_new_locations(), 0..1);
        assert!(tables.take_new_locations().is_empty());
        let function = tables.string("f");
        let lines = vec![Line { function, file: None, line: Some(3) }];
        tables.set_lines(here, lines.clone());
        assert_eq!(tables.location(None, 7), here);
        assert_eq!(*tables.get_location(here), Location { module: None, address: 7, lines });
    }

    #[test]
    fn the_first_record_of_a_stack_wins() {
        let mut tables = Tables::default();
        let (a, b) = (tables.location(None, 1), tables.location(None, 2));
        tables.add_stack(9);
        tables.add_stack(9);
        assert!(tables.wants_stack(1));
        tables.set_stack(1, 8, StackEnd::DepthLimit, &[a, b]);
        tables.set_stack(1, 7, StackEnd::Complete, &[b]);
        assert!(!tables.wants_stack(1));
        assert!(tables.wants_stack(0));
        assert_eq!(tables.stacks[1], Stack { locations: vec![a, b], end: 1, pid: 8 });
    }

    #[test]
    fn an_endless_name_is_cut_between_characters() {
        let mut tables = Tables::default();
        let id = tables.string(&"é".repeat(MAX_STRING_BYTES));
        assert_eq!(tables.get_string(id).len(), MAX_STRING_BYTES);
        let id = tables.string(&format!("a{}", "é".repeat(MAX_STRING_BYTES)));
        assert_eq!(tables.get_string(id).len(), MAX_STRING_BYTES - 1);
    }
}
