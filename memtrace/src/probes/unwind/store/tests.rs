use std::{
    cell::RefCell,
    collections::HashMap,
    fs::File,
    process::{Child, Command},
    rc::Rc,
    sync::atomic::Ordering,
    time::Instant,
};

use memtrace_common::unwind::{PAGE_SHIFT, PageRows, Process, Row, Rule, cfa};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::{MAPPING_WORDS, ProcessMap, Store};
use crate::{
    elf::unwind::{UnwindTable, address_of_offset},
    probes::unwind::{
        QUARANTINE, UnwindTablesError, array::WordArray, mappings, mappings::Executable,
    },
};

type Shared = Rc<RefCell<HashMap<u32, Process>>>;

struct FakeMap(Shared);

impl ProcessMap for FakeMap {
    fn set(&mut self, process: Process) -> Result<(), UnwindTablesError> {
        self.0.borrow_mut().insert(process.pid, process);
        Ok(())
    }

    fn remove(&mut self, pid: u32) {
        self.0.borrow_mut().remove(&pid);
    }
}

fn store(rows: usize, pages: usize, mappings: usize) -> (Store<FakeMap>, Shared) {
    let array = |words| WordArray::anonymous(words).expect("memory");
    let processes = Shared::default();
    let map = FakeMap(processes.clone());
    let lists = array(mappings * MAPPING_WORDS);
    (Store::new(array(rows), array(pages), array(1 << 16), lists, map), processes)
}

fn large() -> (Store<FakeMap>, Shared) {
    store(1 << 20, 1 << 18, 4096)
}

/// A process that does nothing; ends with the test.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        let child = Command::new("sleep").arg("1000").spawn().expect("sleep runs");
        // Until the dynamic linker is through, the mappings still change.
        let pid = child.id();
        let mut last = Vec::new();
        for _ in 0..200 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            let now = mappings::executables(pid).expect("mappings");
            if now == last && now.len() >= 4 {
                break;
            }
            last = now;
        }
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The rule for an address as the kernel side finds it in the arrays.
fn kernel_lookup(store: &Store<FakeMap>, process: Process, pc: u64) -> Option<Rule> {
    let word = |array: &WordArray, at: usize| array.words()[at].load(Ordering::Relaxed);
    (0..process.count).find_map(|i| {
        let at = (process.first + i) as usize * MAPPING_WORDS;
        let [start, end, base, pages, last] =
            std::array::from_fn(|n| word(&store.list_words, at + n));
        assert_eq!(last as u32, process.generation);
        if !(start..end).contains(&pc) {
            return None;
        }
        let page = pc.wrapping_sub(base) >> PAGE_SHIFT;
        let id = if page >= pages >> 32 {
            (last >> 32) as u16
        } else {
            let at = (pages & 0xffff_ffff) + page;
            let rows = PageRows::from_bits(word(&store.pages, at as usize));
            let row = |n: u32| {
                Row::from_bits((word(&store.rows, n as usize / 2) >> (32 * (n % 2))) as u32)
            };
            let at = pc.wrapping_sub(base) as u16 & 0x3ff;
            let mut found = row(rows.first);
            for n in rows.first + 1..=rows.last {
                if row(n).low & 0x3ff <= at {
                    found = row(n);
                }
            }
            found.rule
        };
        Some(Rule::from_bits(word(store.rules.array_for_tests(), usize::from(id))))
    })
}

#[test]
fn kernel_finds_what_the_file_says_at_every_address() {
    let (mut store, processes) = large();
    let sleeper = Sleeper::start();
    let update = store.update(sleeper.pid(), Instant::now()).expect("an update");
    assert!(update.changed);
    assert!(update.without_table.is_empty(), "{:?}", update.without_table);
    let process = processes.borrow()[&sleeper.pid()];
    let mut looked_up = 0;
    for Executable { start, end, offset, path, inode } in
        mappings::executables(sleeper.pid()).expect("mappings")
    {
        if inode == 0 {
            continue;
        }
        let bytes = std::fs::read(&path).expect("a readable file");
        let table = UnwindTable::read(&*bytes).expect("a table");
        let svma = address_of_offset(&table.text, offset).expect("an address");
        for pc in (start..end).step_by(37) {
            let expected = table.lookup(pc - start + svma);
            let found = kernel_lookup(&store, process, pc);
            assert_eq!(found, Some(expected), "{path} at {pc:#x}");
            looked_up += usize::from(expected.cfa != cfa::NONE);
        }
    }
    assert!(looked_up > 10_000, "{looked_up}");
    assert_eq!(kernel_lookup(&store, process, 4096), None);
}

#[test]
fn update_without_a_change_keeps_the_generation() {
    let (mut store, processes) = large();
    let sleeper = Sleeper::start();
    store.update(sleeper.pid(), Instant::now()).expect("an update");
    let before = processes.borrow()[&sleeper.pid()];
    // As the kernel side does at exec: the next update puts it back.
    processes.borrow_mut().clear();
    let update = store.update(sleeper.pid(), Instant::now()).expect("an update");
    assert!(!update.changed);
    assert_eq!(processes.borrow()[&sleeper.pid()], before);
}

