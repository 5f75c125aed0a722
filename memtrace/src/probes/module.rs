//! A file that a program is made of, held open.

use std::{
    ffi::OsStr,
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::elf::{ElfError, Image, Linkage, linkage};

/// An executable or shared library.
#[derive(Debug)]
pub struct Module {
    /// As the process sees it (in a container, the path inside).
    pub path: PathBuf,
    /// The name is gone from the file system: probes need the open file.
    pub deleted: bool,
    /// Open for reading; `/proc/self/fd/N` names it even where `path` does not.
    pub file: File,
    pub(super) image: Image,
    pub(super) linkage: Linkage,
    /// Device and inode.
    pub(super) id: (u64, u64),
}

impl Module {
    /// # Errors
    /// All of [`ElfError`]: most files that are mapped executable are ELF, but not all.
    pub(super) fn new(path: PathBuf, deleted: bool, file: File) -> Result<Self, ElfError> {
        let status = file.metadata()?;
        let image = Image::map(&file)?;
        let linkage = linkage(image.bytes())?;
        Ok(Module { path, deleted, file, image, linkage, id: (status.dev(), status.ino()) })
    }

    /// Whether a DT_NEEDED entry or a preload asks for this file.
    pub(super) fn answers_to(&self, name: &OsStr) -> bool {
        let file_name = Path::new(name).file_name();
        self.linkage.soname.as_deref() == Some(name)
            || (file_name.is_some() && self.path.file_name() == file_name)
    }
}

/// The files of a program in the order in which the dynamic linker looks symbols up: executable,
/// preloads, then what they need, breadth first.
///
/// * `start`: the executable and the preloaded libraries, as indices.
/// * `find`: the index of the file that answers to a needed name, None when there is none.
/// * `linkage`: DT_NEEDED of a file by index.
pub(super) fn lookup_order<M>(
    modules: &mut M,
    start: Vec<usize>,
    needed: impl Fn(&M, usize) -> Vec<std::ffi::OsString>,
    mut find: impl FnMut(&mut M, usize, &OsStr) -> Option<usize>,
) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    for index in start {
        if !order.contains(&index) {
            order.push(index);
        }
    }
    let mut next = 0;
    while next < order.len() {
        let from = order[next];
        next += 1;
        for name in needed(modules, from) {
            if let Some(index) = find(modules, from, &name)
                && !order.contains(&index)
            {
                order.push(index);
            }
        }
    }
    order
}
