//! A process that does nothing: the task on which events are opened that belong to no target.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::target::raw_clone::{Side, raw_clone, wait};

/// A sleeping child with an address space of its own. It ends when this is dropped, and by itself
/// when the last copy of the pipe's write end is gone.
///
/// It must not be memtrace itself: the task's address space gets the breakpoints. Its death harms
/// nothing: an event and its program live as long as the descriptor.
#[derive(Debug)]
pub(super) struct Holder {
    pid: i32,
    alive: Option<OwnedFd>,
}

impl Holder {
    pub(super) fn start() -> io::Result<Self> {
        let (wait_end, alive) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // Exit signal 0: nobody's SIGCHLD handler or waitpid(-1) learns of this child.
        // SAFETY: no memory is shared; the child calls nothing but `sleep_until_closed`, which only
        // makes system calls and never returns.
        match unsafe { raw_clone(0) }? {
            (Side::Child, _) => sleep_until_closed(wait_end.as_raw_fd()),
            (Side::Parent(pid), _) => Ok(Holder { pid, alive: Some(alive) }),
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// The pipe end whose closing ends the holder.
    pub(super) fn alive(&self) -> Option<&OwnedFd> {
        self.alive.as_ref()
    }

    /// Ends the process and waits for that.
    pub(super) fn end(&mut self) {
        if self.alive.take().is_none() {
            return;
        }
        // SAFETY: our own child, not yet waited for, so the pid is still its.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        let _ = wait(self.pid, true);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.end();
    }
}

/// The child's whole life. Async-signal-safe: system calls only.
fn sleep_until_closed(fd: i32) -> ! {
    // SAFETY: raw system calls with plain numbers and pointers into this frame; this process is
    // single-threaded and owns its descriptors.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"memtrace-hold".as_ptr(), 0, 0, 0);
        if fd > 0 {
            libc::syscall(libc::SYS_close_range, 0, fd - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, fd + 1, u32::MAX, 0);
        let mut byte = 0u8;
        while libc::read(fd, (&raw mut byte).cast(), 1) < 0
            && *libc::__errno_location() == libc::EINTR
        {}
        libc::syscall(libc::SYS_exit_group, 0);
    }
    unreachable!("exit_group does not return")
}
