//! A command that is held before its first instruction, so that probes can be in place.
//!
//! The child is forked at once and waits on a pipe; what is attached to its pid stays attached
//! through the exec. stdin, stdout, stderr, environment, working directory, process group, limits
//! and ignored signals are memtrace's own, as they would be without memtrace; SIGPIPE, which Rust
//! ignores, is as usual again. Spawn before the limit of open files is raised.
//!
//! Signals: the command is in memtrace's process group, so Ctrl-C at a terminal reaches both. What
//! only memtrace gets (SIGTERM, SIGHUP) it passes on with [`RunningCommand::signal`], as `perf
//! record` does: who ends the recorder means the command.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::ptr;

use rustix::fs::{Access, access};
use rustix::pipe::{PipeFlags, pipe_with};

use super::raw_clone::{Side, pidfd, raw_clone, wait};

/// Why a command could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No such file, or nothing of that name in `PATH`.
    #[error("{command}: command not found")]
    NotFound {
        /// As it was given.
        command: String,
    },
    /// There is a file, but it cannot be executed.
    #[error("{command}: cannot execute: {source}")]
    NotExecutable {
        /// As it was given.
        command: String,
        /// What exec said.
        source: io::Error,
    },
    /// A NUL byte in the command or an argument.
    #[error("the command contains a NUL byte")]
    NulByte,
    /// No process could be made, or it was killed before it began.
    #[error("cannot start {command}: {source}")]
    Failed {
        /// As it was given.
        command: String,
        /// The cause.
        source: io::Error,
    },
}

impl SpawnError {
    /// The exit code that shells use for this: 127 when not found, 126 when not executable, else
    /// 125 as `env(1)` and `timeout(1)` do for their own failures.
    pub fn exit_code(&self) -> u8 {
        match self {
            SpawnError::NotFound { .. } => 127,
            SpawnError::NotExecutable { .. } => 126,
            SpawnError::NulByte | SpawnError::Failed { .. } => 125,
        }
    }
}

/// A child that waits before exec. Dropping it ends it without it having run anything.
#[derive(Debug)]
pub struct HeldCommand {
    command: String,
    executable: Option<PathBuf>,
    pid: i32,
    /// `None` once it has been let go.
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    child: Child,
    release: OwnedFd,
    report: OwnedFd,
}

/// A process of ours that has not been waited for.
#[derive(Debug)]
struct Child {
    pid: i32,
    pidfd: OwnedFd,
}

/// A command that runs.
#[derive(Debug)]
pub struct RunningCommand {
    child: Child,
    status: Option<ExitStatus>,
}

impl HeldCommand {
    /// Forks and holds `command` with its arguments, the first of which is its name. The name is
    /// looked up as `execvp(3)` does.
    pub fn new(command: &[OsString]) -> Result<Self, SpawnError> {
        let name = command.first().map_or(OsStr::new(""), OsString::as_os_str);
        let display = name.to_string_lossy().into_owned();
        let failed = |source: io::Error| SpawnError::Failed { command: display.clone(), source };
        let candidates = candidates(name, std::env::var_os("PATH").as_deref());
        let executable = candidates.iter().find(|path| is_executable(path)).cloned();
        let mut image = Image::new(&candidates, command)?;

        let (held, release) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let (report, outcome) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let ends = ChildEnds {
            held: held.as_raw_fd(),
            outcome: outcome.as_raw_fd(),
            of_parent: [release.as_raw_fd(), report.as_raw_fd()],
        };
        // SAFETY: no memory is shared; the child does nothing but `run_child`, which only makes
        // system calls, on memory prepared before, and does not return.
        let pid = match unsafe { raw_clone(libc::SIGCHLD) }.map_err(failed)? {
            (Side::Child, mask) => run_child(&ends, &mut image, &mask),
            (Side::Parent(pid), _) => pid,
        };
        let child = match pidfd(pid) {
            Ok(pidfd) => Child { pid, pidfd },
            Err(error) => {
                // With the pipe closed the child ends by itself.
                drop(release);
                let _ = wait(pid, true);
                return Err(failed(error));
            }
        };
        let held = Some(Held { child, release, report });
        Ok(HeldCommand { command: display, executable, pid, held })
    }

