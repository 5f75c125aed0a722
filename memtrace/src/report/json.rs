//! The report as JSON, version 1. `docs/report-json.md` and `docs/report.schema.json` describe it;
//! both change with this file.

use std::io::{self, Write};

use serde::{
    Serialize, Serializer,
    ser::{SerializeSeq, SerializeStruct},
};

use super::{
    Filter, Metric,
    frames::{Frame, end_name, stack_frames},
};
use crate::profile::{
    Cost, Losses, Meta, Process, Profile, SizeHistogram, Stack, StackId, Thread, TimePoint, Totals,
};

/// The format's version: it goes up when a field changes its meaning or goes away, not when one is
/// added.
pub const VERSION: u32 = 1;

/// Which stacks, in which order.
#[derive(Clone, Debug)]
pub struct JsonOptions {
    pub sort: Metric,
    /// At most so many; None: all.
    pub limit: Option<usize>,
    pub filter: Option<Filter>,
    /// Stacks with fewer bytes, of those that `sort` is about, are left out.
    pub min_bytes: u64,
}

impl Default for JsonOptions {
    fn default() -> Self {
        Self { sort: Metric::Leaked, limit: None, filter: None, min_bytes: 0 }
    }
}

/// Writes one line of JSON. Fails only when `out` does. Stacks are written one by one, so memory
/// grows with their number but not with their frames.
pub fn write_json(
    profile: &Profile,
    options: &JsonOptions,
    out: &mut impl Write,
) -> io::Result<()> {
    let (ids, matching) = select(profile, options);
    serde_json::to_writer(&mut *out, &Report { profile, options, ids: &ids, matching })?;
    out.write_all(b"\n")
}

/// The stacks to write in order, and how many there would be without the limit.
fn select(profile: &Profile, options: &JsonOptions) -> (Vec<StackId>, usize) {
    let keep = options.filter.as_ref().map(|filter| filter.select(profile));
    let cost = |id: StackId| profile.costs.get(id as usize).copied().unwrap_or_default();
    let mut ids: Vec<StackId> = (0..profile.stacks.len() as StackId)
        .filter(|id| keep.as_ref().is_none_or(|keep| keep[*id as usize]))
        .filter(|id| options.sort.bytes(&cost(*id)) >= options.min_bytes)
        .collect();
    ids.sort_by_cached_key(|id| {
        let cost = cost(*id);
        std::cmp::Reverse((options.sort.of(&cost), options.sort.bytes(&cost), cost.alloc_bytes))
    });
    let matching = ids.len();
    ids.truncate(options.limit.unwrap_or(usize::MAX));
    (ids, matching)
}

struct Report<'a> {
    profile: &'a Profile,
    options: &'a JsonOptions,
    ids: &'a [StackId],
    matching: usize,
}

impl Serialize for Report<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let profile = self.profile;
        let options = self.options;
        let mut map = serializer.serialize_struct("Report", 11)?;
        map.serialize_field("version", &VERSION)?;
        map.serialize_field("meta", &meta(&profile.meta))?;
        map.serialize_field("complete", &profile.complete)?;
        map.serialize_field("totals", &totals(&profile.totals))?;
        map.serialize_field("losses", &losses(&profile.losses))?;
        map.serialize_field(
            "selection",
            &Selection {
                sort: options.sort.name(),
                filter: options.filter.as_ref().map(Filter::text),
                min_bytes: options.min_bytes,
                limit: options.limit,
                matching: self.matching,
                stacks: profile.stacks.len(),
            },
        )?;
        map.serialize_field("sites", &Sites(self))?;
        map.serialize_field("timeline", &each(&profile.timeline, time_point))?;
        map.serialize_field("processes", &each(&profile.processes, process))?;
        map.serialize_field("threads", &each(&profile.threads, thread))?;
        map.serialize_field("sizes", &sizes(&profile.sizes))?;
        map.end()
    }
}

#[derive(Serialize)]
struct Selection<'a> {
    sort: &'static str,
    filter: Option<&'a str>,
    min_bytes: u64,
    limit: Option<usize>,
    matching: usize,
    stacks: usize,
}

struct Sites<'a>(&'a Report<'a>);

impl Serialize for Sites<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Report { profile, ids, .. } = self.0;
        let mut list = serializer.serialize_seq(Some(ids.len()))?;
        for id in *ids {
            let stack = &profile.stacks[*id as usize];
            let cost = profile.costs.get(*id as usize).copied().unwrap_or_default();
            list.serialize_element(&site(profile, stack, &cost))?;
        }
        list.end()
    }
}

