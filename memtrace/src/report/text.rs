//! The report as text: header, rankings by call site, totals, losses.

use std::io::{self, Write};

use jiff::{Timestamp, tz::TimeZone};

use super::{
    Filter, Metric,
    escape::{printable, shell_words, short_printable},
    frames::{Frame, UNKNOWN_STACK, file_name, frame, location, stack_frames, truncation},
    losses,
    sites::{CallSites, Site, SiteStack},
    style::{Styles, paint},
    units::{counted, exact_bytes, human_bytes, human_ms, human_percent, per_second},
};
use crate::profile::{Cost, Profile, Totals};

/// Names longer than this many characters lose their middle.
const NAME_MAX: usize = 320;

/// What to print, and how.
#[derive(Clone, Debug)]
pub struct TextOptions {
    /// Only this ranking; None: calls, peak, leaked, temporary.
    pub only: Option<Metric>,
    /// Call sites a ranking.
    pub limit: usize,
    /// Stacks a call site.
    pub stacks: usize,
    pub filter: Option<Filter>,
    /// Call sites with fewer bytes, of those that the ranking is about, are left out.
    pub min_bytes: u64,
    /// ANSI colours.
    pub colour: bool,
    /// For the date of the recording.
    pub time_zone: TimeZone,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self {
            only: None,
            limit: 10,
            stacks: 3,
            filter: None,
            min_bytes: 0,
            colour: false,
            time_zone: TimeZone::UTC,
        }
    }
}

/// The rankings of a whole report, in its order.
const RANKINGS: [Metric; 4] = [Metric::Calls, Metric::Peak, Metric::Leaked, Metric::Temporary];

/// Writes the report. Fails only when `out` does.
pub fn write_text(
    profile: &Profile,
    options: &TextOptions,
    out: &mut impl Write,
) -> io::Result<()> {
    let keep = options.filter.as_ref().map(|filter| filter.select(profile)).unwrap_or_default();
    let sites = CallSites::new(profile, &keep);
    let mut text =
        Text { profile, options, sites: &sites, styles: Styles::new(options.colour), out };
    text.header()?;
    match options.only {
        Some(metric) => text.ranking(metric)?,
        None => {
            for metric in RANKINGS {
                text.ranking(metric)?;
            }
        }
    }
    text.totals()?;
    text.losses()
}

struct Text<'a, W> {
    profile: &'a Profile,
    options: &'a TextOptions,
    sites: &'a CallSites,
    styles: Styles,
    out: &'a mut W,
}

