//! Where a binary says that its debug information is.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use object::Object;

use super::BuildId;

/// `.gnu_debuglink`: a file name without a directory, and the CRC-32 of that file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebugLink {
    pub name: PathBuf,
    pub crc: u32,
}

/// `.gnu_debugaltlink`: the supplementary file that dwz moved shared debug information to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AltLink {
    /// Absolute, or relative to the directory of the file with the link.
    pub path: PathBuf,
    pub build_id: BuildId,
}

/// The debug link of a file. None when there is none, when it is broken, or when its name is not a
/// plain one (it would lead out of the directories that are searched).
pub fn debug_link(file: &object::File<'_>) -> Option<DebugLink> {
    let (name, crc) = file.gnu_debuglink().ok()??;
    let name = Path::new(OsStr::from_bytes(name));
    let mut components = name.components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(plain)), None) if plain == name.as_os_str() => {
            Some(DebugLink { name: name.to_owned(), crc })
        }
        _ => None,
    }
}

/// The link to the supplementary file. None when there is none or it is broken.
pub fn alt_link(file: &object::File<'_>) -> Option<AltLink> {
    let (path, build_id) = file.gnu_debugaltlink().ok()??;
    Some(AltLink { path: OsStr::from_bytes(path).into(), build_id: BuildId::new(build_id)? })
}
