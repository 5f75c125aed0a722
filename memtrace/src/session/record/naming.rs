//! Names for addresses, worked out on a thread of their own while the recording goes on.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use crate::{
    profile::LocationId,
    symbols::{Frame, Module, Symbolizer},
};

/// An address to be named.
pub struct Job {
    pub location: LocationId,
    pub module: Arc<Module>,
    /// See [`Symbolizer::frames`].
    pub svma: u64,
}

/// The names found for a location; none when no symbol covers it.
pub struct Named {
    pub location: LocationId,
    pub frames: Vec<Frame>,
}

/// The naming thread's two ends.
pub struct Naming {
    jobs: Option<Sender<Job>>,
    results: Receiver<Named>,
    thread: Option<JoinHandle<()>>,
    /// Jobs without a result so far.
    open: usize,
}

impl Naming {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let (outbox, results) = channel();
        let thread = std::thread::Builder::new().name("naming".into()).spawn(move || {
            let mut symbolizer = Symbolizer::default();
            for Job { location, module, svma } in inbox {
                // Every frame of an allocation's stack is a return address.
                let frames = symbolizer.frames(&module, svma, true);
                if outbox.send(Named { location, frames }).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs: Some(jobs), results, thread: Some(thread), open: 0 })
    }

    /// Hands an address to the thread.
    pub fn ask(&mut self, job: Job) {
        if self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok()) {
            self.open += 1;
        }
    }

    /// The names that are ready, without waiting.
    pub fn ready(&mut self) -> Vec<Named> {
        let named: Vec<Named> = self.results.try_iter().collect();
        self.open -= named.len();
        named
    }

    /// Addresses that have no answer yet.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Takes no more jobs and waits for the next answer; None when all are given.
    pub fn next(&mut self) -> Option<Named> {
        self.jobs = None;
        let named = self.results.recv().ok();
        if named.is_some() {
            self.open -= 1;
        }
        named
    }
}

impl Drop for Naming {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported by the panic hook; the recording stands without names.
            let _ = thread.join();
        }
    }
}