impl<W: Write> Text<'_, W> {
    fn header(&mut self) -> io::Result<()> {
        let profile = self.profile;
        let meta = &profile.meta;
        let command = match meta.command.as_slice() {
            [] => "[unknown]".to_owned(),
            words => short_printable(&shell_words(words), NAME_MAX).into_owned(),
        };
        self.field("command", &command)?;

        let process = match profile.processes.as_slice() {
            [] => "[unknown]".to_owned(),
            [one] => format!("pid {}", one.pid),
            [first, others @ ..] => {
                format!("pid {} and {}", first.pid, counted(others.len() as u64, "other"))
            }
        };
        let how = if meta.attached {
            "attached while it ran: blocks allocated before are unknown"
        } else {
            "recorded from its start"
        };
        self.field("process", &format!("{process}, {how}"))?;
        self.field("date", &date(meta.started_unix_ms, &self.options.time_zone))?;
        self.field("duration", &human_ms(profile.totals.duration_ms))?;
        let kernel = match (meta.kernel.as_str(), meta.hostname.as_str()) {
            ("", "") => "[unknown]".to_owned(),
            (kernel, "") => printable(kernel).into_owned(),
            (kernel, host) => format!("{} on {}", printable(kernel), printable(host)),
        };
        self.field("kernel", &kernel)?;
        let unwinder = match meta.unwinder.as_str() {
            "" => "[unknown]".into(),
            name => printable(name),
        };
        let lossless = if meta.lossless { ", lossless" } else { "" };
        let probes = counted(meta.probes.into(), "probe point");
        self.field("unwinder", &format!("{unwinder}, {probes}{lossless}"))?;
        self.field("recorder", &format!("memtrace {}", printable(&meta.memtrace_version)))?;
        if !profile.complete {
            let what = "the recording was not closed (memtrace was killed or the disk ran full); \
                        what follows is up to its last written second";
            let line = format!("INCOMPLETE: {what}");
            writeln!(self.out, "{}", paint(self.styles.bad, line))?;
        }
        if let Some(filter) = &self.options.filter {
            let shown = format!(
                "'{}' keeps {} in the rankings; totals and percentages are of the whole recording",
                printable(filter.text()),
                counted(self.sites.stack_count() as u64, "stack"),
            );
            self.field("filter", &shown)?;
        }
        if self.options.min_bytes != 0 {
            let min = exact_bytes(self.options.min_bytes);
            self.field("minimum", &format!("call sites below {min} are left out"))?;
        }
        Ok(())
    }

    fn field(&mut self, name: &str, value: &str) -> io::Result<()> {
        let name = format!("{name}:");
        writeln!(self.out, "{} {value}", paint(self.styles.dim, format!("{name:<10}")))
    }

    fn ranking(&mut self, metric: Metric) -> io::Result<()> {
        let title = match metric {
            Metric::Calls => "MOST CALLS TO ALLOCATION FUNCTIONS",
            Metric::Peak => "PEAK MEMORY CONSUMERS",
            Metric::Leaked => "MOST MEMORY LEAKED",
            Metric::Temporary => "MOST TEMPORARY ALLOCATIONS",
            Metric::Allocated => "MOST MEMORY ALLOCATED",
        };
        writeln!(self.out, "\n{}", paint(self.styles.title, title))?;

        let min = self.options.min_bytes;
        let worth = |cost: &Cost| metric.of(cost) != 0 && metric.bytes(cost) >= min;
        let all: Vec<&Site> = self.sites.sites.iter().filter(|site| worth(&site.cost)).collect();
        if all.is_empty() {
            return writeln!(self.out, "none");
        }
        let count = all.len();
        let top = top(all, self.options.limit, metric, |site| &site.cost);
        let shown = top.len();
        for site in &top {
            self.site(metric, site)?;
        }
        if shown < count {
            let rest = counted((count - shown) as u64, "more call site");
            writeln!(self.out, "and {rest}")?;
        }
        Ok(())
    }

    fn site(&mut self, metric: Metric, site: &Site) -> io::Result<()> {
        let stacks: Vec<&SiteStack> =
            self.sites.stacks(site).iter().filter(|stack| metric.of(&stack.cost) != 0).collect();
        let amount = self.amount(metric, &site.cost);
        let count = stacks.len();
        writeln!(self.out, "{amount}, from {} at", counted(count as u64, "stack"))?;
        match site.at {
            Some((id, index)) => {
                let frame = frame(self.profile, location(self.profile, id), index);
                writeln!(self.out, "  {}", paint(self.styles.site, describe(&frame)))?;
            }
            None => writeln!(self.out, "  {}", paint(self.styles.site, UNKNOWN_STACK))?,
        }

        let top = top(stacks, self.options.stacks, metric, |stack| &stack.cost);
        let mut rest = metric.of(&site.cost);
        let shown = top.len();
        for stack in top {
            rest = rest.saturating_sub(metric.of(&stack.cost));
            let amount = self.amount(metric, &stack.cost);
            writeln!(self.out, "    {amount}, from")?;
            self.stack(stack)?;
        }
        if shown != 0 && shown < count {
            let rest = match metric.unit() {
                "bytes" => human_bytes(rest),
                _ => counted(rest, "call").to_string(),
            };
            let more = counted((count - shown) as u64, "more stack");
            writeln!(self.out, "    and {rest} from {more}")?;
        }
        Ok(())
    }

    /// The number that the ranking is about, its share, and what else tells big from harmless.
    fn amount(&self, metric: Metric, cost: &Cost) -> String {
        let value = metric.of(cost);
        let share = human_percent(value, metric.total(&self.profile.totals));
        let main = match metric {
            Metric::Calls => counted(value, "call").to_string(),
            Metric::Temporary => counted(value, "temporary call").to_string(),
            Metric::Leaked => format!("{} leaked", exact_bytes(value)),
            Metric::Peak => format!("{} at peak", exact_bytes(value)),
            Metric::Allocated => format!("{} allocated", exact_bytes(value)),
        };
        let main = paint(self.styles.amount, main);
        match metric {
            Metric::Calls => {
                let bytes = human_bytes(cost.alloc_bytes);
                let failed = match cost.failed_calls {
                    0 => String::new(),
                    failed => format!(" and {failed} failed"),
                };
                format!("{main}{failed}, {share}, {bytes} allocated")
            }
            Metric::Temporary => {
                let of = human_percent(value, cost.alloc_calls);
                format!("{main}, {share}, {of} of {}", counted(cost.alloc_calls, "call"))
            }
            Metric::Leaked => format!("{main}, {share}, {}", counted(cost.live_blocks(), "block")),
            Metric::Peak => format!("{main}, {share}, {}", counted(cost.peak_blocks, "block")),
            Metric::Allocated => {
                format!("{main}, {share}, {}", counted(cost.alloc_calls, "call"))
            }
        }
    }

    fn stack(&mut self, stack: &SiteStack) -> io::Result<()> {
        // The id comes from the profile's own list.
        let stack = &self.profile.stacks[stack.id as usize];
        if stack.locations.is_empty() {
            writeln!(self.out, "      {UNKNOWN_STACK}")?;
        }
        for frame in stack_frames(self.profile, stack) {
            writeln!(self.out, "      {}", describe(&frame))?;
        }
        match truncation(stack.end) {
            Some(reason) if !stack.locations.is_empty() => {
                writeln!(
                    self.out,
                    "      {}",
                    paint(self.styles.dim, format_args!("[truncated: {reason}]"))
                )
            }
            _ => Ok(()),
        }
    }

    fn totals(&mut self) -> io::Result<()> {
        // Destructured, so that a new total cannot be forgotten here.
        let Totals {
            alloc_calls,
            alloc_bytes,
            free_calls,
            freed_bytes,
            temporary_calls,
            failed_calls,
            peak_bytes,
            peak_ms,
            leaked_bytes,
            leaked_blocks,
            unknown_frees,
            inherited_frees,
            replaced_blocks,
            replaced_bytes,
            exec_dropped_blocks,
            exec_dropped_bytes,
            duration_ms,
            peak_rss_bytes,
        } = self.profile.totals;
        let rate = |count| format!("{}/s", per_second(count, duration_ms));
        writeln!(self.out, "\n{}", paint(self.styles.title, "TOTALS"))?;
        let mut lines = vec![
            ("total runtime", human_ms(duration_ms)),
            (
                "calls to allocation functions",
                format!("{alloc_calls} ({}), {}", rate(alloc_calls), exact_bytes(alloc_bytes)),
            ),
            ("blocks freed", format!("{free_calls}, {}", exact_bytes(freed_bytes))),
            (
                "temporary memory allocations",
                format!(
                    "{temporary_calls} ({}, {})",
                    human_percent(temporary_calls, alloc_calls),
                    rate(temporary_calls)
                ),
            ),
            (
                "peak heap memory consumption",
                format!("{} after {}", exact_bytes(peak_bytes), human_ms(peak_ms)),
            ),
            (
                "peak RSS",
                match peak_rss_bytes {
                    0 => "not measured".to_owned(),
                    bytes => exact_bytes(bytes),
                },
            ),
            (
                "total memory leaked",
                format!("{}, {}", exact_bytes(leaked_bytes), counted(leaked_blocks, "block")),
            ),
            ("frees of unknown blocks", self.unknown_frees(unknown_frees)),
        ];
        let optional = [
            ("failed allocations", failed_calls, String::new()),
            ("frees of a parent's blocks in its fork", inherited_frees, String::new()),
            (
                "blocks whose free was not seen",
                replaced_blocks,
                format!(", {} (their address was allocated again)", exact_bytes(replaced_bytes)),
            ),
            (
                "blocks gone with an exec",
                exec_dropped_blocks,
                format!(", {}", exact_bytes(exec_dropped_bytes)),
            ),
        ];
        for (name, count, more) in optional {
            if count != 0 {
                lines.push((name, format!("{count}{more}")));
            }
        }
        lines.push(("distinct stacks", self.stack_counts()));
        for (name, value) in lines {
            writeln!(self.out, "{name}: {}", paint(self.styles.amount, value))?;
        }
        Ok(())
    }

    fn unknown_frees(&self, count: u64) -> String {
        match (count, self.profile.meta.attached) {
            (0, _) => "0".to_owned(),
            (_, true) => format!("{count} (allocated before the recording began, or lost)"),
            (_, false) => format!("{count} (their allocation was not seen)"),
        }
    }

    /// How many stacks there are, and how many of them are not whole, by reason.
    fn stack_counts(&self) -> String {
        let stacks = &self.profile.stacks;
        let mut ends = [0u64; 256];
        for stack in stacks {
            if stack.locations.is_empty() {
                continue;
            }
            ends[usize::from(stack.end)] += 1;
        }
        let mut text = stacks.len().to_string();
        for (end, count) in ends.iter().enumerate() {
            if let (1.., Some(reason)) = (*count, truncation(end as u8)) {
                text.push_str(&format!(", {count} truncated ({reason})"));
            }
        }
        match stacks.iter().filter(|stack| stack.locations.is_empty()).count() {
            0 => text,
            lost => text + &format!(", {lost} unknown"),
        }
    }

    fn losses(&mut self) -> io::Result<()> {
        let (summary, lines) = losses::describe(self.profile);
        let exact = self.profile.losses.is_exact();
        let style = if exact { self.styles.good } else { self.styles.bad };
        writeln!(self.out, "\n{}", paint(self.styles.title, "LOSSES"))?;
        writeln!(self.out, "{}", paint(style, summary))?;
        for line in lines {
            writeln!(self.out, "  {line}")?;
        }
        Ok(())
    }
}

