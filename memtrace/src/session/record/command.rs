//! The command of `record -- CMD`: held until the probes are in, its status passed on.

use std::{ffi::OsString, io, os::fd::AsFd};

use anyhow::Result;
use rustix::process::Signal;

use crate::target::spawn::{self, HeldCommand, RunningCommand, SpawnError};

use super::{end::EndWatch, watched::readable_copy};

/// Forks the command and holds it before its exec.
pub fn hold(command: &[OsString]) -> Result<HeldCommand, SpawnError> {
    let held = HeldCommand::new(command)?;
    if held.executable().is_some() {
        return Ok(held);
    }
    // Its exec is going to fail, and knows best why.
    match held.release() {
        Err(error) => Err(error),
        // It was made executable in between; better not at all than unrecorded.
        Ok(running) => {
            let _ = running.signal(Signal::KILL);
            HeldCommand::new(command)
        }
    }
}

/// Passes on a signal that ended the recording. Ctrl-C at a terminal has reached the command
/// already, as a member of the same process group.
pub fn pass_on(command: &RunningCommand, signal: Signal) -> io::Result<()> {
    if signal == Signal::INT && is_from_terminal() {
        return Ok(());
    }
    command.signal(signal)
}

/// True when the terminal sends its Ctrl-C to this process's group.
fn is_from_terminal() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else { return false };
    let ours = rustix::process::getpgrp();
    rustix::termios::tcgetpgrp(&terminal).is_ok_and(|foreground| foreground == ours)
}

/// Waits for the command's end and gives the exit code to pass on. Signals meanwhile are passed on
/// too; the third one gives up on a command that ignores them, None.
pub async fn exit_code(command: &mut RunningCommand, end: &mut EndWatch) -> Result<Option<u8>> {
    let ended = readable_copy(command.as_fd())?;
    for _ in 0..3 {
        tokio::select! {
            ready = ended.readable() => {
                let _ = ready?;
                return Ok(Some(spawn::exit_code(command.wait()?)));
            }
            signal = end.signal() => pass_on(command, signal)?,
        }
    }
    Ok(None)
}
