//! Tables and mapping lists: what is where in the arrays, who uses it, and what may go.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    io,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    time::Instant,
};

use memtrace_common::unwind::{MAX_MAPPINGS_PER_PROCESS, Mapping, PageRows, Process, Row, rule_id};

use super::{
    UnwindTablesError, Update,
    array::WordArray,
    files::{self, FileProblem, Problem, Stamp},
    mappings::{self, Executable},
    rules::Rules,
    space::Space,
};
use crate::elf::unwind::{TextSegment, UnwindError, UnwindTable, address_of_offset};

/// Files remembered before those that no process uses are forgotten.
const MAX_FILES: usize = 16_384;

/// How often an update starts again because the mappings changed meanwhile.
const RETRIES: u32 = 3;

/// Words of the kernel's array that one [`Mapping`] takes.
const MAPPING_WORDS: usize = size_of::<Mapping>() / 8;

/// Where the kernel looks a process up.
pub trait ProcessMap {
    /// # Errors
    /// When the map is full.
    fn set(&mut self, process: Process) -> Result<(), UnwindTablesError>;
    /// Removes it if it is there.
    fn remove(&mut self, pid: u32);
}

/// How full the maps are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Binaries with a table in the kernel, used or not.
    pub tables: u32,
    /// Rows of those, of `row_capacity`.
    pub rows: u64,
    pub row_capacity: u64,
    /// KiB of text, of `page_capacity`.
    pub pages: u32,
    pub page_capacity: u32,
    /// Distinct rules.
    pub rules: u32,
    pub processes: u32,
    /// Mappings over all lists, of `mapping_capacity`.
    pub mappings: u32,
    pub mapping_capacity: u32,
    /// Tables that found no room.
    pub tables_left_out: u64,
    /// Rules that found no room; frames that need one end as unsupported.
    pub rules_left_out: u64,
    /// Mappings that found no room.
    pub mappings_left_out: u64,
    /// Kernel memory of all arrays, bytes.
    pub bytes: u64,
}

type TableId = u32;
type Generation = u32;

/// A table in the arrays.
struct Table {
    first_word: u32,
    words: u32,
    rows: u32,
    first_page: u32,
    pages: u32,
    base: u64,
    content: (u64, u64),
    /// Mapping lists that use it.
    lists: u32,
}

/// What is known of a file: its table, or the rule for all of it.
#[derive(Clone)]
enum Known {
    Table(TableId, Arc<[TextSegment]>),
    Rule(u16),
}

/// A mapping list in the array.
struct List {
    first: u32,
    mappings: Arc<[Mapping]>,
    tables: Vec<TableId>,
    processes: u32,
}

/// The whole content of the unwinder's maps.
pub struct Store<P> {
    rows: WordArray,
    row_space: Space,
    pages: WordArray,
    page_space: Space,
    rules: Rules,
    list_words: WordArray,
    list_space: Space,
    process_map: P,
    tables: HashMap<TableId, Table>,
    by_content: HashMap<(u64, u64), TableId>,
    files: HashMap<Stamp, Known>,
    lists: HashMap<Generation, List>,
    by_mappings: HashMap<Arc<[Mapping]>, Generation>,
    processes: HashMap<u32, Generation>,
    next_table: TableId,
    next_generation: Generation,
    /// Keys that no file's author can know.
    keys: (RandomState, RandomState),
    tables_left_out: u64,
    mappings_left_out: u64,
}

impl<P: ProcessMap> Store<P> {
    pub fn new(
        rows: WordArray,
        pages: WordArray,
        rules: WordArray,
        lists: WordArray,
        process_map: P,
    ) -> Self {
        let size = |words: usize| u32::try_from(words).unwrap_or(u32::MAX);
        Self {
            row_space: Space::new(size(rows.words().len())),
            rows,
            page_space: Space::new(size(pages.words().len())),
            pages,
            rules: Rules::new(rules),
            list_space: Space::new(size(lists.words().len() / MAPPING_WORDS)),
            list_words: lists,
            process_map,
            tables: HashMap::new(),
            by_content: HashMap::new(),
            files: HashMap::new(),
            lists: HashMap::new(),
            by_mappings: HashMap::new(),
            processes: HashMap::new(),
            next_table: 0,
            next_generation: 1,
            keys: (RandomState::new(), RandomState::new()),
            tables_left_out: 0,
            mappings_left_out: 0,
        }
    }

