//! Which files a program will be made of once it runs.
//!
//! The dynamic linker's search, as far as it decides which libc and which allocator are used:
//! preloads, DT_RPATH or LD_LIBRARY_PATH and DT_RUNPATH, glibc's cache or musl's path file, standard
//! directories. Not followed: `glibc-hwcaps` directories and LD_AUDIT.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::{
    ld_cache::LdCache,
    module::{Module, lookup_order},
    running::{Scope, is_musl_libc, preload_file, preload_names},
};
use crate::{elf::ElfError, process::Root};

/// The variables that decide where libraries come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    pub ld_preload: OsString,
    pub ld_library_path: OsString,
}

impl Environment {
    /// memtrace's own, which a command inherits.
    pub fn own() -> Self {
        Self {
            ld_preload: env::var_os("LD_PRELOAD").unwrap_or_default(),
            ld_library_path: env::var_os("LD_LIBRARY_PATH").unwrap_or_default(),
        }
    }
}

/// Why a program's files are not known.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    /// Neither a script nor a program for this machine.
    #[error("cannot record {path}: {reason}")]
    NotAProgram { path: PathBuf, reason: String },
    /// The kernel allows five.
    #[error("cannot run {path}: too many interpreters in a row")]
    ScriptDepth { path: PathBuf },
}

/// As in the kernel's `exec_binprm`.
const MAX_INTERPRETERS: usize = 5;
/// The kernel reads this much of a script's first line.
const SHEBANG_BYTES: usize = 256;
/// More files than any program has; the lists come from the files themselves.
const MAX_MODULES: usize = 4096;

const GLIBC_DIRECTORIES: [&str; 8] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib64",
    "/usr/local/lib",
];
const MUSL_DIRECTORIES: [&str; 3] = ["/lib", "/usr/local/lib", "/usr/lib"];

/// The files of a program, by the search that its dynamic linker will make.
pub(super) fn scope(program: &Path, environment: &Environment) -> Result<Scope, LaunchError> {
    let executable = executable(program)?;
    let Some(interpreter) = executable.linkage.interpreter.clone() else {
        return Ok(Scope { lookup: vec![executable], aside: Vec::new() });
    };
    let mut search = Search::new(interpreter, environment);
    let mut modules = vec![executable];
    let mut names = preload_names(environment.ld_preload.as_bytes());
    names.extend(Root::own().map(|root| preload_file(&root)).unwrap_or_default());
    let mut start = vec![0];
    for name in names {
        start.extend(search.find(&mut modules, 0, &name));
    }
    let order = lookup_order(
        &mut modules,
        start,
        |modules, index| modules[index].linkage.needed.clone(),
        |modules, from, name| search.find(modules, from, name),
    );
    let mut slots: Vec<Option<Module>> = modules.into_iter().map(Some).collect();
    let lookup = order.into_iter().filter_map(|index| slots[index].take()).collect();
    Ok(Scope { lookup, aside: Vec::new() })
}

/// The program itself or, for a script, its interpreter.
fn executable(program: &Path) -> Result<Module, LaunchError> {
    let mut path = program.to_owned();
    for _ in 0..=MAX_INTERPRETERS {
        let unreadable = |source| LaunchError::Unreadable { path: path.clone(), source };
        let file = open(&path).map_err(unreadable)?;
        let mut head = Vec::new();
        (&file).take(SHEBANG_BYTES as u64).read_to_end(&mut head).map_err(unreadable)?;
        match interpreter_of(&head) {
            Some(next) => path = next,
            None => {
                return Module::new(path.clone(), false, file).map_err(|error| match error {
                    ElfError::Io(source) => LaunchError::Unreadable { path, source },
                    other => LaunchError::NotAProgram { path, reason: other.to_string() },
                });
            }
        }
    }
    Err(LaunchError::ScriptDepth { path: program.to_owned() })
}

/// `#! /bin/sh -e` is `/bin/sh`.
fn interpreter_of(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?;
    let name = line.split(|&b| b == b' ' || b == b'\t').find(|word| !word.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(name)))
}

/// Regular files only: opening a pipe would block.
fn open(path: &Path) -> io::Result<File> {
    let path = std::path::absolute(path)?;
    Root::own()?.open(&path)
}

struct Search {
    interpreter: PathBuf,
    library_path: Vec<PathBuf>,
    cache: LdCache,
    directories: Vec<PathBuf>,
    is_musl: bool,
}

impl Search {
    fn new(interpreter: PathBuf, environment: &Environment) -> Self {
        let is_musl = is_musl_libc(&interpreter, OsStr::new("libc."));
        let (cache, directories) = if is_musl {
            let listed = std::fs::read_to_string("/etc/ld-musl-x86_64.path").unwrap_or_default();
            let mut directories: Vec<PathBuf> =
                listed.split(['\n', ':']).filter(|d| !d.is_empty()).map(PathBuf::from).collect();
            if directories.is_empty() {
                directories = MUSL_DIRECTORIES.iter().map(PathBuf::from).collect();
            }
            (LdCache::default(), directories)
        } else {
            let directories = GLIBC_DIRECTORIES.iter().map(PathBuf::from).collect();
            (LdCache::load(Path::new("/etc/ld.so.cache")), directories)
        };
        let library_path = split_path(&environment.ld_library_path, Path::new("/"));
        Search { interpreter, library_path, cache, directories, is_musl }
    }

