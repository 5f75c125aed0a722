//! The probe plan: at which instructions of which files the breakpoints go.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

use memtrace_common::point::Function;

use super::{
    allocators::{Definition, Definitions, definitions, in_use},
    launch::{self, LaunchError},
    module::Module,
    running::{self, Scope, ScopeError},
};
use crate::elf::{
    Headers,
    prologue::{self, Arguments, Emulation, Placement, PrologueError, Wanted},
};

/// The points of one program.
#[derive(Debug)]
pub struct ProbePlan {
    /// Files with at least one point, in the order of symbol lookup.
    pub files: Vec<ProbedFile>,
    /// What could have been a point and is none.
    pub skipped: Vec<Skipped>,
}

/// A file with its points.
#[derive(Debug)]
pub struct ProbedFile {
    /// As the process sees it.
    pub path: PathBuf,
    /// True when `path` no longer names the file.
    pub deleted: bool,
    /// The file, open for reading; attach to `/proc/self/fd/N`.
    pub file: File,
    /// In order of file offset; no two share an offset.
    pub points: Vec<PlannedPoint>,
}

/// The point of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPoint {
    pub function: Function,
    /// Other functions with the same code: glibc's aligned_alloc and memalign are one.
    pub aliases: Vec<Function>,
    /// File offset of the function's first byte.
    pub function_offset: u64,
    /// Where the breakpoint goes.
    pub spot: Spot,
    /// Where else it can go, cheapest first.
    pub alternatives: Vec<Spot>,
}

/// A breakpoint or two, by file offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// File offset of the entry breakpoint.
    pub entry: u64,
    /// Bytes pushed since the function's entry: the return address is at `rsp + pushed`.
    pub pushed: u8,
    /// The instruction under the entry breakpoint, Intel syntax.
    pub instruction: String,
    /// Whether the kernel emulates it; else it is single-stepped, at about ten times the cost.
    pub emulated: bool,
    /// The return probe; None for functions that only release memory.
    pub returns: Option<ReturnSpot>,
    /// Calls with NULL don't get here.
    pub misses_null: bool,
}

/// The breakpoint of a return probe, where the return address is at `rsp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnSpot {
    /// File offset. Often the same as the entry's: then both share one breakpoint.
    pub offset: u64,
    pub emulated: bool,
}

/// A function or a file that got no point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub path: PathBuf,
    /// None: the whole file.
    pub function: Option<Function>,
    pub reason: SkipReason,
}

/// Why there is no point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason {
    #[error("picked at run time by a resolver (IFUNC)")]
    Indirect,
    #[error("loaded later by dlopen, so the program's own calls don't reach it")]
    NotInLookup,
    #[error("{0}")]
    Prologue(#[from] PrologueError),
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Scope(#[from] ScopeError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    NoAllocator(#[from] NoAllocator),
}

/// No function of an allocator was found, so there is nothing to record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct NoAllocator {
    /// The executable.
    pub program: PathBuf,
    /// Linked statically: only the executable itself could have one.
    pub is_static: bool,
    /// The executable has a symbol table.
    pub has_symbols: bool,
    /// The files that were looked at.
    pub searched: Vec<PathBuf>,
    pub skipped: Vec<Skipped>,
}

impl fmt::Display for NoAllocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Function::ALL.into_iter().map(Function::name).collect();
        write!(f, "no allocator found: looked for {} in ", names.join(", "))?;
        let shown: Vec<_> =
            self.searched.iter().take(8).map(|path| path.display().to_string()).collect();
        f.write_str(&shown.join(", "))?;
        if self.searched.len() > shown.len() {
            write!(f, " and {} more files", self.searched.len() - shown.len())?;
        }
        for skipped in &self.skipped {
            let name = skipped.function.map_or("", Function::name);
            write!(f, "; {name} in {}: {}", skipped.path.display(), skipped.reason)?;
        }
        if self.is_static && !self.has_symbols {
            f.write_str(
                "; the program is linked statically and stripped: \
                 try a build with its symbol table (not stripped), or one linked dynamically",
            )
        } else if self.is_static {
            f.write_str(
                "; the program is linked statically and names none of them: \
                 it may bring an allocator under other names, which is not supported",
            )
        } else {
            f.write_str(
                "; try again once the program has loaded its libraries, \
                 or check that it allocates with malloc at all",
            )
        }
    }
}