    /// See [`super::UnwindTables::update`].
    pub fn update(&mut self, pid: u32, now: Instant) -> Result<Update, UnwindTablesError> {
        let fail = |source: io::Error| UnwindTablesError::Process { pid, source };
        let mut update = Update::default();
        let mut executables = mappings::executables(pid).map_err(fail)?;
        for _ in 0..RETRIES {
            update.without_table.clear();
            let (list, tables) = self.resolve(pid, &executables, &mut update, now);
            update.changed |= self.publish(pid, list, tables, &mut update, now)?;
            // Done unless the process has changed its mappings while they were looked at.
            let again = mappings::executables(pid).map_err(fail)?;
            if again == executables {
                break;
            }
            executables = again;
        }
        Ok(update)
    }

    /// See [`super::UnwindTables::forked`].
    pub fn forked(&mut self, parent: u32, child: u32) -> Result<(), UnwindTablesError> {
        let Some(&generation) = self.processes.get(&parent) else { return Ok(()) };
        if self.processes.contains_key(&child) {
            return Ok(());
        }
        let Some(list) = self.lists.get_mut(&generation) else { return Ok(()) };
        let process = kernel_process(child, generation, list);
        self.process_map.set(process)?;
        list.processes += 1;
        self.processes.insert(child, generation);
        Ok(())
    }

    /// See [`super::UnwindTables::remove`].
    pub fn remove(&mut self, pid: u32, now: Instant) {
        self.process_map.remove(pid);
        if let Some(generation) = self.processes.remove(&pid) {
            self.leave(generation, now);
        }
    }

    /// See [`super::UnwindTables::totals`].
    pub fn totals(&self) -> Totals {
        let arrays = [&self.rows, &self.pages, &self.list_words];
        Totals {
            tables: self.tables.len() as u32,
            rows: self.tables.values().map(|t| u64::from(t.rows)).sum(),
            row_capacity: self.rows.words().len() as u64 * 2,
            pages: self.page_space.used(),
            page_capacity: self.pages.words().len() as u32,
            rules: self.rules.len(),
            processes: self.processes.len() as u32,
            mappings: self.list_space.used(),
            mapping_capacity: (self.list_words.words().len() / MAPPING_WORDS) as u32,
            tables_left_out: self.tables_left_out,
            rules_left_out: self.rules.left_out,
            mappings_left_out: self.mappings_left_out,
            bytes: arrays.iter().map(|a| size_of_val(a.words()) as u64).sum::<u64>()
                + self.rules.bytes(),
        }
    }

    /// The mapping list of a process, generation not set, and the tables that it uses, which are
    /// held.
    fn resolve(
        &mut self,
        pid: u32,
        executables: &[Executable],
        update: &mut Update,
        now: Instant,
    ) -> (Vec<Mapping>, Vec<TableId>) {
        let most = MAX_MAPPINGS_PER_PROCESS as usize;
        update.mappings = executables.len() as u32;
        update.mappings_left_out = executables.len().saturating_sub(most) as u32;
        let mut list = Vec::with_capacity(executables.len().min(most));
        let mut tables = Vec::new();
        for executable in executables.iter().take(most) {
            let known = self.known(pid, executable, now).unwrap_or_else(|problem| {
                let rule = rule_without_table(&problem);
                let path = executable.path.clone();
                if rule == rule_id::NONE && update.without_table.iter().all(|p| p.path != path) {
                    update.without_table.push(FileProblem { path, problem });
                }
                Known::Rule(rule)
            });
            let (start, end) = (executable.start, executable.end);
            let mut mapping = Mapping { start, end, ..Mapping::default() };
            match known {
                Known::Rule(rule) => mapping.rule = rule.into(),
                Known::Table(id, text) => {
                    let table = &self.tables[&id];
                    match address_of_offset(&text, executable.offset) {
                        Some(svma) => {
                            mapping.table_base = start.wrapping_sub(svma).wrapping_add(table.base);
                            mapping.first_page = table.first_page;
                            mapping.pages = table.pages;
                            if !tables.contains(&id) {
                                self.hold(id);
                                tables.push(id);
                            }
                        }
                        // Executable memory of a file's data.
                        None => mapping.rule = rule_id::NONE.into(),
                    }
                }
            }
            list.push(mapping);
        }
        (list, tables)
    }

    /// Keeps a table: it belongs to a list, or to one in the making.
    fn hold(&mut self, id: TableId) {
        if let Some(table) = self.tables.get_mut(&id) {
            table.lists += 1;
        }
    }

    fn let_go(&mut self, ids: &[TableId]) {
        for id in ids {
            if let Some(table) = self.tables.get_mut(id) {
                table.lists -= 1;
            }
        }
    }