    /// The child's process id, before and after the exec.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The file that the exec will most likely be of; `None` when it is going to fail. May be a
    /// script.
    pub fn executable(&self) -> Option<&Path> {
        self.executable.as_deref()
    }

    /// Lets it go and returns when its exec has succeeded or failed.
    pub fn release(mut self) -> Result<RunningCommand, SpawnError> {
        let command = std::mem::take(&mut self.command);
        let failed = |source: io::Error| SpawnError::Failed { command: command.clone(), source };
        let Some(Held { child, release, report }) = self.held.take() else {
            return Err(failed(io::ErrorKind::NotFound.into()));
        };
        let mut errno = [0u8; 4];
        let outcome =
            write_all(release.as_fd(), &[1]).and_then(|()| read_up_to(report.as_fd(), &mut errno));
        drop(release);
        match outcome {
            // Closed by a successful exec, or by death.
            Ok(0) => Ok(RunningCommand { child, status: None }),
            Ok(4) => {
                let _ = wait(child.pid, true);
                let source = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
                Err(match source.raw_os_error() {
                    Some(libc::ENOENT | libc::ENOTDIR) => SpawnError::NotFound { command },
                    Some(libc::ENOMEM | libc::EAGAIN) => SpawnError::Failed { command, source },
                    _ => SpawnError::NotExecutable { command, source },
                })
            }
            Ok(_) => Err(failed(io::ErrorKind::UnexpectedEof.into())),
            // EPIPE: it was killed while it was held.
            Err(error) => {
                let _ = wait(child.pid, true);
                Err(failed(error))
            }
        }
    }
}

impl Drop for HeldCommand {
    fn drop(&mut self) {
        if let Some(Held { child, .. }) = self.held.take() {
            // It has done nothing yet that would need an orderly end.
            let _ = rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL);
            let _ = wait(child.pid, true);
        }
    }
}

impl RunningCommand {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    /// The status if it has ended; does not wait. The pidfd behind [`AsFd`] becomes readable then.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = wait(self.child.pid, false)?.map(ExitStatus::from_raw);
        }
        Ok(self.status)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        match self.status {
            Some(status) => Ok(status),
            None => {
                let raw = wait(self.child.pid, true)?
                    .ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock))?;
                Ok(*self.status.insert(ExitStatus::from_raw(raw)))
            }
        }
    }

    /// Sends a signal; nothing happens when it has ended.
    pub fn signal(&self, signal: rustix::process::Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.child.pidfd, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }
}

impl AsFd for RunningCommand {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }
}

/// What memtrace should exit with for a command that ended so: its own code, or 128 and the signal
/// that killed it, as shells say it.
pub fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128u8.wrapping_add(signal as u8),
        (None, None) => 125,
    }
}

/// The paths that `execvp` tries.
fn candidates(name: &OsStr, path: Option<&OsStr>) -> Vec<PathBuf> {
    if name.is_empty() {
        return Vec::new();
    }
    if name.as_bytes().contains(&b'/') {
        return vec![PathBuf::from(name)];
    }
    // glibc's default, without the current directory.
    let path = path.unwrap_or(OsStr::new("/bin:/usr/bin"));
    std::env::split_paths(path)
        .map(
            |dir| {
                if dir.as_os_str().is_empty() { Path::new(".").join(name) } else { dir.join(name) }
            },
        )
        .collect()
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

/// All that the child needs for exec, in memory before the fork.
struct Image {
    paths: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    /// For a script without `#!`: sh, the path (put in by the child), the arguments.
    sh_argv: Vec<*const libc::c_char>,
    _args: Vec<CString>,
}

const SH: &std::ffi::CStr = c"/bin/sh";

impl Image {
    fn new(candidates: &[PathBuf], command: &[OsString]) -> Result<Self, SpawnError> {
        let c_string = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| SpawnError::NulByte);
        let paths = candidates
            .iter()
            .map(|path| c_string(path.as_os_str().as_bytes().to_vec()))
            .collect::<Result<Vec<_>, _>>()?;
        let args = command
            .iter()
            .map(|arg| c_string(arg.clone().into_vec()))
            .collect::<Result<Vec<_>, _>>()?;
        let pointers = args.iter().map(|arg| arg.as_ptr());
        let argv = pointers.clone().chain([ptr::null()]).collect();
        let sh_argv =
            [SH.as_ptr(), ptr::null()].into_iter().chain(pointers.skip(1)).chain([ptr::null()]);
        Ok(Image { paths, argv, sh_argv: sh_argv.collect(), _args: args })
    }
}

