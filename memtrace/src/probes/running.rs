//! Which files a running process is made of.

use std::{
    collections::hash_map::Entry,
    ffi::{OsStr, OsString},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

use rustc_hash::FxHashMap;

use super::{
    link_map,
    module::{Module, lookup_order},
};
use crate::process::{Backing, Device, ProcessError, Root, identity, maps, open_kernel_link};

/// The files of a program.
#[derive(Debug)]
pub(super) struct Scope {
    /// Symbols are looked up in these, in this order. The first is the executable.
    pub lookup: Vec<Module>,
    /// Mapped, but not searched: loaded later by `dlopen`.
    pub aside: Vec<Module>,
}

/// Why the files of a process are not known.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Kernel threads have no user memory.
    #[error("pid {0} is a kernel thread, it has no user memory")]
    KernelThread(u32),
    #[error("pid {0} has ended (a zombie)")]
    Zombie(u32),
    /// The executable exists, but is none that can be probed.
    #[error("cannot use the executable of pid {pid}: {reason}")]
    Executable { pid: u32, reason: String },
}

/// The files of a process, most of them opened through /proc/PID/map_files, which also works for
/// deleted files and inside containers.
pub(super) fn scope(pid: u32) -> Result<Scope, ScopeError> {
    let stat = identity::stat(pid)?;
    if stat.is_kernel_thread {
        return Err(ScopeError::KernelThread(pid));
    }
    if matches!(stat.state, 'Z' | 'X') {
        return Err(ScopeError::Zombie(pid));
    }
    let root = Root::of(pid)?;
    let executable = executable(pid)?;
    let mut by_id = FxHashMap::from_iter([(executable.id, 0)]);
    let mut modules = vec![executable];
    // The device that maps shows is not always the one of `stat`.
    let mut by_mapping: FxHashMap<(Device, u64), usize> = FxHashMap::default();
    for mapping in maps::executable(pid)? {
        let Backing::File { path, deleted } = mapping.backing else { continue };
        let link = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
        // Without CAP_SYS_ADMIN the link can't be followed; the path may lead to another file by
        // now, so the inode is compared.
        let file = open_kernel_link(&link).or_else(|error| {
            let file = root.open(&path)?;
            if file.metadata()?.ino() == mapping.inode { Ok(file) } else { Err(error) }
        });
        let Ok(file) = file else { continue };
        let Ok(status) = file.metadata() else { continue };
        let id = (status.dev(), status.ino());
        if let Entry::Vacant(unseen) = by_id.entry(id) {
            let Ok(module) = Module::new(path, deleted, file) else { continue };
            unseen.insert(modules.len());
            modules.push(module);
        }
        by_mapping.insert((mapping.device, mapping.inode), by_id[&id]);
    }

    let start = if let Some(loaded) = loaded(pid, &by_mapping) {
        let count = loaded.len();
        modules = reordered(modules, &loaded);
        (0..at_start(&modules, count)).collect()
    } else {
        let preloads = preloads(pid, &root);
        let found = preloads.iter().filter_map(|name| preloaded(&modules, &root, name));
        std::iter::once(0).chain(found).collect()
    };
    let mut order = lookup_order(
        &mut modules,
        start,
        |modules, index| modules[index].linkage.needed.clone(),
        |modules, _, name| needed(modules, name),
    );
    // Started as `ld-linux-x86-64.so.2 PROGRAM`: the program is one of the mapped files, and its
    // place in the order isn't known. A really static program has no others.
    if modules[0].linkage.interpreter.is_none() {
        order.extend((0..modules.len()).filter(|index| *index != 0));
        order.dedup();
    }
    let mut slots: Vec<Option<Module>> = modules.into_iter().map(Some).collect();
    let lookup = order.into_iter().filter_map(|index| slots[index].take()).collect();
    Ok(Scope { lookup, aside: slots.into_iter().flatten().collect() })
}

/// The files that the dynamic linker loaded, in its order, the executable first. None when its list
/// can't be had or is of another program.
fn loaded(pid: u32, by_mapping: &FxHashMap<(Device, u64), usize>) -> Option<Vec<usize>> {
    let sections = link_map::dynamic_sections(pid)?;
    let files = maps::files(pid).ok()?;
    let mut loaded = Vec::new();
    for address in sections {
        // By address: the names in the list are those that the program asked for.
        let next = files.partition_point(|mapping| mapping.start <= address);
        let mapping = next.checked_sub(1).map(|index| &files[index]);
        let found = mapping
            .filter(|mapping| address < mapping.end)
            .and_then(|mapping| by_mapping.get(&(mapping.device, mapping.inode)));
        if let Some(&index) = found
            && !loaded.contains(&index)
        {
            loaded.push(index);
        }
    }
    (loaded.first() == Some(&0)).then_some(loaded)
}

