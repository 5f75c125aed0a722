//! Where memtrace puts its probes, as it says itself, so that the floor is measured at the same
//! places.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::run::shown;

/// A breakpoint in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    pub function: String,
    pub file: PathBuf,
    /// Offset in the file, not an address.
    pub offset: u64,
    /// On the function's return instead of this place.
    pub at_return: bool,
}

impl fmt::Display for Point {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.at_return { " at return" } else { "" };
        write!(out, "{}{place} ({}+{:#x})", self.function, self.file.display(), self.offset)
    }
}

/// The points at which memtrace would probe `malloc` and `free` in process `pid`.
pub fn of_pair(memtrace: &Path, pid: u32) -> Result<Vec<Point>> {
    let mut command = Command::new(memtrace);
    command.args(["doctor", "--json", "-p", &pid.to_string()]);
    let output = command.output().with_context(|| format!("cannot run {}", shown(&command)))?;
    ensure!(output.status.success(), "{} failed ({})", shown(&command), output.status);
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{} printed no JSON", shown(&command)))?;
    let points = parse(&report).with_context(|| format!("no points from {}", shown(&command)))?;
    ensure!(
        points.len() == 3,
        "not an entry and a return of malloc and an entry of free: {points:?}"
    );
    Ok(points)
}

fn parse(report: &Value) -> Option<Vec<Point>> {
    let points = report.get("points")?.as_array()?.iter().map(|point| {
        Some(Point {
            function: point.get("function")?.as_str()?.to_owned(),
            file: point.get("file")?.as_str()?.into(),
            offset: point.get("offset")?.as_u64()?,
            at_return: point.get("at_return")?.as_bool()?,
        })
    });
    let points = points.collect::<Option<Vec<_>>>()?;
    let of_pair = |point: &Point| point.function == "malloc" || point.function == "free";
    Some(points.into_iter().filter(of_pair).collect())
}