struct ChildEnds {
    held: RawFd,
    outcome: RawFd,
    of_parent: [RawFd; 2],
}

unsafe extern "C" {
    static environ: *const *const libc::c_char;
}

/// The child's life until exec. System calls only: other threads' locks may be held for ever here.
fn run_child(ends: &ChildEnds, image: &mut Image, mask: &libc::sigset_t) -> ! {
    // SAFETY: raw system calls on descriptors of this process and on memory that was prepared
    // before the fork and that this process has a copy of.
    unsafe {
        for fd in ends.of_parent {
            libc::close(fd);
        }
        restore_signals(mask);
        let mut byte = 0u8;
        let go = loop {
            let got = libc::read(ends.held, (&raw mut byte).cast(), 1);
            if got >= 0 || *libc::__errno_location() != libc::EINTR {
                break got == 1;
            }
        };
        if !go {
            libc::_exit(0);
        }
        let errno = exec(image).to_ne_bytes();
        libc::write(ends.outcome, errno.as_ptr().cast(), errno.len());
        libc::_exit(127)
    }
}

/// Handlers become the default, which exec would do later; what is ignored stays ignored but for
/// SIGPIPE; then the mask of the parent.
///
/// # Safety
///
/// For the child between fork and exec.
unsafe fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: sigaction is a plain struct for which zero is valid; the kernel refuses signals that
    // cannot be changed, which is no matter.
    unsafe {
        for signal in 1..=64 {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, ptr::null(), &mut action) != 0 {
                continue;
            }
            if action.sa_sigaction != libc::SIG_IGN || signal == libc::SIGPIPE {
                let mut default: libc::sigaction = std::mem::zeroed();
                default.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &default, ptr::null_mut());
            }
        }
        libc::sigprocmask(libc::SIG_SETMASK, mask, ptr::null_mut());
    }
}

/// As `execvp(3)`; returns the errno when no path could be executed.
///
/// # Safety
///
/// For the child between fork and exec.
unsafe fn exec(image: &mut Image) -> i32 {
    let mut result = libc::ENOENT;
    for path in &image.paths {
        // SAFETY: NUL-terminated strings and NULL-terminated arrays, all alive.
        let errno = unsafe {
            libc::execve(path.as_ptr(), image.argv.as_ptr(), environ);
            let mut errno = *libc::__errno_location();
            if errno == libc::ENOEXEC {
                image.sh_argv[1] = path.as_ptr();
                libc::execve(SH.as_ptr(), image.sh_argv.as_ptr(), environ);
                errno = libc::ENOEXEC;
            }
            errno
        };
        match errno {
            libc::EACCES => result = libc::EACCES,
            libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
            other => return other,
        }
    }
    result
}

fn write_all(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    rustix::io::retry_on_intr(|| rustix::io::write(fd, bytes))?;
    Ok(())
}

fn read_up_to(fd: BorrowedFd<'_>, buffer: &mut [u8; 4]) -> io::Result<usize> {
    // Four bytes in a pipe arrive together.
    Ok(rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut buffer[..]))?)
}

#[cfg(test)]
mod tests {
    use std::ffi::{OsStr, OsString};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::process::ExitStatus;

    use rustix::process::Signal;

    use super::{HeldCommand, SpawnError, candidates, exit_code};

    fn held(command: &[&str]) -> HeldCommand {
        HeldCommand::new(&command.iter().map(OsString::from).collect::<Vec<_>>()).unwrap()
    }

    fn run(command: &[&str]) -> ExitStatus {
        held(command).release().unwrap().wait().unwrap()
    }

    fn comm(pid: i32) -> String {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim().to_owned()
    }

