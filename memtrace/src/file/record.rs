//! The records inside chunks, format version 1.
//!
//! A record sets or adds one thing. Those of a flush are applied in order and bring a profile from
//! the state of the flush before to that of this one. The layouts are written down here and not
//! taken from `profile`, so that a change there can't change the format unnoticed: a field added to
//! a type of `profile` fails to compile here, and then the version goes up.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::profile::{self, LocationId, ModuleId, StackId, StringId};

/// One change. Encoded by postcard, the kind as a number in the order below: append only.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Record<'a> {
    /// Replaces the metadata.
    Meta(Meta),
    /// Appends a string.
    String(#[serde(borrow)] Cow<'a, str>),
    /// Appends a module.
    Module { path: StringId, build_id: StringId },
    /// Appends a location without lines.
    Location { module: Option<ModuleId>, address: u64 },
    /// Replaces a location's lines.
    Lines { location: LocationId, lines: Vec<Line> },
    /// Appends a stack if `id` is the number of stacks, else replaces that stack.
    Stack { id: StackId, pid: u32, end: u8, locations: Cow<'a, [LocationId]> },
    /// The peak moved since the last flush: every stack without a `Cost` in this flush had all that
    /// is live of it at the new peak. (It has not changed since the last flush.)
    PeakMoved,
    /// Replaces a stack's cost.
    Cost { stack: StackId, cost: Cost },
    /// Replaces the sums.
    Totals(Totals),
    /// Replaces the losses.
    Losses(Losses),
    /// Cuts the time line to `from` points and appends these.
    Timeline { from: u32, points: Vec<TimePoint> },
    /// As `Stack`, for processes. The command line stays as it is.
    Process {
        index: u32,
        pid: u32,
        parent: Option<u32>,
        live_bytes: u64,
        live_blocks: u64,
        alloc_calls: u64,
        alloc_bytes: u64,
        exited: bool,
    },
    /// Replaces a process's command line.
    Command { index: u32, command: Cow<'a, [String]> },
    /// As `Stack`, for threads. The name stays as it is.
    Thread { index: u32, pid: u32, tid: u32, alloc_calls: u64, alloc_bytes: u64 },
    /// Replaces a thread's name.
    ThreadName { index: u32, name: Cow<'a, str> },
    /// Replaces the size histogram.
    Sizes(Cow<'a, [u64]>),
}

/// Function, file, line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line(StringId, Option<StringId>, Option<u32>);

impl Line {
    pub(super) fn from_profile(line: &profile::Line) -> Self {
        Self(line.function, line.file, line.line)
    }

    pub(super) fn into_profile(self) -> profile::Line {
        profile::Line { function: self.0, file: self.1, line: self.2 }
    }

    pub(super) fn strings(&self) -> impl Iterator<Item = StringId> {
        std::iter::once(self.0).chain(self.1)
    }
}

macro_rules! wrapper {
    ($name:ident, $layout:literal) => {
        #[derive(Debug, Serialize, Deserialize)]
        pub(super) struct $name(#[serde(with = $layout)] pub(super) profile::$name);
    };
}

wrapper!(Meta, "MetaLayout");
wrapper!(Cost, "CostLayout");
wrapper!(Totals, "TotalsLayout");
wrapper!(Losses, "LossesLayout");
wrapper!(TimePoint, "TimePointLayout");

#[derive(Serialize, Deserialize)]
#[serde(remote = "profile::Meta")]
struct MetaLayout {
    memtrace_version: String,
    command: Vec<String>,
    attached: bool,
    lossless: bool,
    kernel: String,
    hostname: String,
    started_unix_ms: u64,
    page_size: u64,
    memory_bytes: u64,
    unwinder: String,
    probes: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "profile::Cost")]
struct CostLayout {
    alloc_calls: u64,
    alloc_bytes: u64,
    free_calls: u64,
    freed_bytes: u64,
    temporary_calls: u64,
    temporary_bytes: u64,
    failed_calls: u64,
    peak_bytes: u64,
    peak_blocks: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "profile::Totals")]
struct TotalsLayout {
    alloc_calls: u64,
    alloc_bytes: u64,
    free_calls: u64,
    freed_bytes: u64,
    temporary_calls: u64,
    failed_calls: u64,
    peak_bytes: u64,
    peak_ms: u64,
    leaked_bytes: u64,
    leaked_blocks: u64,
    unknown_frees: u64,
    inherited_frees: u64,
    replaced_blocks: u64,
    replaced_bytes: u64,
    exec_dropped_blocks: u64,
    exec_dropped_bytes: u64,
    duration_ms: u64,
    peak_rss_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "profile::Losses")]
struct LossesLayout {
    lost_allocs: u64,
    lost_frees: u64,
    lost_reallocs: u64,
    lost_stacks: u64,
    lost_life: u64,
    thread_table_full: u64,
    abandoned_calls: u64,
    stack_collisions: u64,
    unreadable_results: u64,
    unknown_points: u64,
    undecodable: u64,
    unknown_stacks: u64,
    unwritten_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "profile::TimePoint")]
struct TimePointLayout {
    ms: u64,
    live_bytes: u64,
    live_blocks: u64,
    alloc_calls: u64,
    rss_bytes: u64,
}
