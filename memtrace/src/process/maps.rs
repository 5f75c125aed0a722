//! The executable mappings of a process, from /proc/PID/maps or from perf mmap events.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, BufRead, BufReader},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
};

use super::ProcessError;

/// A device number, in the kernel's two parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

/// A piece of a process's address space; where nothing else is said, one that code can run from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Offset in the file of the byte at `start`, bytes.
    pub offset: u64,
    /// As the kernel shows it in maps. Differs from `stat`'s on btrfs and some overlay mounts.
    pub device: Device,
    pub inode: u64,
    pub backing: Backing,
}

/// What is mapped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Backing {
    /// A file; memfds are files too, named `/memfd:NAME`.
    File {
        /// As the process sees it, without the mark that the kernel puts behind deleted files.
        path: PathBuf,
        /// The name carried the kernel's ` (deleted)` mark. A file may also be really called so:
        /// only the file system can tell.
        deleted: bool,
    },
    /// The kernel's own little library of system calls.
    Vdso,
    /// No file: JIT code, or a stack or heap that is executable.
    Anonymous,
    /// Anything else with a name: `[vsyscall]`, `[uprobes]`, `anon_inode:…`.
    Special(String),
}

impl Backing {
    /// From a name as the kernel gives it, not escaped.
    pub fn from_name(name: &[u8]) -> Self {
        match name {
            b"" | b"//anon" | b"[anon]" | b"[heap]" | b"[stack]" => Self::Anonymous,
            b"[vdso]" => Self::Vdso,
            _ if name.starts_with(b"[anon:") || name.starts_with(b"[anon_shmem:") => {
                Self::Anonymous
            }
            _ if name.starts_with(b"/") => match name.strip_suffix(b" (deleted)") {
                Some(rest) => Self::File { path: path(rest), deleted: true },
                None => Self::File { path: path(name), deleted: false },
            },
            _ => Self::Special(String::from_utf8_lossy(name).into_owned()),
        }
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// The executable mappings of a process, in address order. Empty for zombies and kernel threads.
///
/// # Errors
/// All of [`ProcessError`].
pub fn executable(pid: u32) -> Result<Vec<Mapping>, ProcessError> {
    read(pid, is_executable)
}

/// The mappings of files, executable or not, in address order.
///
/// # Errors
/// All of [`ProcessError`].
pub fn files(pid: u32) -> Result<Vec<Mapping>, ProcessError> {
    let mut mappings = read(pid, |_| true)?;
    mappings.retain(|mapping| matches!(mapping.backing, Backing::File { .. }));
    Ok(mappings)
}

fn read(pid: u32, is_wanted: fn(&str) -> bool) -> Result<Vec<Mapping>, ProcessError> {
    let fail = |e| ProcessError::from_io(pid, "maps", e);
    let file = File::open(format!("/proc/{pid}/maps")).map_err(fail)?;
    parse(BufReader::with_capacity(64 << 10, file), is_wanted).map_err(fail)
}

/// Parses text in the format of /proc/PID/maps, keeping executable mappings. Lines that don't have
/// that format are skipped.
///
/// # Errors
/// Those of the reader.
pub fn parse_executable(reader: impl BufRead) -> io::Result<Vec<Mapping>> {
    parse(reader, is_executable)
}

fn is_executable(permissions: &str) -> bool {
    permissions.as_bytes().get(2) == Some(&b'x')
}

/// `is_wanted` is asked about the permissions, `r-xp` for example.
fn parse(mut reader: impl BufRead, is_wanted: fn(&str) -> bool) -> io::Result<Vec<Mapping>> {
    let mut mappings = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(mappings);
        }
        let content = line.strip_suffix(b"\n").unwrap_or(&line);
        mappings.extend(parse_line(content, is_wanted).filter(|m| m.start < m.end));
    }
}

/// `start-end perms offset major:minor inode   name`; None when it is not wanted or not a line of
/// maps.
fn parse_line(line: &[u8], is_wanted: fn(&str) -> bool) -> Option<Mapping> {
    let mut rest = line;
    let mut field = || {
        let end = rest.iter().position(|&b| b == b' ').unwrap_or(rest.len());
        let (field, tail) = rest.split_at(end);
        rest = tail.strip_prefix(b" ").unwrap_or(tail);
        std::str::from_utf8(field).ok()
    };
    let (start, end) = field()?.split_once('-')?;
    if !is_wanted(field()?) {
        return None;
    }
    let offset = field()?;
    let (major, minor) = field()?.split_once(':')?;
    let inode = field()?;
    // The name is padded to a column with spaces. A name itself begins with `/` or `[`.
    let padding = rest.iter().position(|&b| b != b' ').unwrap_or(rest.len());
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        offset: u64::from_str_radix(offset, 16).ok()?,
        device: Device {
            major: u32::from_str_radix(major, 16).ok()?,
            minor: u32::from_str_radix(minor, 16).ok()?,
        },
        inode: inode.parse().ok()?,
        backing: Backing::from_name(&unescape(&rest[padding..])),
    })
}

