//! The files that code was loaded from, opened while they can still be reached.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use object::ReadCache;
use rustc_hash::FxHashMap;

use crate::{
    elf::{BuildId, ElfError, Headers, Image, Stamp},
    process::{Backing, Device, Mapping, Root, open_kernel_link},
};

/// Names a module for as long as its [`Modules`] lives; small and dense from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(pub u32);

/// A file that code was loaded from, or the vDSO. Can be sent to another thread.
#[derive(Debug)]
pub struct Module {
    id: ModuleId,
    path: PathBuf,
    name: String,
    build_id: String,
    headers: Headers,
    content: Content,
    root: Option<Root>,
}

#[derive(Debug)]
enum Content {
    File { file: File, stamp: Stamp },
    Memory(Arc<[u8]>),
    Unreadable(io::ErrorKind),
}

impl Module {
    /// Number of this module.
    pub fn id(&self) -> ModuleId {
        self.id
    }

    /// [`Module::path`], lossily as text; `[vdso]` for the vDSO.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path as the kernel shows it to memtrace: as the target sees it when that has a file system of
    /// its own (a container), as memtrace sees it otherwise.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// GNU build id as lower-case hex; empty when there is none.
    pub fn build_id_hex(&self) -> &str {
        &self.build_id
    }

    /// GNU build id.
    pub fn build_id(&self) -> Option<&BuildId> {
        self.headers.build_id.as_ref()
    }

    /// False when the file could not be opened: there will be no names.
    pub fn is_readable(&self) -> bool {
        !matches!(self.content, Content::Unreadable(_))
    }

    /// Where the target's files are looked up; None: nowhere but in memtrace's own root.
    pub(super) fn root(&self) -> Option<&Root> {
        self.root.as_ref()
    }

    /// The SVMA of the code byte at a file offset; the offset itself for a file that is not ELF.
    pub fn svma_of_offset(&self, offset: u64) -> u64 {
        self.headers.svma_of_offset(offset).unwrap_or(offset)
    }

    /// True when code can lie at this SVMA.
    pub(super) fn holds_code_at(&self, svma: u64) -> bool {
        self.headers.offset_of_svma(svma).is_some()
    }

    /// All bytes, from the file that was opened when the mapping was seen.
    ///
    /// # Errors
    /// [`ElfError::Io`] when the file can't be read or was rewritten since.
    pub fn image(&self) -> Result<Image, ElfError> {
        match &self.content {
            Content::File { file, stamp } => {
                if Stamp::of(file)? != *stamp {
                    return Err(io::Error::other("the file was changed while it was in use").into());
                }
                Image::map(file)
            }
            Content::Memory(bytes) => Ok(Image::from_bytes(&**bytes)),
            Content::Unreadable(kind) => Err(io::Error::from(*kind).into()),
        }
    }

    fn is_current(&self) -> bool {
        match &self.content {
            Content::File { file, stamp } => Stamp::of(file).is_ok_and(|now| now == *stamp),
            Content::Memory(_) => true,
            Content::Unreadable(_) => false,
        }
    }
}

/// All modules of a recording, each file once.
///
/// Every module keeps its file open, which also keeps its inode number from being given to another
/// file. At most half of the descriptors that this process may have are used; modules beyond that
/// stay without names.
#[derive(Debug)]
pub struct Modules {
    list: Vec<Arc<Module>>,
    by_file: FxHashMap<(Device, u64, PathBuf), ModuleId>,
    vdsos: Vec<ModuleId>,
    open_files: u64,
    max_open_files: u64,
}

/// A process that maps ever new files must not use up memory.
const MAX_MODULES: usize = 1 << 16;
/// The vDSO has 2 to 4 pages.
const MAX_VDSO_BYTES: u64 = 256 << 10;

impl Default for Modules {
    fn default() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self {
            list: Vec::new(),
            by_file: FxHashMap::default(),
            vdsos: Vec::new(),
            open_files: 0,
            max_open_files: limit.unwrap_or(1 << 16) / 2,
        }
    }
}

impl Modules {
    /// Every module so far; a [`ModuleId`] is the index.
    pub fn all(&self) -> &[Arc<Module>] {
        &self.list
    }

