//! The diagnosis as a table or as JSON.

use std::io::{self, Write};

use comfy_table::{Table, presets::NOTHING};
use memtrace::{
    probes::points::{PlannedPoint, ProbePlan},
    report::escape::printable,
};
use serde_json::{Value, json};

use super::{Diagnosis, Process};

/// Number of the JSON's format; grows when a field changes its meaning or goes.
const FORMAT: u32 = 1;

pub(super) fn text(diagnosis: &Diagnosis, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["CHECK", "STATE", "FOUND"]);
    for check in &diagnosis.checks {
        table.add_row([check.name, check.state.word(), &printable(&check.found)]);
    }
    writeln!(out, "{}", trimmed(&table))?;
    if let Some(process) = &diagnosis.process {
        text_process(process, out)?;
    }
    for check in &diagnosis.checks {
        if let Some(remedy) = &check.remedy {
            writeln!(out, "{}: {}; {remedy}", check.name, printable(&check.found))?;
        }
    }
    let verdict = if diagnosis.obstacles().next().is_some() {
        "record does not work here"
    } else if diagnosis.works() {
        "record works here"
    } else {
        "record works here, but not for this process"
    };
    writeln!(out, "{verdict}")
}

fn text_process(process: &Process, out: &mut dyn Write) -> io::Result<()> {
    let plan = match &process.plan {
        Ok(plan) => plan,
        Err(error) => {
            return writeln!(out, "pid {}: {}\n", process.pid, printable(&error.to_string()));
        }
    };
    writeln!(
        out,
        "pid {}: {} probe points, found in {:.1} ms\n",
        process.pid,
        plan.point_count(),
        process.took.as_secs_f64() * 1e3
    )?;
    for file in &plan.files {
        let deleted = if file.deleted { " (deleted)" } else { "" };
        writeln!(out, "{}{deleted}", printable(&file.path.to_string_lossy()))?;
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header(["FUNCTION", "OFFSET", "INSTRUCTION", "KERNEL"]);
        for point in &file.points {
            let spot = &point.spot;
            table.add_row([&point.names(), &point.location(), &spot.instruction, &spot.handling()]);
        }
        writeln!(out, "{}", trimmed(&table))?;
    }
    for skipped in &plan.skipped {
        let name = skipped.function.map_or("allocator", |function| function.name());
        let path = skipped.path.to_string_lossy();
        writeln!(out, "not probed: {name} in {}: {}", printable(&path), skipped.reason)?;
    }
    Ok(())
}

/// The table's lines without the blanks that pad the last column.
fn trimmed(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

pub(super) fn json(diagnosis: &Diagnosis, out: &mut dyn Write) -> Result<(), anyhow::Error> {
    let features = &diagnosis.features;
    let value = json!({
        "format": FORMAT,
        "works": diagnosis.works(),
        "kernel": {
            "release": features.release,
            "machine": features.machine,
            "lockdown": features.lockdown,
            "cgroups": features.cgroups,
            "tracefs": features.tracefs.mount,
            "perf_event_paranoid": features.perf_event_paranoid,
            "unprivileged_bpf_disabled": features.unprivileged_bpf_disabled,
            "functions": features.functions.map(|functions| json!({
                "uprobes": functions.uprobes,
                "raw_tracepoints": functions.raw_tracepoints,
                "ring_buffer": functions.ring_buffer,
                "bpf_loop": functions.bpf_loop,
                "send_signal_thread": functions.send_signal_thread,
                "kprobes": functions.kprobes,
                "trampolines": functions.trampolines,
                "psi_triggers": functions.psi_triggers,
            })),
        },
        "checks": diagnosis.checks,
        "process": diagnosis.process.as_ref().map(json_process),
    });
    serde_json::to_writer_pretty(&mut *out, &value)?;
    writeln!(out)?;
    Ok(())
}

fn json_process(process: &Process) -> Value {
    match &process.plan {
        Ok(plan) => json!({ "pid": process.pid, "files": files(plan), "skipped": skipped(plan) }),
        Err(error) => json!({ "pid": process.pid, "error": error.to_string() }),
    }
}

fn files(plan: &ProbePlan) -> Vec<Value> {
    plan.files
        .iter()
        .map(|file| {
            json!({
                "path": file.path.to_string_lossy(),
                "deleted": file.deleted,
                "points": file.points.iter().map(json_point).collect::<Vec<_>>(),
            })
        })
        .collect()
}

fn json_point(point: &PlannedPoint) -> Value {
    let spot = &point.spot;
    json!({
        "function": point.function.name(),
        "aliases": point.aliases.iter().map(|alias| alias.name()).collect::<Vec<_>>(),
        "function_offset": point.function_offset,
        "entry_offset": spot.entry,
        "instruction": spot.instruction,
        "emulated": spot.emulated,
        "pushed": spot.pushed,
        "return_offset": spot.returns.map(|spot| spot.offset),
        "return_emulated": spot.returns.map(|spot| spot.emulated),
    })
}

fn skipped(plan: &ProbePlan) -> Vec<Value> {
    plan.skipped
        .iter()
        .map(|skipped| {
            json!({
                "path": skipped.path.to_string_lossy(),
                "function": skipped.function.map(|function| function.name()),
                "reason": skipped.reason.to_string(),
            })
        })
        .collect()
}
