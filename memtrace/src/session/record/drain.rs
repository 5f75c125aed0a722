//! The recording loop: empties the ring, keeps the clock, writes every second.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustc_hash::FxHashMap;
use tokio::time::MissedTickBehavior;

use crate::{
    file::Writer,
    probes::{
        attach::{Attachment, DetachReport},
        programs::{KernelLog, Programs},
        watchdog::Watchdog,
    },
    stream::RingReader,
};

use super::{
    collector::Collector,
    end::{End, EndWatch},
    losses,
    progress::{Progress, State},
    watched::readable_copy,
};

/// How often the ring is read. A 16 MiB ring holds some 350,000 events, a third of a second at the
/// rate at which two cores can make them; reading by the clock spares the target all wake-ups.
const READ_EVERY: Duration = Duration::from_millis(20);

/// Events taken in before signals and the clock are looked at again.
const BATCH: usize = 65_536;

const SAMPLE_EVERY_MS: u64 = 100;
const FLUSH_EVERY_MS: u64 = 1000;

/// All that the loop works on.
pub struct Drain {
    programs: Programs,
    attachment: Option<Attachment>,
    watchdog: Watchdog,
    ring: RingReader,
    pub collector: Collector,
    writer: Writer,
    started: Instant,
    progress: Progress,
    next_sample_ms: u64,
    next_flush_ms: u64,
    /// Set when the file could not be written, until it can again.
    write_error: Option<String>,
    unwritten_bytes: u64,
    /// Stops of each process that it was continued after.
    continued: FxHashMap<u32, u64>,
}

impl Drain {
    /// Puts the parts together; the recording begins now.
    pub fn new(
        mut programs: Programs,
        collector: Collector,
        writer: Writer,
        attachment: Attachment,
        watchdog: Watchdog,
    ) -> Result<Self> {
        let ring = programs.take_ring()?;
        Ok(Self {
            programs,
            attachment: Some(attachment),
            watchdog,
            ring,
            collector,
            writer,
            started: Instant::now(),
            progress: Progress::new(),
            next_sample_ms: 0,
            next_flush_ms: FLUSH_EVERY_MS,
            write_error: None,
            unwritten_bytes: 0,
            continued: FxHashMap::default(),
        })
    }