    #[test]
    fn a_held_command_runs_nothing_until_it_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("made");
        let command = held(&["touch", file.to_str().unwrap()]);
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!file.exists());
        assert!(command.executable().unwrap().ends_with("touch"));
        assert!(command.release().unwrap().wait().unwrap().success());
        assert!(file.exists());
    }

    #[test]
    fn the_pid_is_the_same_before_and_after_the_exec() {
        let command = held(&["sleep", "100"]);
        let pid = command.pid();
        let mut running = command.release().unwrap();
        assert_eq!((running.pid(), comm(pid).as_str()), (pid, "sleep"));
        assert_eq!(running.try_wait().unwrap(), None);
        running.signal(Signal::TERM).unwrap();
        let status = running.wait().unwrap();
        assert_eq!(exit_code(status), 128 + 15);
        assert_eq!(running.try_wait().unwrap(), Some(status));
        // Ended and waited for: nobody is signalled any more.
        running.signal(Signal::TERM).unwrap();
    }

    #[test]
    fn the_exit_status_is_the_commands_own() {
        assert_eq!(exit_code(run(&["sh", "-c", "exit 42"])), 42);
        assert_eq!(exit_code(run(&["sh", "-c", "kill -KILL $$"])), 128 + 9);
    }

    #[test]
    fn a_command_that_is_dropped_never_runs() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("made");
        let command = held(&["touch", file.to_str().unwrap()]);
        let pid = command.pid();
        drop(command);
        assert!(!file.exists());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn an_unknown_command_is_127() {
        for name in ["no-such-command-anywhere", "/no/such/file", ""] {
            let command = held(&[name]);
            assert_eq!(command.executable(), None);
            let error = command.release().unwrap_err();
            assert!(matches!(error, SpawnError::NotFound { .. }), "{error}");
            assert_eq!(error.exit_code(), 127);
        }
    }

    #[test]
    fn a_file_that_is_not_executable_is_126() {
        let dir = tempfile::tempdir().unwrap();
        let error = held(&[dir.path().to_str().unwrap()]).release().unwrap_err();
        assert_eq!(error.exit_code(), 126, "a directory: {error}");
        let file = dir.path().join("data");
        fs::write(&file, "x").unwrap();
        let error = held(&[file.to_str().unwrap()]).release().unwrap_err();
        assert_eq!(error.exit_code(), 126, "no x bit: {error}");
    }

    #[test]
    fn a_script_without_interpreter_line_runs_in_sh_with_its_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("script");
        fs::write(&file, "test \"$1-$2\" = one-two && exit 7\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(exit_code(run(&[file.to_str().unwrap(), "one", "two"])), 7);
    }

    #[test]
    fn a_nul_byte_is_an_error_not_a_shorter_command() {
        let error = HeldCommand::new(&["a\0b".into()]).unwrap_err();
        assert!(matches!(error, SpawnError::NulByte));
    }

    #[test]
    fn signals_are_as_without_memtrace() {
        // Rust ignores SIGPIPE (bit 12); nothing may be blocked.
        let status = run(&[
            "sh",
            "-c",
            "grep -q '^SigBlk:\t0*$' /proc/self/status && \
             ! grep -q '^SigIgn:\t.*[13579bdf]...$' /proc/self/status",
        ]);
        assert!(status.success());
    }

    #[test]
    fn no_descriptor_of_memtrace_reaches_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let list = |name: &str| format!("ls /proc/self/fd > {}/{name}", dir.path().display());
        // What cargo and its callers leave open is not ours.
        let plain = std::process::Command::new("sh").args(["-c", &list("plain")]).status().unwrap();
        assert!(plain.success() && run(&["sh", "-c", &list("held")]).success());
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("held"), read("plain"));
    }

    #[test]
    fn a_command_that_is_killed_while_held_is_an_error() {
        let command = held(&["true"]);
        // SAFETY: our own child, not waited for.
        unsafe { libc::kill(command.pid(), libc::SIGKILL) };
        while !fs::read_to_string(format!("/proc/{}/stat", command.pid())).unwrap().contains(") Z ")
        {
            std::thread::yield_now();
        }
        let error = command.release().unwrap_err();
        assert!(matches!(error, SpawnError::Failed { .. }), "{error}");
    }

    #[test]
    fn a_name_with_a_slash_is_not_looked_up() {
        let path = Some(OsStr::new("/a::/b"));
        assert_eq!(candidates(OsStr::new("./x"), path), [PathBuf::from("./x")]);
        let found = candidates(OsStr::new("x"), path);
        assert_eq!(found, ["/a/x", "./x", "/b/x"].map(PathBuf::from));
        assert_eq!(candidates(OsStr::new("x"), None).len(), 2);
        assert!(candidates(OsStr::new(""), path).is_empty());
    }
}
