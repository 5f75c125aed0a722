//! The executable mappings of a process.

use std::{fs, io};

/// A line of /proc/PID/maps with execute permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    pub start: u64,
    pub end: u64,
    /// Offset in the file, bytes.
    pub offset: u64,
    /// 0: no file.
    pub inode: u64,
    /// As the kernel prints it, with its escapes.
    pub path: String,
}

/// Reads them, in address order and without overlaps.
///
/// # Errors
/// Of the system: ENOENT or ESRCH when the process is gone, EACCES when it may not be looked at.
pub fn executables(pid: u32) -> io::Result<Vec<Executable>> {
    let bytes = fs::read(format!("/proc/{pid}/maps"))?;
    Ok(parse(&bytes))
}

fn parse(bytes: &[u8]) -> Vec<Executable> {
    let mut known_to = 0;
    bytes
        .split(|&b| b == b'\n')
        .filter_map(line)
        // The file is read in pieces while the process may change its mappings.
        .filter(|m| {
            let fits = m.start >= known_to && m.start < m.end;
            if fits {
                known_to = m.end;
            }
            fits
        })
        .collect()
}

fn line(bytes: &[u8]) -> Option<Executable> {
    let text = String::from_utf8_lossy(bytes);
    let mut fields = text.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    if fields.next()?.as_bytes().get(2) != Some(&b'x') {
        return None;
    }
    let hex = |s| u64::from_str_radix(s, 16).ok();
    let (start, end, offset) = (hex(start)?, hex(end)?, hex(fields.next()?)?);
    let inode = fields.nth(1)?.parse().ok()?;
    let path = fields.next().unwrap_or_default().trim_start().to_owned();
    Some(Executable { start, end, offset, inode, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executable_lines_count_and_overlaps_are_dropped() {
        let text = b"1000-2000 r--p 00000000 08:01 7 /a b\n\
            2000-4000 r-xp 00001000 08:01 7                          /a b (deleted)\n\
            3000-5000 r-xp 00001000 08:01 8 /c\n\
            5000-6000 rwxp 00000000 00:00 0 \n\
            7000-8000 r-xp 00000000 00:00 0                          [vdso]\n\
            garbage\n";
        let found = parse(text);
        assert_eq!(
            found.iter().map(|m| (m.start, m.end, m.inode, &*m.path)).collect::<Vec<_>>(),
            [
                (0x2000, 0x4000, 7, "/a b (deleted)"),
                (0x5000, 0x6000, 0, ""),
                (0x7000, 0x8000, 0, "[vdso]")
            ]
        );
        assert_eq!(found[0].offset, 0x1000);
    }

    #[test]
    fn own_mappings_include_this_function() {
        let here = own_mappings_include_this_function as *const () as u64;
        let found = executables(std::process::id()).expect("own maps");
        assert!(found.iter().any(|m| m.start <= here && here < m.end));
    }
}