/// The files at the indices of `first` come first, in that order.
fn reordered(modules: Vec<Module>, first: &[usize]) -> Vec<Module> {
    let mut slots: Vec<Option<Module>> = modules.into_iter().map(Some).collect();
    let mut modules: Vec<Module> = first.iter().filter_map(|&index| slots[index].take()).collect();
    modules.extend(slots.into_iter().flatten());
    modules
}

/// How many of the first `count` files, which are in load order, the program was started with.
///
/// Nothing marks what `dlopen` loaded, but it comes last. So whatever comes before a file that
/// another file of the start needs was there at the start, preloads among them.
fn at_start(modules: &[Module], count: usize) -> usize {
    let mut end = 1;
    let mut next = 0;
    while next < end {
        let names = &modules[next].linkage.needed;
        let last = names.iter().filter_map(|name| needed(modules, name)).filter(|&i| i < count);
        end = last.max().map_or(end, |last| end.max(last + 1));
        next += 1;
    }
    end
}

fn executable(pid: u32) -> Result<Module, ScopeError> {
    let fail = |reason: String| ScopeError::Executable { pid, reason };
    let path = identity::executable(pid)?.ok_or(ScopeError::Zombie(pid))?;
    let (path, deleted) = match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        // A file may also be really called so; the open file is what counts.
        Some(rest) if !path.exists() => (Path::new(OsStr::from_bytes(rest)).to_owned(), true),
        _ => (path, false),
    };
    let file = open_kernel_link(&format!("/proc/{pid}/exe"))
        .map_err(|error| ProcessError::from_io(pid, "exe", error))?;
    Module::new(path, deleted, file).map_err(|error| fail(error.to_string()))
}

/// musl answers to any name that begins with `libc.` by its interpreter.
fn needed(modules: &[Module], name: &OsStr) -> Option<usize> {
    let found = modules.iter().position(|module| module.answers_to(name));
    found.or_else(|| {
        let interpreter = modules.first()?.linkage.interpreter.as_deref()?;
        if !is_musl_libc(interpreter, name) {
            return None;
        }
        // The interpreter's path is a symbolic link to libc.so, which has no soname.
        modules.iter().position(|m| {
            m.path == interpreter
                || m.path.file_name() == interpreter.file_name()
                || (m.linkage.interpreter.is_none() && m.path.ends_with("libc.so"))
        })
    })
}

pub(super) fn is_musl_libc(interpreter: &Path, name: &OsStr) -> bool {
    interpreter.file_name().is_some_and(|n| n.as_bytes().starts_with(b"ld-musl-"))
        && name.as_bytes().starts_with(b"libc.")
}

/// The file that a preload entry names: by name, else by what its path leads to.
fn preloaded(modules: &[Module], root: &Root, name: &OsStr) -> Option<usize> {
    if name.as_bytes().contains(&b'/')
        && let Ok(status) = root.open(Path::new(name)).and_then(|file| file.metadata())
        && let Some(found) = modules.iter().position(|m| m.id == (status.dev(), status.ino()))
    {
        return Some(found);
    }
    modules.iter().position(|module| module.answers_to(name))
}

/// What LD_PRELOAD and /etc/ld.so.preload name. Unreadable means none.
fn preloads(pid: u32, root: &Root) -> Vec<OsString> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let variable = environment
        .split(|&b| b == 0)
        .find_map(|entry| entry.strip_prefix(b"LD_PRELOAD="))
        .unwrap_or_default();
    let mut names = preload_names(variable);
    names.extend(preload_file(root));
    names
}

/// Names are separated by colons or white space.
pub(super) fn preload_names(list: &[u8]) -> Vec<OsString> {
    list.split(|b| *b == b':' || b.is_ascii_whitespace())
        .filter(|name| !name.is_empty())
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect()
}

pub(super) fn preload_file(root: &Root) -> Vec<OsString> {
    use std::io::Read;
    let mut text = Vec::new();
    if let Ok(file) = root.open(Path::new("/etc/ld.so.preload")) {
        // Longer ones are no preload lists.
        let _ = file.take(64 << 10).read_to_end(&mut text);
    }
    text.split(|&b| b == b'\n')
        .map(|line| line.split(|&b| b == b'#').next().unwrap_or_default())
        .flat_map(preload_names)
        .collect()
}