/// The kernel writes a newline in a name as `\012` and escapes nothing else (`seq_path` with
/// "\n"), so a backslash that doesn't begin that very sequence stands for itself. A name that holds
/// the four characters `\012` can't be told from one with a newline.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = OsString::with_capacity(name.len()).into_vec();
    let mut rest = name;
    while let Some((&first, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(br"\012") {
            out.push(b'\n');
            rest = after;
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Vec<Mapping> {
        parse_executable(text).expect("no I/O error in memory")
    }

    fn file(path: &str, deleted: bool) -> Backing {
        Backing::File { path: path.into(), deleted }
    }

    #[test]
    fn only_executable_lines_are_kept() {
        let maps = parse(
            b"55d0a0000000-55d0a0001000 r--p 00000000 fe:01 1234                       /bin/x\n\
              55d0a0001000-55d0a0003000 r-xp 00001000 fe:01 1234                       /bin/x\n\
              7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]\n",
        );
        assert_eq!(
            maps,
            [Mapping {
                start: 0x55d0_a000_1000,
                end: 0x55d0_a000_3000,
                offset: 0x1000,
                device: Device { major: 0xfe, minor: 1 },
                inode: 1234,
                backing: file("/bin/x", false),
            }]
        );
    }

    #[test]
    fn hostile_names_keep_every_character() {
        let backing = |name: &str| {
            let line = format!("1000-2000 r-xp 00000000 00:10 5      {name}\n");
            parse(line.as_bytes()).remove(0).backing
        };
        assert_eq!(backing("/tmp/a  b c "), file("/tmp/a  b c ", false));
        assert_eq!(backing(r"/tmp/new\012line"), file("/tmp/new\nline", false));
        assert_eq!(backing(r"/tmp/back\slash\01"), file(r"/tmp/back\slash\01", false));
        assert_eq!(backing("/tmp/lib.so (deleted)"), file("/tmp/lib.so", true));
        assert_eq!(backing("/tmp/r-xp 00 [vdso]"), file("/tmp/r-xp 00 [vdso]", false));
        assert_eq!(backing("/memfd:jit (deleted)"), file("/memfd:jit", true));
        assert_eq!(backing("[vdso]"), Backing::Vdso);
        assert_eq!(backing("[uprobes]"), Backing::Special("[uprobes]".into()));
        assert_eq!(backing("[anon:v8 code]"), Backing::Anonymous);
        assert_eq!(backing(""), Backing::Anonymous);
        assert_eq!(Backing::from_name(b"//anon"), Backing::Anonymous);
    }

    #[test]
    fn name_that_is_not_utf8_survives() {
        let maps = parse(b"1000-2000 r-xp 00000000 00:10 5      /tmp/\xff\xfe\n");
        let expected = PathBuf::from(OsString::from_vec(b"/tmp/\xff\xfe".to_vec()));
        assert_eq!(maps[0].backing, Backing::File { path: expected, deleted: false });
    }

    #[test]
    fn lines_that_are_no_mappings_are_skipped() {
        assert_eq!(
            parse(b"\n\xff\n1-2\n1000-2000\n2000-1000 r-xp 0 0:0 0 \nx-y r-xp 0 0:0 0\n"),
            []
        );
    }

    #[test]
    fn own_code_lies_in_an_executable_mapping_of_the_own_binary() {
        let address = own_code_lies_in_an_executable_mapping_of_the_own_binary as *const () as u64;
        let maps = executable(std::process::id()).expect("own maps");
        assert!(maps.is_sorted_by_key(|m| m.start));
        let mine = maps.iter().find(|m| (m.start..m.end).contains(&address)).expect("mapped");
        let exe = std::env::current_exe().expect("own path");
        assert_eq!(mine.backing, Backing::File { path: exe, deleted: false });
        assert!(maps.iter().any(|m| m.backing == Backing::Vdso));
    }

    #[test]
    fn vanished_process_is_no_such_process() {
        assert!(matches!(executable(0x7fff_fff0), Err(ProcessError::NoSuchProcess { .. })));
    }
}
