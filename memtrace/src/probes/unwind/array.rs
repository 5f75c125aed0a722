//! A BPF array as shared memory.

use std::{
    ffi::c_void,
    io,
    os::fd::{AsFd, OwnedFd},
    ptr,
    sync::atomic::AtomicU64,
};

use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// An array of 64-bit words that the kernel side reads at the same time.
pub struct WordArray {
    start: *mut c_void,
    words: usize,
    bytes: usize,
    /// Keeps the map alive without a loaded program.
    _map: Option<OwnedFd>,
}

// SAFETY: the memory is shared with the kernel in any case and only handed out as atomics.
unsafe impl Send for WordArray {}

impl WordArray {
    /// Maps a BPF array created with `BPF_F_MMAPABLE` whose values are whole words.
    ///
    /// # Errors
    /// Of the system, EPERM for a frozen map.
    pub fn map(data: MapData) -> io::Result<Self> {
        let info = data.info().map_err(io::Error::other)?;
        let words = info.max_entries() as usize * (info.value_size() as usize).div_ceil(8);
        let bytes = round_to_pages(words * 8);
        let map = data.fd().as_fd().try_clone_to_owned()?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &map,
                0,
            )?
        };
        Ok(Self { start, words, bytes, _map: Some(map) })
    }

    /// Memory of this process alone.
    ///
    /// # Errors
    /// Of the system.
    pub fn anonymous(words: usize) -> io::Result<Self> {
        let bytes = round_to_pages(words * 8);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        Ok(Self { start, words, bytes, _map: None })
    }

    /// The words. BPF programs may read any of them at any time.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is at least this long, page-aligned, and lives as long as `self`.
        // Nothing but atomics accesses it from this side.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.words) }
    }
}

impl Drop for WordArray {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows it any more.
        // An error would mean that it isn't mapped, which is what is wanted.
        let _unmapped = unsafe { munmap(self.start, self.bytes) };
    }
}

fn round_to_pages(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(rustix::param::page_size())
}
