//! What `memtrace report --json` says, as far as the tests look at it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::paths;

/// A parsed report.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    pub totals: Map<String, Value>,
    pub losses: Map<String, Value>,
    pub sites: Vec<Site>,
    /// False when the recording has no end: memtrace was killed or the disk ran full.
    pub complete: bool,
    /// Everything else that the report has.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// One stack and what it did.
#[derive(Clone, Debug, Deserialize)]
pub struct Site {
    /// Innermost first.
    pub frames: Vec<Frame>,
    pub alloc_calls: u64,
    pub alloc_bytes: u64,
    pub live_blocks: u64,
    pub live_bytes: u64,
    pub peak_bytes: u64,
    pub temporary_calls: u64,
    pub failed_calls: u64,
    /// Why the stack ends where it does: `complete`, `depth_limit`, ….
    pub end: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Frame {
    pub function: Option<String>,
    pub file: Option<String>,
    pub line: Option<u32>,
    pub module: Option<String>,
    pub address: Value,
    pub inlined: bool,
}

impl Report {
    /// Runs `memtrace report FILE --json`.
    ///
    /// # Errors
    /// It fails, or what it prints isn't such a report.
    pub fn read(file: &Path) -> Result<Self> {
        let output = Command::new(paths::memtrace())
            .arg("report")
            .arg(file)
            .arg("--json")
            .output()
            .context("cannot run memtrace")?;
        ensure!(
            output.status.success(),
            "memtrace report {}: {}\n{}",
            file.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).with_context(|| {
            let text = String::from_utf8_lossy(&output.stdout);
            format!("not the promised JSON: {}", text.chars().take(2000).collect::<String>())
        })
    }

    /// A number of `totals`.
    ///
    /// # Panics
    /// When the report has no such number.
    pub fn total(&self, key: &str) -> u64 {
        number(&self.totals, "totals", key)
    }

    /// A number of `losses`.
    ///
    /// # Panics
    /// When the report has no such number.
    pub fn loss(&self, key: &str) -> u64 {
        number(&self.losses, "losses", key)
    }

    /// What `losses.exact` says.
    ///
    /// # Panics
    /// When it says nothing.
    pub fn exact(&self) -> bool {
        self.losses.get("exact").and_then(Value::as_bool).unwrap_or_else(|| {
            panic!("the report has no losses.exact: {:?}", self.losses);
        })
    }

    /// Sums over the sites whose stack has a frame of this function.
    pub fn sum_with(&self, function: &str, of: impl Fn(&Site) -> u64) -> u64 {
        self.sites.iter().filter(|s| s.frames.iter().any(|f| f.is(function))).map(of).sum()
    }
}

fn number(map: &Map<String, Value>, part: &str, key: &str) -> u64 {
    map.get(key).and_then(Value::as_u64).unwrap_or_else(|| {
        panic!("the report has no number {part}.{key}: {map:?}");
    })
}

impl Frame {
    /// True for the function `name`, or a member of that name: paths, parameters, clone suffixes
    /// and Rust's hashes don't count.
    pub fn is(&self, name: &str) -> bool {
        self.function.as_deref().is_some_and(|f| same_function(f, name))
    }
}

/// See [`Frame::is`].
pub fn same_function(full: &str, name: &str) -> bool {
    let full = full.replace("(anonymous namespace)", "");
    let full = full.split(" [clone").next().unwrap_or_default();
    let full = full.split('(').next().unwrap_or_default();
    let full = full.split('.').next().unwrap_or_default();
    let full: String = full.chars().filter(|c| !matches!(c, '<' | '>')).collect();
    let full = match full.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            path
        }
        _ => &full,
    };
    full == name || full.strip_suffix(name).is_some_and(|path| path.ends_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_known_by_their_last_name() {
        for full in [
            "grow",
            "grow()",
            "Widget::grow(int)",
            "(anonymous namespace)::grow(char const*)",
            "grow.constprop.0",
            "grow [clone .part.1]",
            "boxes::grow::h0123456789abcdef",
            "<boxes::Holder>::grow",
        ] {
            assert!(same_function(full, "grow"), "{full}");
        }
        assert!(same_function("<boxes::Holder>::grow", "Holder::grow"));
        for full in ["outgrow", "growth", "grow::closure", "f(grow)"] {
            assert!(!same_function(full, "grow"), "{full}");
        }
    }
}