#[test]
fn second_process_of_a_program_shares_its_tables() {
    let (mut store, _) = large();
    let (one, two) = (Sleeper::start(), Sleeper::start());
    store.update(one.pid(), Instant::now()).expect("an update");
    let first = store.totals();
    store.update(two.pid(), Instant::now()).expect("an update");
    let both = store.totals();
    assert_eq!((both.tables, both.rows, both.pages), (first.tables, first.rows, first.pages));
    assert_eq!((both.processes, both.mappings), (2, first.mappings * 2));
}

#[test]
fn forked_child_has_its_parents_list_until_all_are_gone() {
    let (mut store, processes) = large();
    let sleeper = Sleeper::start();
    let parent = sleeper.pid();
    let child = u32::MAX;
    let now = Instant::now();
    store.forked(parent, child).expect("nothing happens");
    assert!(processes.borrow().is_empty());
    store.update(parent, now).expect("an update");
    store.forked(parent, child).expect("a child");
    let Process { generation, first, count, .. } = processes.borrow()[&parent];
    assert_eq!(processes.borrow()[&child], Process { generation, first, count, pid: child });
    store.remove(parent, now);
    assert!(!processes.borrow().contains_key(&parent));
    assert_eq!(store.totals().mappings, count);
    store.remove(child, now);
    store.remove(child, now);
    assert_eq!((store.totals().mappings, store.totals().processes), (0, 0));
    assert!(store.totals().tables > 0, "kept for the next process");
}

#[test]
fn mapped_and_unmapped_code_changes_the_list_and_leaks_no_space() {
    let (mut store, processes) = large();
    let own = std::process::id();
    let mut now = Instant::now();
    store.update(own, now).expect("an update");
    let file = File::open("/proc/self/exe").expect("own program");
    let mut generations = vec![processes.borrow()[&own].generation];
    for _ in 0..50 {
        // SAFETY: a new mapping that nothing else uses.
        let code = unsafe {
            mmap(std::ptr::null_mut(), 8192, ProtFlags::EXEC, MapFlags::PRIVATE, &file, 0)
        }
        .expect("a mapping");
        assert!(store.update(own, now).expect("an update").changed);
        let process = processes.borrow()[&own];
        assert!(kernel_lookup(&store, process, code as u64).is_some());
        generations.push(process.generation);
        // SAFETY: mapped above, and not used by anyone.
        unsafe { munmap(code, 8192) }.expect("an unmapping");
        assert!(store.update(own, now).expect("an update").changed);
        let process = processes.borrow()[&own];
        assert_eq!(kernel_lookup(&store, process, code as u64), None);
        generations.push(process.generation);
        now += QUARANTINE;
    }
    let used = store.totals().mappings;
    assert_eq!(used, processes.borrow()[&own].count);
    generations.sort_unstable();
    generations.dedup();
    assert_eq!(generations.len(), 101, "each list has a generation of its own");
}

#[test]
fn what_finds_no_room_is_said_and_counted() {
    let sleeper = Sleeper::start();
    let now = Instant::now();
    // No room for the C library's rows.
    let (mut tables, processes) = store(2000, 1 << 18, 4096);
    let update = tables.update(sleeper.pid(), now).expect("an update");
    assert!(update.without_table.iter().any(|p| p.path.contains("libc")), "{update:?}");
    assert!(tables.totals().tables_left_out > 0);
    assert!(processes.borrow().contains_key(&sleeper.pid()));
    // No room for the list.
    let (mut lists, processes) = store(1 << 20, 1 << 18, 2);
    let update = lists.update(sleeper.pid(), now).expect("an update");
    assert_eq!(update.mappings_left_out, update.mappings);
    assert_eq!(lists.totals().mappings_left_out, u64::from(update.mappings));
    assert!(processes.borrow().is_empty());
}

#[test]
fn idle_tables_make_room_when_it_gets_tight() {
    let sleeper = Sleeper::start();
    let now = Instant::now();
    let (mut store, _) = large();
    store.update(sleeper.pid(), now).expect("an update");
    let needed = store.totals().rows.div_ceil(2) as usize;
    let (mut tight, _) = self::store(needed + 64, 1 << 18, 4096);
    tight.update(sleeper.pid(), now).expect("an update");
    assert_eq!(tight.totals().tables_left_out, 0);
    tight.remove(sleeper.pid(), now);
    assert_eq!(tight.totals().tables, 0, "over three quarters were in use");
    let again = tight.update(sleeper.pid(), now + QUARANTINE).expect("an update");
    assert!(again.without_table.is_empty(), "{:?}", again.without_table);
}

#[test]
fn gone_process_is_an_error() {
    let (mut store, _) = large();
    let pid = Sleeper::start().pid();
    match store.update(pid, Instant::now()) {
        Err(UnwindTablesError::Process { pid: named, .. }) => assert_eq!(named, pid),
        other => panic!("{other:?}"),
    }
}