/// The plan for a running process. `emulation` is the running kernel's.
///
/// # Errors
/// [`PlanError::Scope`] when the process can't be looked into, [`PlanError::NoAllocator`].
pub fn plan_for_process(pid: u32, emulation: Emulation) -> Result<ProbePlan, PlanError> {
    Ok(plan(running::scope(pid)?, emulation)?)
}

/// The plan for a program that is not running yet. `environment` is the one it will get: LD_PRELOAD
/// and LD_LIBRARY_PATH count. A script stands for its interpreter.
///
/// What the program executes in turn is not looked at: it nearly always uses the same libc file.
///
/// # Errors
/// [`PlanError::Launch`] when the file can't be run, [`PlanError::NoAllocator`].
pub fn plan_for_command(
    program: &Path,
    environment: &launch::Environment,
    emulation: Emulation,
) -> Result<ProbePlan, PlanError> {
    Ok(plan(launch::scope(program, environment)?, emulation)?)
}

fn plan(scope: Scope, emulation: Emulation) -> Result<ProbePlan, NoAllocator> {
    let is_static = scope.lookup.first().is_some_and(|m| m.linkage.interpreter.is_none());
    let all: Vec<Definitions> = scope
        .lookup
        .iter()
        .enumerate()
        .map(|(index, module)| definitions(module, is_static && index == 0))
        .collect();

    let mut skipped = Vec::new();
    let mut chosen: Vec<Vec<&Definition>> = vec![Vec::new(); all.len()];
    for (function, index) in in_use(&all) {
        let path = &scope.lookup[index].path;
        if all[index].indirect.contains(&function) {
            let function = Some(function);
            let reason = SkipReason::Indirect;
            skipped.push(Skipped { path: path.clone(), function, reason });
        }
        chosen[index].extend(all[index].found.iter().filter(|d| d.function == function));
    }
    for module in &scope.aside {
        if definitions(module, false).is_allocator() {
            let reason = SkipReason::NotInLookup;
            skipped.push(Skipped { path: module.path.clone(), function: None, reason });
        }
    }

    let searched: Vec<PathBuf> = scope.lookup.iter().map(|m| m.path.clone()).collect();
    let mut files = Vec::new();
    for (module, wanted) in scope.lookup.into_iter().zip(chosen) {
        if wanted.is_empty() {
            continue;
        }
        let points = points(&module, &wanted, emulation, &mut skipped);
        if !points.is_empty() {
            let Module { path, deleted, file, .. } = module;
            files.push(ProbedFile { path, deleted, file, points });
        }
    }
    if files.is_empty() {
        return Err(NoAllocator {
            program: searched.first().cloned().unwrap_or_default(),
            is_static,
            has_symbols: all.first().is_some_and(|d| d.has_symbols),
            searched,
            skipped,
        });
    }
    Ok(ProbePlan { files, skipped })
}

/// The points of one file, functions with the same code merged.
fn points(
    module: &Module,
    wanted: &[&Definition],
    emulation: Emulation,
    skipped: &mut Vec<Skipped>,
) -> Vec<PlannedPoint> {
    let bytes = module.image.bytes();
    let mut by_offset: BTreeMap<u64, Vec<&Definition>> = BTreeMap::new();
    for definition in wanted {
        by_offset.entry(definition.offset).or_default().push(definition);
    }
    let beginnings: Vec<Range<u64>> =
        wanted.iter().map(|d| d.svma + 1..d.svma + prologue::REACH.min(d.size.max(1))).collect();
    let branches_in = branches_in(bytes, &beginnings);

    let mut points = Vec::new();
    for (offset, same) in by_offset {
        let Some(first) = same.first() else { continue };
        let size = same.iter().map(|d| d.size).max().unwrap_or_default();
        let code = code_at(bytes, offset, size);
        let wish = same.iter().skip(1).fold(wish(first.function), |all, d| merge(all, d.function));
        match prologue::place(code, first.svma, &wish, &branches_in, emulation) {
            Ok(placements) => {
                let mut spots = placements.into_iter().map(|p| spot(offset, &wish, p));
                let Some(spot) = spots.next() else { continue };
                points.push(PlannedPoint {
                    function: first.function,
                    aliases: same.iter().skip(1).map(|d| d.function).collect(),
                    function_offset: offset,
                    spot,
                    alternatives: spots.collect(),
                });
            }
            Err(error) => skipped.extend(same.iter().map(|d| Skipped {
                path: module.path.clone(),
                function: Some(d.function),
                reason: SkipReason::Prologue(error),
            })),
        }
    }
    points
}

