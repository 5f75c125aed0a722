//! The truth block at the top of each program; `programs/truth.h` documents its form.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail, ensure};

use crate::compare::Mode;
use crate::paths;

/// What one function of a program does to the heap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    pub calls: u64,
    pub bytes: u64,
    pub live_blocks: u64,
    pub live_bytes: u64,
    pub temporary: u64,
    pub failed: u64,
    /// Compared only when the program states it.
    pub peak_bytes: Option<u64>,
    /// Library frames may lie between this function and the allocator.
    pub any_depth: bool,
}

/// What a whole program does to the heap, in one of the two modes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    pub sites: BTreeMap<String, Site>,
    /// Totals by their name in the report.
    pub totals: BTreeMap<String, u64>,
    /// Texts in the innermost frame's function or module that mark allocations which are not the
    /// program's own.
    pub foreign: Vec<String>,
}

impl Truth {
    /// The truth of `programs/SOURCE` in `mode`.
    ///
    /// # Errors
    /// The file can't be read, has no truth block or a malformed one.
    pub fn of(source: &str, mode: Mode) -> Result<Self> {
        let path = paths::programs().join(source);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Self::parse(&text, mode).with_context(|| format!("truth block of {source}"))
    }

    /// Sums of all sites: the program's own part of the report's totals.
    pub fn sum(&self, of: impl Fn(&Site) -> u64) -> u64 {
        self.sites.values().map(of).sum()
    }

    fn parse(text: &str, mode: Mode) -> Result<Self> {
        let mut truth = Self::default();
        let mut inside = false;
        let mut ended = false;
        for line in text.lines() {
            let line = line.trim().trim_start_matches("//!").trim_start_matches(['*', '/']).trim();
            match line {
                "TRUTH" => inside = true,
                "END" if inside => {
                    ended = true;
                    break;
                }
                _ if inside => truth.line(line, mode).with_context(|| format!("`{line}`"))?,
                _ => {}
            }
        }
        ensure!(ended, "no TRUTH … END block");
        Ok(truth)
    }

    fn line(&mut self, line: &str, mode: Mode) -> Result<()> {
        let mut words = line.split_whitespace().peekable();
        let kind = words.next().context("empty line")?;
        let name = match kind {
            "site" | "foreign" => words.next().context("a name is missing")?,
            "total" => "",
            _ => bail!("unknown kind of line"),
        };
        let mut site = Site::default();
        let mut totals = BTreeMap::new();
        let mut applies = true;
        for word in words {
            let (key, value) = word.split_once('=').context("not KEY=VALUE")?;
            match (kind, key, value) {
                (_, "only", "attach") => applies = mode == Mode::Attach,
                (_, "only", "command") => applies = mode == Mode::Command,
                ("site", "depth", "any") => site.any_depth = true,
                ("total", _, _) => {
                    totals.insert(key.to_owned(), value.parse::<u64>()?);
                }
                ("site", _, _) => *site.field(key)? = value.parse()?,
                _ => bail!("unknown key {key}"),
            }
        }
        if !applies {
            return Ok(());
        }
        match kind {
            "site" => {
                let double = self.sites.insert(name.to_owned(), site).is_some();
                ensure!(!double, "a site twice");
            }
            "foreign" => self.foreign.push(name.to_owned()),
            _ => self.totals.extend(totals),
        }
        Ok(())
    }
}

impl Site {
    fn field(&mut self, key: &str) -> Result<&mut u64> {
        Ok(match key {
            "calls" => &mut self.calls,
            "bytes" => &mut self.bytes,
            "live_blocks" => &mut self.live_blocks,
            "live_bytes" => &mut self.live_bytes,
            "temporary" => &mut self.temporary,
            "failed" => &mut self.failed,
            "peak_bytes" => self.peak_bytes.insert(0),
            _ => bail!("unknown key {key}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = "/* Text.\n * TRUTH\n *   site f calls=2 bytes=8 live_blocks=1 depth=any\n\
         *   site g calls=1 only=command\n *   total free_calls=1 only=attach\n\
         *   foreign libc only=command\n * END\n */";

    #[test]
    fn lines_of_the_other_mode_do_not_apply() {
        let attach = Truth::parse(BLOCK, Mode::Attach).unwrap();
        assert_eq!(attach.sites.keys().collect::<Vec<_>>(), ["f"]);
        assert_eq!(attach.totals["free_calls"], 1);
        assert!(attach.foreign.is_empty());
        let command = Truth::parse(BLOCK, Mode::Command).unwrap();
        assert_eq!(command.sites.keys().collect::<Vec<_>>(), ["f", "g"]);
        assert!(command.totals.is_empty());
        assert_eq!(command.foreign, ["libc"]);
        assert!(command.sites["f"].any_depth);
    }

    #[test]
    fn a_malformed_truth_is_an_error() {
        assert!(Truth::parse("no block", Mode::Attach).is_err());
        assert!(Truth::parse("TRUTH\nsite f calls=1", Mode::Attach).is_err());
        assert!(Truth::parse("TRUTH\nsite f callz=1\nEND", Mode::Attach).is_err());
        assert!(Truth::parse("TRUTH\nsite f\nsite f\nEND", Mode::Attach).is_err());
        assert!(Truth::parse("TRUTH\nsight f\nEND", Mode::Attach).is_err());
    }
}