    /// A file that no process needs to have mapped, by its path in memtrace's own file system.
    ///
    /// # Errors
    /// Those of the system; [`io::ErrorKind::InvalidInput`] when it is not a regular file;
    /// [`io::ErrorKind::OutOfMemory`] when there are too many modules.
    pub fn open(&mut self, path: &Path) -> io::Result<Arc<Module>> {
        let path = std::path::absolute(path)?;
        let file = Root::own()?.open(&path)?;
        let stamp = Stamp::of(&file)?;
        let headers = Headers::read(&ReadCache::new(&file)).unwrap_or_default();
        self.open_files += 1;
        self.push(path, headers, Content::File { file, stamp }, None)
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// The module behind a mapping that process `pid` has, opened now if it is new. None for
    /// mappings without a file, and when there are more than 65,536 modules already.
    pub fn of_mapping(
        &mut self,
        pid: u32,
        mapping: &Mapping,
        root: Option<&Root>,
    ) -> Option<Arc<Module>> {
        match &mapping.backing {
            Backing::File { path, deleted } => self.of_file(pid, mapping, path, *deleted, root),
            Backing::Vdso => self.of_vdso(pid, mapping),
            Backing::Anonymous | Backing::Special(_) => None,
        }
    }

    fn of_file(
        &mut self,
        pid: u32,
        mapping: &Mapping,
        path: &Path,
        deleted: bool,
        root: Option<&Root>,
    ) -> Option<Arc<Module>> {
        let key = (mapping.device, mapping.inode, path.to_owned());
        let known = self.by_file.get(&key).map(|id| &self.list[id.0 as usize]);
        if let Some(module) = known
            && module.is_current()
        {
            return Some(Arc::clone(module));
        }
        let opened = if self.open_files < self.max_open_files {
            open(pid, mapping, path, deleted, root)
        } else {
            Err(io::Error::from_raw_os_error(libc::EMFILE))
        };
        let module = match opened.and_then(|file| Ok((Stamp::of(&file)?, file))) {
            Ok((stamp, file)) => {
                let path = real_path(path, deleted, stamp, root);
                // Not ELF (a JIT's memfd, say): no segments, no build id, no names later.
                let headers = Headers::read(&ReadCache::new(&file)).unwrap_or_default();
                self.open_files += 1;
                self.push(path, headers, Content::File { file, stamp }, root)?
            }
            // An unreadable one is tried again at its next mapping, but listed only once.
            Err(_) if known.is_some_and(|m| !m.is_readable()) => Arc::clone(known?),
            Err(e) => {
                self.push(path.to_owned(), Headers::default(), Content::Unreadable(e.kind()), root)?
            }
        };
        self.by_file.insert(key, module.id);
        Some(module)
    }

    fn of_vdso(&mut self, pid: u32, mapping: &Mapping) -> Option<Arc<Module>> {
        let length = mapping.end.checked_sub(mapping.start).filter(|&l| l <= MAX_VDSO_BYTES)?;
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
        memory.read_exact_at(&mut bytes, mapping.start).ok()?;
        // The kernel maps the same few pages into every process of one kind.
        for id in &self.vdsos {
            let module = &self.list[id.0 as usize];
            if matches!(&module.content, Content::Memory(known) if **known == *bytes) {
                return Some(Arc::clone(module));
            }
        }
        let headers = Headers::read(&*bytes).unwrap_or_default();
        let module = self.push("[vdso]".into(), headers, Content::Memory(bytes.into()), None)?;
        self.vdsos.push(module.id);
        Some(module)
    }

    fn push(
        &mut self,
        path: PathBuf,
        headers: Headers,
        content: Content,
        root: Option<&Root>,
    ) -> Option<Arc<Module>> {
        if self.list.len() >= MAX_MODULES {
            return None;
        }
        let module = Arc::new(Module {
            id: ModuleId(u32::try_from(self.list.len()).ok()?),
            name: path.to_string_lossy().into_owned(),
            path,
            build_id: headers.build_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            headers,
            content,
            root: root.cloned(),
        });
        self.list.push(Arc::clone(&module));
        Some(module)
    }
}

/// Opens the very file that is mapped. Through `map_files` that works for deleted files and memfds
/// too, but needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE; by path it must be the same inode.
fn open(
    pid: u32,
    mapping: &Mapping,
    path: &Path,
    deleted: bool,
    root: Option<&Root>,
) -> io::Result<File> {
    let link = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
    if let Ok(file) = open_kernel_link(&link)
        // The range may hold another file by now. On an overlay the inode numbers can differ for
        // one file, then the name decides.
        && (file.metadata()?.ino() == mapping.inode || names(&link, path, deleted))
    {
        return Ok(file);
    }
    let marked = if deleted { with_mark(path) } else { path.to_owned() };
    // Inside a chroot the kernel still shows the path from memtrace's root.
    let own = Root::own().ok();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "replaced by another file");
    for root in root.into_iter().chain(&own) {
        match root.open(&marked) {
            Ok(file) if file.metadata()?.ino() == mapping.inode => return Ok(file),
            Ok(_) => {}
            Err(e) => failure = e,
        }
    }
    Err(failure)
}

fn names(link: &str, path: &Path, deleted: bool) -> bool {
    fs::read_link(link).is_ok_and(
        |target| {
            if deleted { target == with_mark(path) } else { target == path }
        },
    )
}

fn with_mark(path: &Path) -> PathBuf {
    let mut marked = OsString::from(path);
    marked.push(" (deleted)");
    marked.into()
}

/// The path without the kernel's mark, unless a file is really called `… (deleted)`.
fn real_path(path: &Path, deleted: bool, stamp: Stamp, root: Option<&Root>) -> PathBuf {
    if deleted {
        let marked = with_mark(path);
        let is_same = |file: File| Stamp::of(&file).is_ok_and(|other| other == stamp);
        if root.is_some_and(|root| root.open(&marked).is_ok_and(is_same)) {
            return marked;
        }
    }
    path.to_owned()
}
