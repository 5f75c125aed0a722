//! The result as a page for people.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};

use super::{COLLECTOR_PAIRS, Collector, HELD_BLOCKS, Kind, ROUNDS, Row};

/// The page, in Markdown.
pub fn write(rows: &[Row], collector: &Collector) -> Result<String> {
    let median_of = |kind: &Kind| {
        let row = rows.iter().find(|row| row.kind == *kind);
        let values = row.and_then(|row| row.pair_ns.as_ref().ok());
        values.and_then(|values| median(values)).with_context(|| format!("no {}", kind.name()))
    };
    let (bare, floor) = (median_of(&Kind::Bare)?, median_of(&Kind::Empty)?);

    let mut text = String::new();
    let machine = machine()?;
    write!(
        text,
        "# What memtrace costs\n\n\
         Written by `cargo xtask bench probes` on {machine}.\n\
         Ratios tell more than times, which differ from machine to machine.\n\n\
         ## In the traced process\n\n\
         CPU time, user and system, that one `malloc(64)` and its `free` take in a loop in a \
         function that `main` calls. Median of {ROUNDS} rounds, in which every tracer is measured once \
         in a process of its own.\n\
         *Empty probes* are BPF programs that do nothing, at the places where memtrace has its \
         probes: less is not possible with breakpoints.\n\n\
         | under | ns a pair | lowest to highest | times bare | times empty probes |\n\
         | --- | ---: | ---: | ---: | ---: |\n"
    )?;
    for row in rows {
        let name = row.kind.name();
        let values = match &row.pair_ns {
            Ok(values) => values,
            Err(error) => {
                writeln!(text, "| {name} | did not run: {} | | | |", one_line(error))?;
                continue;
            }
        };
        let ns = median_of(&row.kind)?;
        let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = values.iter().copied().fold(0.0, f64::max);
        writeln!(
            text,
            "| {name} | {ns:.0} | {lowest:.0} to {highest:.0} | {:.0} | {:.2} |",
            ns / bare,
            ns / floor
        )?;
    }
    write!(
        text,
        "\nbpftrace keeps size and stack of each live block. It and memleak probe `malloc` and `free` \
         at their first instruction.\n\n\
         ## In memtrace itself\n\n\
         | | |\n\
         | --- | ---: |\n\
         | CPU time an event, over {} events | {:.0} ns |\n\
         | memory a live block, over {HELD_BLOCKS} blocks | {:.0} bytes |\n\
         | from start to recording | {:.0} ms |\n\
         | of this, putting the probes in | {:.0} ms |\n\
         | from Ctrl-C to the end, with {HELD_BLOCKS} live blocks | {:.0} ms |\n\
         | of this, taking the probes out | {:.0} ms |\n\
         | events lost meanwhile | {} |\n",
        2 * COLLECTOR_PAIRS,
        collector.cpu_ns_per_event,
        collector.bytes_per_live_block,
        collector.start.as_secs_f64() * 1e3,
        collector.attach_ms,
        collector.end.as_secs_f64() * 1e3,
        collector.detach_ms,
        collector.lost
    )?;
    Ok(text)
}

/// Kernel, processor and their number, without names of anybody's.
fn machine() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read /proc")?;
    let mut numbers = release.split(|byte: char| !byte.is_ascii_digit());
    let kernel =
        format!("{}.{}", numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let info = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc")?;
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cpus = std::thread::available_parallelism().context("cannot count the processors")?;
    let kind = if info.contains(" hypervisor") { "a virtual machine" } else { "a machine" };
    Ok(format!("{kind} with Linux {kernel}, {cpus} x {model}"))
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', " ").replace('|', "/")
}

/// The middle value; the lower one of two.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::anyhow;

    use super::{Collector, Kind, Row, median, write};

    #[test]
    fn the_median_is_not_moved_by_one_disturbed_round() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[900.0, 1.0, 2.0, 3.0, 2.0]), Some(2.0));
    }

    #[test]
    fn a_peer_that_does_not_run_is_a_row_that_says_why() {
        let row = |kind, pair_ns| Row { kind, pair_ns };
        let rows = [
            row(Kind::Bare, Ok(vec![10.0])),
            row(Kind::Empty, Ok(vec![1000.0])),
            row(Kind::Memtrace, Ok(vec![1500.0, 1400.0, 1600.0])),
            row(Kind::Bpftrace, Err(anyhow!("no kernel\nheaders"))),
        ];
        let collector = Collector {
            cpu_ns_per_event: 100.0,
            bytes_per_live_block: 60.0,
            start: Duration::from_millis(150),
            attach_ms: 34.6,
            end: Duration::from_millis(300),
            detach_ms: 290.9,
            lost: 0,
        };
        let text = write(&rows, &collector).expect("all rows that must be there are");
        assert!(text.contains("| memtrace record | 1500 | 1400 to 1600 | 150 | 1.50 |"), "{text}");
        assert!(text.contains("| bpftrace | did not run: no kernel headers |"), "{text}");
    }
}