    /// Records until something ends it.
    pub async fn run(&mut self, end: &mut EndWatch, mut logs: KernelLog) -> Result<End> {
        let log_waits = readable_copy(logs.as_fd())?;
        let ring = readable_copy(self.ring.as_fd())?;
        let mappings = readable_copy(self.collector.mapped_fd())?;
        let mut clock = tokio::time::interval(READ_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut more_waits = false;
        loop {
            let reason = tokio::select! {
                biased;
                end = end.wait() => Some(end),
                () = std::future::ready(()), if more_waits => None,
                ready = ring.readable() => {
                    ready?.clear_ready();
                    None
                }
                ready = mappings.readable() => {
                    ready?.clear_ready();
                    None
                }
                ready = log_waits.readable() => {
                    ready?.clear_ready();
                    logs.flush();
                    None
                }
                _ = clock.tick() => None,
            };
            if let Some(reason) = reason {
                return Ok(reason);
            }
            self.collector.read_mappings();
            more_waits = self.take_events(BATCH) == BATCH;
            self.keep_attached();
            self.keep_the_books()?;
        }
    }

    /// Takes the probes out, then what is left in the ring.
    pub fn finish_events(&mut self) -> Result<DetachReport> {
        let attachment = self.attachment.take().context("the probes are out already")?;
        let report = attachment.detach();
        self.collector.read_mappings();
        while self.take_events(BATCH) == BATCH {}
        Ok(report?)
    }

    /// Follows processes that came and went.
    fn keep_attached(&mut self) {
        let Some(attachment) = &mut self.attachment else { return };
        for pid in self.collector.take_to_anchor() {
            if let Err(error) =
                i32::try_from(pid).map(|pid| attachment.anchor(pid)).unwrap_or(Ok(false))
            {
                log::warn!("pid {pid} may lose its probes: {error}");
            }
        }
        for pid in self.collector.take_ended() {
            if let Ok(pid) = i32::try_from(pid) {
                attachment.forget(pid);
            }
        }
    }

    fn take_events(&mut self, limit: usize) -> usize {
        let taken = self.drain_ring(limit);
        self.collector.refresh_unwinding();
        if taken < limit {
            self.collector.apply_mappings();
            // The ring was empty for a moment: whoever was stopped may go on.
            self.continue_stopped();
        }
        taken
    }

    fn drain_ring(&mut self, limit: usize) -> usize {
        let now_ms = self.now_ms();
        let collector = &mut self.collector;
        self.ring.drain(limit, |event| collector.event(event, now_ms))
    }

    /// Continues the processes that the kernel side has stopped, because the ring was half full or
    /// their mappings were not known.
    fn continue_stopped(&mut self) {
        let mut stops = self.programs.stops();
        stops.retain(|(pid, count)| self.continued.get(pid) != Some(count));
        if stops.is_empty() {
            return;
        }
        // Whatever happened before the stop, an exec for one, is in the ring by now.
        self.drain_ring(BATCH);
        for (pid, count) in stops {
            self.collector.make_known(pid);
            send_continue(pid);
            // A stop that came after the count was read makes it differ again.
            self.continued.insert(pid, count);
        }
    }

    fn keep_the_books(&mut self) -> Result<()> {
        let now_ms = self.now_ms();
        self.collector.take_names();
        self.collector.describe_newcomers();
        if now_ms >= self.next_sample_ms {
            self.next_sample_ms = now_ms + SAMPLE_EVERY_MS;
            self.collector.sample(now_ms);
        }
        if now_ms >= self.next_flush_ms {
            self.next_flush_ms = now_ms + FLUSH_EVERY_MS;
            self.collector.refresh_thread_names();
            self.flush()?;
            self.show_progress(now_ms);
            self.guard_watchdog();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.update_losses()?;
        match self.collector.recorder.flush(&mut self.writer) {
            Ok(_) => self.write_error = None,
            Err(error) => self.note_write_error(&error),
        }
        Ok(())
    }

    fn guard_watchdog(&mut self) {
        if !self.watchdog.is_alive() {
            match self.watchdog.restart() {
                Ok(()) => eprintln!("memtrace: the watchdog had died and was started again"),
                Err(error) => eprintln!("memtrace: the watchdog has died: {error}"),
            }
        }
    }

    fn note_write_error(&mut self, error: &dyn std::error::Error) {
        let text = error.to_string();
        if self.write_error.as_deref() != Some(&text) {
            self.progress.clear();
            eprintln!("memtrace: {text}; recording goes on, what is written so far is kept");
        }
        self.write_error = Some(text);
    }

    /// Brings the recording's losses up to date.
    fn update_losses(&mut self) -> Result<()> {
        let counters = self.programs.counters()?;
        let mut losses = losses::from_counters(&counters, self.ring.undecodable());
        losses.unwritten_bytes = self.unwritten_bytes;
        self.collector.recorder.set_losses(losses);
        Ok(())
    }

    fn show_progress(&mut self, now_ms: u64) {
        let losses = self.collector.recorder.losses();
        let totals = self.collector.recorder.totals();
        self.progress.show(&State {
            elapsed_ms: now_ms,
            events: totals.alloc_calls + totals.free_calls + totals.unknown_frees,
            live_bytes: totals.leaked_bytes,
            lost: losses.lost_allocs + losses.lost_frees + losses.lost_reallocs,
        });
    }

    /// Waits for the names that are still being worked out.
    pub fn finish_names(&mut self) {
        let begin = Instant::now();
        while self.collector.finish_one_name() {
            let open = self.collector.open_names();
            if begin.elapsed() > Duration::from_secs(1) && open.is_multiple_of(64) {
                self.progress.line(&format!("naming {open} addresses"));
            }
        }
        self.progress.clear();
    }

    /// Writes the rest and closes the file. An error says that the file is not complete.
    pub fn finish_file(&mut self) -> Result<()> {
        let now_ms = self.now_ms();
        self.collector.describe_newcomers();
        self.collector.sample(now_ms);
        self.update_losses()?;
        self.progress.clear();
        self.collector.recorder.finish(&mut self.writer)?;
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn send_continue(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        // It may have been killed while it was stopped.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
    }
}