#[derive(Serialize)]
struct Site<F> {
    frames: F,
    alloc_calls: u64,
    alloc_bytes: u64,
    live_blocks: u64,
    live_bytes: u64,
    peak_blocks: u64,
    peak_bytes: u64,
    temporary_calls: u64,
    temporary_bytes: u64,
    free_calls: u64,
    freed_bytes: u64,
    failed_calls: u64,
    end: &'static str,
    pid: u32,
}

fn site<'a>(profile: &'a Profile, stack: &'a Stack, cost: &Cost) -> Site<impl Serialize + 'a> {
    let Cost {
        alloc_calls,
        alloc_bytes,
        free_calls,
        freed_bytes,
        temporary_calls,
        temporary_bytes,
        failed_calls,
        peak_bytes,
        peak_blocks,
    } = *cost;
    Site {
        frames: Frames { profile, stack },
        alloc_calls,
        alloc_bytes,
        live_blocks: cost.live_blocks(),
        live_bytes: cost.live_bytes(),
        peak_blocks,
        peak_bytes,
        temporary_calls,
        temporary_bytes,
        free_calls,
        freed_bytes,
        failed_calls,
        end: end_name(stack.end),
        pid: stack.pid,
    }
}

struct Frames<'a> {
    profile: &'a Profile,
    stack: &'a Stack,
}

impl Serialize for Frames<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(stack_frames(self.profile, self.stack).map(JsonFrame))
    }
}

struct JsonFrame<'a>(Frame<'a>);

impl Serialize for JsonFrame<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Frame { function, file, line, module, address, inlined } = self.0;
        let mut map = serializer.serialize_struct("Frame", 6)?;
        map.serialize_field("function", &function)?;
        map.serialize_field("file", &file)?;
        map.serialize_field("line", &line)?;
        map.serialize_field("module", &module)?;
        map.serialize_field("address", &Hex(address))?;
        map.serialize_field("inlined", &inlined)?;
        map.end()
    }
}

/// An address as a string, since JSON readers tend to keep numbers in 53 bits.
struct Hex(u64);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

/// A list mirrored element by element.
fn each<'a, T, R: Serialize>(items: &'a [T], make: impl Fn(&'a T) -> R) -> Vec<R> {
    items.iter().map(make).collect()
}

/// Declares the JSON object for a profile type: same names, same order. The types of the profile are
/// not serialised themselves, so that they can change without the format; the pattern has no `..`,
/// so that a new field has to be decided about here.
macro_rules! mirror {
    ($function:ident($source:ident) { $($field:ident: $type:ty),* $(,)? } $(+ $extra:ident: $extra_type:ty = $value:expr)?) => {
        fn $function(source: &$source) -> impl Serialize + '_ {
            #[derive(Serialize)]
            struct Mirror<'a> {
                $($field: &'a $type,)*
                $($extra: $extra_type,)?
            }
            let $source { $($field),* } = source;
            $(let $extra = $value(source);)?
            Mirror { $($field,)* $($extra,)? }
        }
    };
}

mirror!(meta(Meta) {
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
});

mirror!(totals(Totals) {
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
});

mirror!(losses(Losses) {
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
} + exact: bool = Losses::is_exact);

mirror!(time_point(TimePoint) {
    ms: u64,
    live_bytes: u64,
    live_blocks: u64,
    alloc_calls: u64,
    rss_bytes: u64,
});

mirror!(process(Process) {
    pid: u32,
    parent: Option<u32>,
    command: Vec<String>,
    live_bytes: u64,
    live_blocks: u64,
    alloc_calls: u64,
    alloc_bytes: u64,
    exited: bool,
});

mirror!(thread(Thread) {
    pid: u32,
    tid: u32,
    name: String,
    alloc_calls: u64,
    alloc_bytes: u64,
});

/// The buckets that were used, with their limits.
fn sizes(histogram: &SizeHistogram) -> impl Serialize {
    #[derive(Serialize)]
    struct Bucket {
        min: u64,
        max: u64,
        calls: u64,
    }
    // 65 buckets hold every u64; what a damaged file has beyond them has no meaning.
    let used = histogram.calls.iter().take(65).enumerate().filter(|(_, calls)| **calls != 0);
    let buckets: Vec<Bucket> = used
        .map(|(n, calls)| Bucket {
            min: if n == 0 { 0 } else { 1 << (n - 1) },
            max: if n == 0 { 0 } else { u64::MAX >> (64 - n) },
            calls: *calls,
        })
        .collect();
    buckets
}

#[cfg(test)]
mod tests;