    /// What is known of the file behind a mapping, after reading it if it is new.
    fn known(&mut self, pid: u32, mapping: &Executable, now: Instant) -> Result<Known, Problem> {
        if mapping.inode == 0 {
            return match &*mapping.path {
                "[vdso]" => self.add(files::vdso_table(pid, mapping)?, now),
                "[uprobes]" => Ok(Known::Rule(rule_id::TRAMPOLINE)),
                "[vsyscall]" => Ok(Known::Rule(rule_id::NONE)),
                _ => Ok(Known::Rule(rule_id::ANONYMOUS)),
            };
        }
        let file = files::open(pid, mapping)?;
        let stamp = Stamp::of(&file)?;
        if let Some(known) = self.files.get(&stamp) {
            return Ok(known.clone());
        }
        let known = match files::table(file) {
            Ok(table) => self.add(table, now)?,
            // Not to be tried again at every update: such a file stays what it is.
            Err(Problem::Unwind(error @ (UnwindError::NotElf | UnwindError::None))) => {
                Known::Rule(rule_without_table(&Problem::Unwind(error)))
            }
            Err(other) => return Err(other),
        };
        if self.files.len() >= MAX_FILES {
            self.forget_idle(now);
        }
        if self.files.len() < MAX_FILES {
            self.files.insert(stamp, known.clone());
        }
        Ok(known)
    }

    /// Puts a table into the arrays unless its like is there.
    fn add(&mut self, table: UnwindTable, now: Instant) -> Result<Known, Problem> {
        let content =
            (self.keys.0.hash_one(content(&table)), self.keys.1.hash_one(content(&table)));
        if let Some(&id) = self.by_content.get(&content) {
            return Ok(Known::Table(id, table.text.into()));
        }
        let words = table.rows.len().div_ceil(2) as u32;
        let pages = table.pages.len() as u32;
        let Some((first_word, first_page)) = self.room(words, pages, now) else {
            self.tables_left_out += 1;
            // Room for the next try.
            self.forget_idle(now);
            return Err(Problem::NoRoom);
        };
        let ids: Vec<u16> = table.rules.iter().map(|&rule| self.rules.id(rule)).collect();
        let row = |row: &Row| u64::from(Row { rule: ids[usize::from(row.rule)], ..*row }.to_bits());
        for (pair, word) in table.rows.chunks(2).zip(&self.rows.words()[first_word as usize..]) {
            let upper = pair.get(1).map_or(0, row);
            word.store(row(&pair[0]) | upper << 32, Ordering::Relaxed);
        }
        let first_row = first_word * 2;
        for (page, word) in table.pages.iter().zip(&self.pages.words()[first_page as usize..]) {
            let PageRows { first, last } = *page;
            let moved = PageRows { first: first + first_row, last: last + first_row };
            word.store(moved.to_bits(), Ordering::Relaxed);
        }
        let id = self.next_table;
        self.next_table += 1;
        let rows = table.rows.len() as u32;
        let base = table.base;
        let lists = 0;
        self.tables
            .insert(id, Table { first_word, words, rows, first_page, pages, base, content, lists });
        self.by_content.insert(content, id);
        Ok(Known::Table(id, table.text.into()))
    }

    fn room(&mut self, words: u32, pages: u32, now: Instant) -> Option<(u32, u32)> {
        let first_word = self.row_space.take(words, now)?;
        match self.page_space.take(pages, now) {
            Some(first_page) => Some((first_word, first_page)),
            None => {
                self.row_space.give_up(first_word, words, now);
                None
            }
        }
    }

    /// Makes the kernel use `mappings` for the process. False: it does already.
    fn publish(
        &mut self,
        pid: u32,
        mappings: Vec<Mapping>,
        tables: Vec<TableId>,
        update: &mut Update,
        now: Instant,
    ) -> Result<bool, UnwindTablesError> {
        let before = self.processes.get(&pid).copied();
        let generation = match self.by_mappings.get(&*mappings) {
            Some(&generation) => {
                self.let_go(&tables);
                generation
            }
            None => match self.write(mappings, tables, now) {
                Some(generation) => generation,
                None => {
                    update.mappings_left_out = update.mappings;
                    self.mappings_left_out += u64::from(update.mappings);
                    self.remove(pid, now);
                    return Ok(true);
                }
            },
        };
        // Also when nothing has changed: the kernel side forgets processes at exec.
        let process = kernel_process(pid, generation, &self.lists[&generation]);
        if let Err(error) = self.process_map.set(process) {
            self.drop_unused(generation, now);
            return Err(error);
        }
        if before == Some(generation) {
            return Ok(false);
        }
        if let Some(list) = self.lists.get_mut(&generation) {
            list.processes += 1;
        }
        self.processes.insert(pid, generation);
        if let Some(before) = before {
            self.leave(before, now);
        }
        Ok(true)
    }

