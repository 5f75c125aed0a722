//! The one line that a person at a terminal watches.

use std::io::{IsTerminal, Write};

use crate::report::units::human_bytes;

/// A line on stderr that is redrawn in place; nothing at all when stderr is no terminal.
pub struct Progress {
    shown: bool,
    terminal: bool,
    events_before: u64,
    ms_before: u64,
}

/// What the line says.
pub struct State {
    /// Since the recording began.
    pub elapsed_ms: u64,
    /// Events so far.
    pub events: u64,
    pub live_bytes: u64,
    /// Events lost so far.
    pub lost: u64,
}

impl Progress {
    /// A progress line for this process's stderr.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { shown: false, terminal, events_before: 0, ms_before: 0 }
    }

    /// Redraws the line.
    pub fn show(&mut self, state: &State) {
        let ms = state.elapsed_ms.saturating_sub(self.ms_before).max(1);
        let rate = state.events.saturating_sub(self.events_before) * 1000 / ms;
        self.events_before = state.events;
        self.ms_before = state.elapsed_ms;
        self.line(&format!(
            "{}s  {rate} events/s  {} live  {} lost",
            state.elapsed_ms / 1000,
            human_bytes(state.live_bytes),
            state.lost,
        ));
    }

    /// Shows any text in the line's place.
    pub fn line(&mut self, text: &str) {
        if self.terminal {
            // A terminal that is gone is no reason to end a recording.
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
            self.shown = true;
        }
    }

    /// Removes the line.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
