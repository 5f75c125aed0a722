//! MiniDebugInfo: a symbol table, xz-compressed, in the section `.gnu_debugdata`.

use object::{Object, ObjectSection};

use super::{ElfError, Image};

/// Unpacked, the largest real one (of Fedora's Chromium) has less than 32 MiB.
const MAX_BYTES: u64 = 256 << 20;

/// The ELF file inside `.gnu_debugdata`, unpacked. None when there is no such section.
///
/// # Errors
/// [`ElfError::TooLarge`] when it would unpack to more than 256 MiB, [`ElfError::Malformed`] when
/// it is not xz, or xz with filters or checks that nobody uses for this (SHA-256, BCJ).
pub fn mini_debug_info(file: &object::File<'_>) -> Result<Option<Image>, ElfError> {
    let Some(section) = file.section_by_name(".gnu_debugdata") else { return Ok(None) };
    let packed = section.data()?;
    let bytes = unpacked_size(packed)
        .ok_or_else(|| ElfError::Malformed(".gnu_debugdata is not an xz stream".into()))?;
    if bytes > MAX_BYTES {
        return Err(ElfError::TooLarge { what: ".gnu_debugdata", bytes, limit: MAX_BYTES });
    }
    let mut unpacked = Vec::new();
    lzma_rs::xz_decompress(&mut &*packed, &mut unpacked)
        .map_err(|e| ElfError::Malformed(format!(".gnu_debugdata: {e:?}")))?;
    Ok(Some(Image::from_bytes(unpacked)))
}

/// How much the stream will unpack to. lzma-rs has no limit of its own, and the sizes in xz headers
/// are optional and may lie; but every LZMA2 chunk states both its sizes, and the decoder keeps to
/// them, so a walk over the chunk headers gives the exact sum.
fn unpacked_size(packed: &[u8]) -> Option<u64> {
    let mut rest = packed.strip_prefix(b"\xfd7zXZ\0")?;
    // Stream flags: a zero byte, the kind of check. Then their CRC-32.
    let check_bytes = match take(&mut rest, 6)?[1] & 0x0f {
        0 => 0,
        1 => 4,
        4 => 8,
        _ => return None,
    };
    let mut total = 0_u64;
    loop {
        // A block begins with its header's size in words; 0 begins the index, the end of blocks.
        let words = usize::from(*rest.first()?);
        if words == 0 {
            return Some(total);
        }
        take(&mut rest, (words + 1) * 4)?;
        let block = rest.len();
        total = total.checked_add(chunks_size(&mut rest)?)?;
        let used = block - rest.len();
        take(&mut rest, used.next_multiple_of(4) - used + check_bytes)?;
    }
}

/// Walks over one block's LZMA2 chunks, the end mark included.
fn chunks_size(rest: &mut &[u8]) -> Option<u64> {
    let mut total = 0_u64;
    loop {
        let control = take(rest, 1)?[0];
        let (unpacked, skip) = match control {
            0 => return Some(total),
            1 | 2 => {
                let size = big_endian(take(rest, 2)?) + 1;
                (size, size as usize)
            }
            0x80.. => {
                let sizes = take(rest, 4)?;
                let unpacked = (u64::from(control & 0x1f) << 16 | big_endian(&sizes[..2])) + 1;
                let new_properties = usize::from(control >= 0xc0);
                (unpacked, big_endian(&sizes[2..]) as usize + 1 + new_properties)
            }
            _ => return None,
        };
        take(rest, skip)?;
        total = total.checked_add(unpacked)?;
    }
}

fn big_endian(two: &[u8]) -> u64 {
    two.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    fn xz(input: &[u8], arguments: &[&str]) -> Vec<u8> {
        let mut child = Command::new("xz")
            .args(arguments)
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test needs the xz program (package xz-utils)");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().expect("xz");
        writer.join().expect("no panic").expect("write");
        output.stdout
    }

    #[test]
    fn size_is_known_before_unpacking() {
        let mut input: Vec<u8> = b"some text ".repeat(100_000);
        // Noise, so that there are stored chunks too.
        let mut state = 1_u32;
        input.extend((0..500_000).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        }));
        for arguments in [&["-6"][..], &["-Cnone"], &["-Ccrc32"], &["-T2", "--block-size=300000"]] {
            let packed = xz(&input, arguments);
            assert_eq!(unpacked_size(&packed), Some(input.len() as u64), "{arguments:?}");
            let mut unpacked = Vec::new();
            lzma_rs::xz_decompress(&mut &*packed, &mut unpacked).expect("unpack");
            assert!(unpacked == input, "{arguments:?}");
        }
    }

    #[test]
    fn truncated_stream_is_refused() {
        let packed = xz(&[7; 10_000], &["-6"]);
        for length in 0..packed.len() - 40 {
            assert_eq!(unpacked_size(&packed[..length]), None, "{length}");
        }
    }
}
