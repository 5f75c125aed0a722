//! Debug information that lives in files of its own.

use std::path::{Path, PathBuf};

use crate::{
    elf::{self, AltLink, BuildId, Image},
    process::Root,
};

use super::Module;

/// A file that was found, and where: links in it are relative to its directory.
#[derive(Debug)]
pub(super) struct DebugFile {
    pub image: Image,
    pub path: PathBuf,
}

/// Checking a debug link means reading the whole file, so there must be an end to it.
const MAX_CHECKED_BYTES: usize = 8 << 30;

/// Where to look.
#[derive(Debug)]
pub(super) struct Finder<'a> {
    /// `/usr/lib/debug` and its like.
    directories: &'a [PathBuf],
    /// The target's root first, then memtrace's own.
    roots: Vec<&'a Root>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(
        directories: &'a [PathBuf],
        module: &'a Module,
        own: Option<&'a Root>,
    ) -> Self {
        Self { directories, roots: module.root().into_iter().chain(own).collect() }
    }

    /// The separate debug file of a module: by build id, else by its debug link.
    pub(super) fn debug_file(&self, module: &Module, file: &object::File<'_>) -> Option<DebugFile> {
        let by_id = elf::build_id(file).and_then(|id| self.by_build_id(&id));
        by_id.or_else(|| self.by_debug_link(module.path(), file))
    }

    /// The file that dwz moved shared debug information to. `path` is the file with the link.
    pub(super) fn supplementary(&self, link: &AltLink, path: &Path) -> Option<DebugFile> {
        let linked = path.parent().map(|directory| directory.join(&link.path));
        self.open_first(linked.into_iter(), |image| has_build_id(image, &link.build_id))
            .or_else(|| self.by_build_id(&link.build_id))
    }

    fn by_build_id(&self, id: &BuildId) -> Option<DebugFile> {
        let hex = id.to_string();
        let (first, rest) = hex.split_at(2);
        let name = format!(".build-id/{first}/{rest}.debug");
        let paths = self.directories.iter().map(|d| d.join(&name));
        self.open_first(paths, |image| has_build_id(image, id))
    }

    fn by_debug_link(&self, module: &Path, file: &object::File<'_>) -> Option<DebugFile> {
        let link = elf::debug_link(file)?;
        let directory = module.parent()?;
        let beside = [directory.join(&link.name), directory.join(".debug").join(&link.name)];
        let central = self.directories.iter().map(|d| {
            let below_root = directory.strip_prefix("/").unwrap_or(directory);
            d.join(below_root).join(&link.name)
        });
        self.open_first(beside.into_iter().chain(central), |image| {
            image.bytes().len() <= MAX_CHECKED_BYTES && crc32fast::hash(image.bytes()) == link.crc
        })
    }

    fn open_first(
        &self,
        paths: impl Iterator<Item = PathBuf>,
        accept: impl Fn(&Image) -> bool,
    ) -> Option<DebugFile> {
        for path in paths {
            for root in &self.roots {
                let image = root.open(&path).ok().and_then(|file| Image::map(&file).ok());
                if let Some(image) = image.filter(&accept) {
                    return Some(DebugFile { image, path });
                }
            }
        }
        None
    }
}

fn has_build_id(image: &Image, id: &BuildId) -> bool {
    image.parse().is_ok_and(|file| elf::build_id(&file).as_ref() == Some(id))
}
