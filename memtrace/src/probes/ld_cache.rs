//! glibc's /etc/ld.so.cache: library names and where they are.

use std::{
    ffi::OsStr,
    fs::File,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Magic and version of the format since glibc 2.2. Until 2.32 it followed an older table.
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER_BYTES: usize = 48;
const ENTRY_BYTES: usize = 24;
/// `FLAG_ELF_LIBC6 | FLAG_X8664_LIB64`.
const X86_64: u32 = 0x0303;
/// Real caches have some hundred KiB.
const MAX_BYTES: u64 = 64 << 20;

/// A cache in memory; empty when there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct LdCache {
    /// From the magic on: the format's offsets count from there.
    bytes: Vec<u8>,
}

impl LdCache {
    /// A missing or unreadable cache is an empty one, as for the dynamic linker.
    pub fn load(path: &Path) -> Self {
        let mut bytes = Vec::new();
        if let Ok(file) = File::open(path) {
            let _ = file.take(MAX_BYTES).read_to_end(&mut bytes);
        }
        Self::parse(bytes)
    }

    fn parse(mut bytes: Vec<u8>) -> Self {
        match bytes.windows(MAGIC.len()).position(|window| window == MAGIC) {
            Some(start) => {
                bytes.drain(..start);
                Self { bytes }
            }
            None => Self::default(),
        }
    }

    /// Where the 64-bit x86 library of that name is, best first. Variants for particular processors
    /// (hwcaps) are left out.
    pub fn paths(&self, name: &OsStr) -> Vec<PathBuf> {
        let count = self.word(MAGIC.len()).unwrap_or(0) as usize;
        let entries = self.bytes.get(HEADER_BYTES..).unwrap_or_default();
        entries
            .chunks_exact(ENTRY_BYTES)
            .take(count)
            .enumerate()
            .filter_map(|(index, _)| {
                let at = HEADER_BYTES + index * ENTRY_BYTES;
                let hwcap = (self.word(at + 16)?, self.word(at + 20)?);
                if self.word(at)? != X86_64 || hwcap != (0, 0) {
                    return None;
                }
                let key = self.text(self.word(at + 4)?)?;
                (key == name.as_bytes()).then(|| self.text(self.word(at + 8)?))?
            })
            .map(|path| PathBuf::from(OsStr::from_bytes(path)))
            .collect()
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    fn text(&self, at: u32) -> Option<&[u8]> {
        let rest = self.bytes.get(at as usize..)?;
        Some(&rest[..rest.iter().position(|&b| b == 0)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> Vec<u8> {
        let mut bytes = b"old table".to_vec();
        let entries = [
            (X86_64, 0u64, "liba.so", "/a"),
            (X86_64, 9, "liba.so", "/hwcap"),
            (3, 0, "liba.so", "/32"),
        ];
        let mut strings = Vec::new();
        let mut table = Vec::new();
        let base = HEADER_BYTES + entries.len() * ENTRY_BYTES;
        for (flags, hwcap, name, path) in entries {
            let mut place = |text: &str| {
                let at = (base + strings.len()) as u32;
                strings.extend_from_slice(text.as_bytes());
                strings.push(0);
                at
            };
            let (key, value) = (place(name), place(path));
            for word in [flags, key, value, 0] {
                table.extend_from_slice(&word.to_le_bytes());
            }
            table.extend_from_slice(&hwcap.to_le_bytes());
        }
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        bytes.resize(9 + HEADER_BYTES, 0);
        bytes.extend(table);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn entries_for_this_machine_are_found() {
        let cache = LdCache::parse(cache());
        assert_eq!(cache.paths(OsStr::new("liba.so")), [Path::new("/a")]);
        assert!(cache.paths(OsStr::new("libb.so")).is_empty());
    }

    #[test]
    fn cut_caches_answer_nothing_wrong() {
        let whole = cache();
        for cut in 0..whole.len() {
            let paths = LdCache::parse(whole[..cut].to_vec()).paths(OsStr::new("liba.so"));
            assert!(paths.is_empty() || paths == [Path::new("/a")], "{cut}: {paths:?}");
        }
    }

    #[test]
    fn the_systems_cache_knows_libc() {
        let paths = LdCache::load(Path::new("/etc/ld.so.cache")).paths(OsStr::new("libc.so.6"));
        assert!(paths.first().is_some_and(|path| path.ends_with("libc.so.6")), "{paths:?}");
    }
}
