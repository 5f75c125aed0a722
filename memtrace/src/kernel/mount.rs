//! File systems of the kernel's own, mounted for one descriptor.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// `mount(8)` without a place in the tree: the mount lives as long as the returned descriptor.
/// Linux 5.2.
pub(crate) fn private_mount(kind: &CStr) -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: u32 = 1;
    const FSMOUNT_CLOEXEC: u32 = 1;
    const FSCONFIG_CMD_CREATE: u32 = 6;
    let check = |done: libc::c_long| {
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as i32) }
    };
    // SAFETY: the name is NUL-terminated; the returned descriptor is ours alone.
    let context = unsafe {
        let fd = check(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC))?;
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: this command takes no key and no value.
    check(unsafe {
        let null = std::ptr::null::<u8>();
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, null, null, 0)
    })?;
    // SAFETY: plain numbers; the returned descriptor is ours alone.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
