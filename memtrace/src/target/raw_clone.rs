//! A child process without glibc's fork.

use std::io;

/// Which side of the call this is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The child's pid.
    Parent(i32),
    Child,
}

/// `clone(2)` with `flags` (and the exit signal in the low byte), with every signal blocked in the
/// child and the caller's mask as it was in the parent. Returns the caller's mask too.
///
/// glibc's fork runs handlers and takes locks that another thread may hold at that moment; this
/// does not. Signals are blocked so that no handler of the parent's runs in the child.
///
/// # Safety
///
/// `flags` must not share memory (no `CLONE_VM`). The child may only make system calls: no
/// allocation, no locks, no panic; and it must not return to the caller's caller.
pub(crate) unsafe fn raw_clone(flags: i32) -> io::Result<(Side, libc::sigset_t)> {
    // SAFETY: sigset_t is a plain bit set, for which zero is valid; the pointers are to locals.
    let before = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        before
    };
    // SAFETY: no memory is shared and no stack is given, so the child goes on with a copy of ours.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags as libc::c_ulong, 0, 0, 0, 0) };
    if pid == 0 {
        return Ok((Side::Child, before));
    }
    let error = io::Error::last_os_error();
    // SAFETY: a mask that was just read.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    if pid < 0 { Err(error) } else { Ok((Side::Parent(pid as i32), before)) }
}

/// Waits for a child of ours, also for one without exit signal, and returns its raw status; `None`
/// when it runs on and `block` is false.
pub(crate) fn wait(pid: i32, block: bool) -> io::Result<Option<i32>> {
    let flags = libc::__WALL | if block { 0 } else { libc::WNOHANG };
    loop {
        let mut status = 0;
        // SAFETY: the status goes to a local.
        match unsafe { libc::waitpid(pid, &mut status, flags) } {
            0 => return Ok(None),
            done if done > 0 => return Ok(Some(status)),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// A descriptor that becomes readable when the process ends.
pub(crate) fn pidfd(pid: i32) -> io::Result<std::os::fd::OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // CLOEXEC is implied.
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}