    /// The index of the file that `name` means to file `from`, added when it is new.
    fn find(&mut self, modules: &mut Vec<Module>, from: usize, name: &OsStr) -> Option<usize> {
        if let Some(known) = modules.iter().position(|m| m.linkage.soname.as_deref() == Some(name))
        {
            return Some(known);
        }
        if modules.len() >= MAX_MODULES {
            return None;
        }
        self.candidates(&modules[from], name).into_iter().find_map(|path| add(modules, path))
    }

    fn candidates(&self, from: &Module, name: &OsStr) -> Vec<PathBuf> {
        let origin = origin(&from.path);
        if name.as_bytes().contains(&b'/') {
            return vec![expand(name, &origin)];
        }
        if is_musl_libc(&self.interpreter, name) {
            return vec![self.interpreter.clone()];
        }
        // The interpreter is loaded already, under its own name.
        if self.interpreter.file_name() == Some(name) {
            return vec![self.interpreter.clone()];
        }
        let list = |list: &Option<OsString>| {
            list.as_deref().map(|list| split_path(list, &origin)).unwrap_or_default()
        };
        let mut directories = Vec::new();
        if from.linkage.runpath.is_none() {
            directories.extend(list(&from.linkage.rpath));
        }
        directories.extend(self.library_path.iter().cloned());
        directories.extend(list(&from.linkage.runpath));
        let mut paths: Vec<PathBuf> = directories.into_iter().map(|d| d.join(name)).collect();
        if !self.is_musl {
            paths.extend(self.cache.paths(name));
        }
        paths.extend(self.directories.iter().map(|d| d.join(name)));
        paths
    }
}

/// The index of the file at `path`, None when it can't be loaded.
fn add(modules: &mut Vec<Module>, path: PathBuf) -> Option<usize> {
    let file = open(&path).ok()?;
    let status = file.metadata().ok()?;
    let id = (status.dev(), status.ino());
    if let Some(known) = modules.iter().position(|m| m.id == id) {
        return Some(known);
    }
    modules.push(Module::new(path, false, file).ok()?);
    Some(modules.len() - 1)
}

fn origin(path: &Path) -> PathBuf {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real.parent().unwrap_or(Path::new("/")).to_owned()
}

/// A colon-separated list with `$ORIGIN`, `$LIB`, `$PLATFORM`. An empty entry is the working
/// directory.
fn split_path(list: &OsStr, origin: &Path) -> Vec<PathBuf> {
    if list.is_empty() {
        return Vec::new();
    }
    list.as_bytes()
        .split(|b| matches!(b, b':' | b';'))
        .map(|entry| match entry {
            b"" => PathBuf::from("."),
            entry => expand(OsStr::from_bytes(entry), origin),
        })
        .collect()
}

fn expand(name: &OsStr, origin: &Path) -> PathBuf {
    let tokens: [(&[u8], &[u8]); 3] = [
        (b"ORIGIN", origin.as_os_str().as_bytes()),
        (b"LIB", b"lib/x86_64-linux-gnu"),
        (b"PLATFORM", b"x86_64"),
    ];
    let mut rest = name.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    'next: while let Some((&first, tail)) = rest.split_first() {
        if first == b'$' {
            for (token, value) in tokens {
                let braced = tail
                    .strip_prefix(b"{")
                    .and_then(|t| t.strip_prefix(token))
                    .and_then(|t| t.strip_prefix(b"}"));
                if let Some(after) = braced.or_else(|| tail.strip_prefix(token)) {
                    out.extend_from_slice(value);
                    rest = after;
                    continue 'next;
                }
            }
        }
        out.push(first);
        rest = tail;
    }
    PathBuf::from(OsStr::from_bytes(&out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shebang_lines_name_the_interpreter() {
        let name = |head: &[u8]| interpreter_of(head).map(|p| p.display().to_string());
        assert_eq!(name(b"#!/bin/sh\n"), Some("/bin/sh".into()));
        assert_eq!(name(b"#! \t/usr/bin/env python3\nx"), Some("/usr/bin/env".into()));
        assert_eq!(name(b"#!\n/bin/sh"), None);
        assert_eq!(name(b"\x7fELF"), None);
    }

    #[test]
    fn tokens_are_expanded() {
        let origin = Path::new("/opt/app/bin");
        assert_eq!(
            split_path(OsStr::new("$ORIGIN/../lib:${ORIGIN}:/x"), origin),
            [Path::new("/opt/app/bin/../lib"), Path::new("/opt/app/bin"), Path::new("/x")]
        );
        assert_eq!(split_path(OsStr::new(""), origin), [] as [PathBuf; 0]);
    }
}
