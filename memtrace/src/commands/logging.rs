//! Diagnostics of the library and of the BPF programs, as lines on standard error.

use std::io::{self, Write};

use log::{LevelFilter, Log, Metadata, Record};
use memtrace::report::escape::printable;

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        // The libraries below say much more than their users want to know.
        if self.enabled(record.metadata()) && record.target().starts_with("memtrace") {
            let text = record.args().to_string();
            // A terminal that is gone is no reason to stop.
            let _ = writeln!(io::stderr(), "memtrace: {}", printable(&text));
        }
    }

    fn flush(&self) {}
}

/// Shows diagnostics up to this level from now on. The BPF programs send only what is shown.
pub(super) fn show(level: LevelFilter) {
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level);
    }
}