fn code_at(bytes: &[u8], offset: u64, size: u64) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let end = usize::try_from(offset.saturating_add(size)).unwrap_or(usize::MAX).min(bytes.len());
    &bytes[start..end]
}

/// Branches into the functions' beginnings from anywhere in the file's code.
fn branches_in(bytes: &[u8], beginnings: &[Range<u64>]) -> Vec<u64> {
    let Ok(headers) = Headers::read(bytes) else { return Vec::new() };
    let code = headers.segments.iter().filter(|segment| segment.executable);
    code.flat_map(|segment| {
        let text = code_at(bytes, segment.offset, segment.file_size);
        prologue::branches_into(text, segment.svma, beginnings)
    })
    .collect()
}

/// What the BPF programs read at entry, by the function's C signature.
fn wish(function: Function) -> Wanted {
    let (rdi, rsi, rdx) = match function {
        Function::Malloc | Function::Valloc | Function::Pvalloc => (true, false, false),
        Function::Calloc | Function::Realloc => (true, true, false),
        Function::Reallocarray => (true, true, true),
        // (void **result, alignment, size)
        Function::PosixMemalign => (true, false, true),
        // (alignment, size)
        Function::AlignedAlloc | Function::Memalign => (false, true, false),
        Function::Free | Function::Cfree | Function::FreeSized | Function::FreeAlignedSized => {
            (true, false, false)
        }
    };
    Wanted {
        arguments: Arguments { rdi, rsi, rdx },
        returns: !function.is_free(),
        may_miss_null: function.is_free(),
    }
}

fn merge(all: Wanted, function: Function) -> Wanted {
    let more = wish(function);
    Wanted {
        arguments: Arguments {
            rdi: all.arguments.rdi || more.arguments.rdi,
            rsi: all.arguments.rsi || more.arguments.rsi,
            rdx: all.arguments.rdx || more.arguments.rdx,
        },
        returns: all.returns || more.returns,
        may_miss_null: all.may_miss_null && more.may_miss_null,
    }
}

fn spot(function_offset: u64, wish: &Wanted, placement: Placement) -> Spot {
    Spot {
        entry: function_offset + placement.entry_offset,
        pushed: placement.pushed,
        instruction: placement.instruction,
        emulated: placement.emulated,
        returns: wish.returns.then(|| ReturnSpot {
            offset: function_offset + placement.return_offset,
            emulated: placement.return_emulated,
        }),
        misses_null: placement.misses_null,
    }
}

impl ProbePlan {
    /// Number of functions that have a point, aliases not counted.
    pub fn point_count(&self) -> usize {
        self.files.iter().map(|file| file.points.len()).sum()
    }
}

impl PlannedPoint {
    /// `aligned_alloc = memalign`.
    pub fn names(&self) -> String {
        let mut names = String::from(self.function.name());
        for alias in &self.aliases {
            names.push_str(" = ");
            names.push_str(alias.name());
        }
        names
    }

    /// `0x98ef0+9`: the function's file offset and the entry breakpoint's distance.
    pub fn location(&self) -> String {
        format!("{:#x}+{}", self.function_offset, self.spot.entry - self.function_offset)
    }
}

impl Spot {
    /// `emulated` or `stepped`, of the entry and, where it has one of its own, the return probe.
    pub fn handling(&self) -> String {
        let word = |emulated| if emulated { "emulated" } else { "stepped" };
        match self.returns {
            Some(ret) if ret.offset != self.entry => {
                format!("{}, return {}", word(self.emulated), word(ret.emulated))
            }
            _ => word(self.emulated).to_owned(),
        }
    }
}

impl fmt::Display for ProbePlan {
    /// A table for `record -v`: a line a file, then a line a point.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            let deleted = if file.deleted { " (deleted)" } else { "" };
            writeln!(f, "{}{deleted}", shown(&file.path))?;
            for point in &file.points {
                writeln!(
                    f,
                    "  {:<24} {:<14} {:<28} {}",
                    point.names(),
                    point.location(),
                    point.spot.instruction,
                    point.spot.handling()
                )?;
            }
        }
        for skipped in &self.skipped {
            let name = skipped.function.map_or("allocator", Function::name);
            writeln!(f, "not probed: {name} in {}: {}", shown(&skipped.path), skipped.reason)?;
        }
        Ok(())
    }
}

/// A target chooses its files' names, and a terminal obeys what they hold.
fn shown(path: &Path) -> String {
    path.to_string_lossy().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
#[path = "points_tests.rs"]
mod tests;
