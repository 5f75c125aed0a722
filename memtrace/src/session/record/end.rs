//! What ends a recording.

use std::{future::Future, io, pin::Pin, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tokio::{
    signal::unix::{Signal as SignalStream, SignalKind, signal},
    time::Instant,
};

use super::watched::readable;

/// Why the recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SIGINT (Ctrl-C), SIGTERM or SIGHUP.
    Signal(Signal),
    /// The time that was asked for is over.
    Duration,
    /// Every target has ended.
    TargetsEnded,
}

/// Everything that can end a recording.
pub struct EndWatch {
    interrupt: SignalStream,
    terminate: SignalStream,
    hang_up: SignalStream,
    deadline: Option<Instant>,
    targets: Pin<Box<dyn Future<Output = ()>>>,
}

impl EndWatch {
    /// Watches the signals and the targets. Must be called inside a tokio runtime.
    pub fn new(pids: &[u32]) -> io::Result<Self> {
        let mut targets = Vec::new();
        for &pid in pids {
            let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
            match pidfd_open(pid, PidfdFlags::NONBLOCK) {
                Ok(fd) => targets.push(readable(fd)?),
                // It has ended already.
                Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            deadline: None,
            targets: Box::pin(async move {
                for target in targets {
                    // A pidfd is readable once its process has ended.
                    let _ = target.readable().await;
                }
            }),
        })
    }

    /// Starts the clock of a recording that shall last this long.
    pub fn start_clock(&mut self, duration: Option<Duration>) {
        self.deadline = duration.and_then(|duration| Instant::now().checked_add(duration));
    }

    /// Waits for the first of them.
    pub async fn wait(&mut self) -> End {
        let deadline = self.deadline;
        let duration = async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => End::Signal(Signal::INT),
            _ = self.terminate.recv() => End::Signal(Signal::TERM),
            _ = self.hang_up.recv() => End::Signal(Signal::HUP),
            () = duration => End::Duration,
            () = &mut self.targets => End::TargetsEnded,
        }
    }

    /// Waits for a signal alone.
    pub async fn signal(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hang_up.recv() => Signal::HUP,
        }
    }
}