    /// Writes a new list into the array.
    fn write(
        &mut self,
        mappings: Vec<Mapping>,
        tables: Vec<TableId>,
        now: Instant,
    ) -> Option<Generation> {
        let Some(first) = self.list_space.take(mappings.len() as u32, now) else {
            self.let_go(&tables);
            return None;
        };
        let generation = self.new_generation();
        let words = &self.list_words.words()[first as usize * MAPPING_WORDS..];
        for (mapping, words) in mappings.iter().zip(words.chunks(MAPPING_WORDS)) {
            // Without a generation while it is written, so that no reader believes it.
            words[4].store(0, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            words[0].store(mapping.start, Ordering::Relaxed);
            words[1].store(mapping.end, Ordering::Relaxed);
            words[2].store(mapping.table_base, Ordering::Relaxed);
            let pages = u64::from(mapping.first_page) | u64::from(mapping.pages) << 32;
            words[3].store(pages, Ordering::Relaxed);
            let last = u64::from(generation) | u64::from(mapping.rule) << 32;
            words[4].store(last, Ordering::Release);
        }
        let mappings: Arc<[Mapping]> = mappings.into();
        self.by_mappings.insert(mappings.clone(), generation);
        self.lists.insert(generation, List { first, mappings, tables, processes: 0 });
        Some(generation)
    }

    fn new_generation(&mut self) -> Generation {
        // Wraps after four thousand million lists; old ones may live still.
        while self.next_generation == 0 || self.lists.contains_key(&self.next_generation) {
            self.next_generation = self.next_generation.wrapping_add(1);
        }
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        generation
    }

    /// One process fewer uses the list.
    fn leave(&mut self, generation: Generation, now: Instant) {
        if let Some(list) = self.lists.get_mut(&generation) {
            list.processes -= 1;
        }
        self.drop_unused(generation, now);
    }

    fn drop_unused(&mut self, generation: Generation, now: Instant) {
        if self.lists.get(&generation).is_none_or(|l| l.processes > 0) {
            return;
        }
        let Some(list) = self.lists.remove(&generation) else { return };
        self.by_mappings.remove(&list.mappings);
        self.list_space.give_up(list.first, list.mappings.len() as u32, now);
        self.let_go(&list.tables);
        // Idle tables are kept for the next process of the program while there is plenty of room.
        let crowded = |space: &Space, size: usize| space.used() as usize > size / 4 * 3;
        if crowded(&self.row_space, self.rows.words().len())
            || crowded(&self.page_space, self.pages.words().len())
        {
            self.forget_idle(now);
        }
    }

    /// Gives up all tables that no list uses.
    fn forget_idle(&mut self, now: Instant) {
        for table in self.tables.extract_if(|_, t| t.lists == 0).map(|(_, t)| t) {
            self.row_space.give_up(table.first_word, table.words, now);
            self.page_space.give_up(table.first_page, table.pages, now);
            self.by_content.remove(&table.content);
        }
        let tables = &self.tables;
        self.files.retain(|_, known| match known {
            Known::Table(id, _) => tables.contains_key(id),
            Known::Rule(_) => false,
        });
    }
}

fn kernel_process(pid: u32, generation: Generation, list: &List) -> Process {
    Process { generation, first: list.first, count: list.mappings.len() as u32, pid }
}

/// What makes two tables the same.
fn content(table: &UnwindTable) -> impl std::hash::Hash {
    let rows: Vec<u32> = table.rows.iter().map(|r| r.to_bits()).collect();
    let pages: Vec<u64> = table.pages.iter().map(|p| p.to_bits()).collect();
    let rules: Vec<u64> = table.rules.iter().map(|r| r.to_bits()).collect();
    (table.base, rows, pages, rules)
}

/// The rule for all addresses of a file without a table.
fn rule_without_table(problem: &Problem) -> u16 {
    match problem {
        // Code that a program wrote to a file or memfd: a just-in-time compiler's.
        Problem::Unwind(UnwindError::NotElf) => rule_id::ANONYMOUS,
        _ => rule_id::NONE,
    }
}
