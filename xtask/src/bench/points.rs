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

/// The breakpoints of `malloc` and `free` in what doctor prints as JSON.
fn parse(report: &Value) -> Option<Vec<Point>> {
    let mut points = Vec::new();
    for file in report.get("process")?.get("files")?.as_array()? {
        let path = file.get("path")?.as_str()?;
        for point in file.get("points")?.as_array()? {
            let function = point.get("function")?.as_str()?;
            if function != "malloc" && function != "free" {
                continue;
            }
            let mut add = |offset: u64, at_return| {
                let file = path.into();
                points.push(Point { function: function.to_owned(), file, offset, at_return });
            };
            add(point.get("entry_offset")?.as_u64()?, false);
            // A function that only frees has none.
            if let Some(offset) = point.get("return_offset")?.as_u64() {
                add(offset, true);
            }
        }
    }
    Some(points)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Point, parse};

    #[test]
    fn the_pair_is_picked_from_what_doctor_says() {
        let report = json!({ "process": { "pid": 1, "files": [{ "path": "/lib/libc.so.6", "points": [
            { "function": "malloc", "entry_offset": 100, "return_offset": 100 },
            { "function": "calloc", "entry_offset": 200, "return_offset": 200 },
            { "function": "free", "entry_offset": 309, "return_offset": null },
        ]}]}});
        let point = |function: &str, offset, at_return| Point {
            function: function.into(),
            file: "/lib/libc.so.6".into(),
            offset,
            at_return,
        };
        let expected = vec![
            point("malloc", 100, false),
            point("malloc", 100, true),
            point("free", 309, false),
        ];
        assert_eq!(parse(&report), Some(expected));
        // No process, as when it has no allocator.
        assert_eq!(parse(&json!({ "process": null })), None);
    }
}