/// The `limit` items with the largest amounts, largest first; equal ones in their own order.
fn top<T>(mut items: Vec<&T>, limit: usize, metric: Metric, cost: impl Fn(&T) -> &Cost) -> Vec<&T> {
    items.sort_by_cached_key(|item| {
        let cost = cost(item);
        std::cmp::Reverse((metric.of(cost), metric.bytes(cost), cost.alloc_bytes))
    });
    items.truncate(limit);
    items
}

/// `function (inlined) at file:line in module`, as much of it as is known; where there is no source
/// line, the address instead: `function in module+0x1234`.
fn describe(frame: &Frame<'_>) -> String {
    let short = |name| short_printable(name, NAME_MAX);
    let module = frame.module.map(|module| short(file_name(module)));
    let place = match &module {
        Some(module) => format!("{module}+{:#x}", frame.address),
        None => format!("{:#x}", frame.address),
    };
    let Some(function) = frame.function else { return place };
    let mut text = short(function).into_owned();
    if frame.inlined {
        text.push_str(" (inlined)");
    }
    match (frame.file, frame.line, &module) {
        (Some(file), Some(line), Some(module)) => {
            text + &format!(" at {}:{line} in {module}", short(file))
        }
        (Some(file), Some(line), None) => text + &format!(" at {}:{line}", short(file)),
        (Some(file), None, _) => text + &format!(" at {} in {place}", short(file)),
        (None, ..) => text + &format!(" in {place}"),
    }
}

fn date(unix_ms: u64, zone: &TimeZone) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    match time {
        Some(time) => {
            time.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %:z").to_string()
        }
        None => "[invalid]".to_owned(),
    }
}

#[cfg(test)]
mod tests;
