//! Builds the truth programs with gcc, g++ and rustc, once a variant, into the target directory.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};

use crate::paths;

/// How a program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// `-O2 -g`, whatever the compiler does about frame pointers.
    Plain,
    /// `-O2`, symbols but no debug information.
    NoDebug,
    /// `-O1 -g` with frame pointers.
    FramePointers,
    /// `-O2 -g` without frame pointers.
    NoFramePointers,
    /// `-O2` and no symbol table at all.
    Stripped,
    /// The C library linked in, with symbols.
    Static,
    /// The C library linked in, no symbols.
    StaticStripped,
    /// As Plain, with all symbols exported for the oracle.
    Exported,
}

impl Build {
    fn name(self) -> &'static str {
        match self {
            Build::Plain => "plain",
            Build::NoDebug => "no-debug",
            Build::FramePointers => "frame-pointers",
            Build::NoFramePointers => "no-frame-pointers",
            Build::Stripped => "stripped",
            Build::Static => "static",
            Build::StaticStripped => "static-stripped",
            Build::Exported => "exported",
        }
    }

    fn c_flags(self) -> &'static [&'static str] {
        match self {
            Build::Plain => &["-O2", "-g"],
            Build::NoDebug => &["-O2"],
            Build::FramePointers => {
                &["-O1", "-g", "-fno-omit-frame-pointer", "-mno-omit-leaf-frame-pointer"]
            }
            Build::NoFramePointers => &["-O2", "-g", "-fomit-frame-pointer"],
            Build::Stripped => &["-O2", "-s"],
            Build::Static => &["-O2", "-g", "-static"],
            Build::StaticStripped => &["-O2", "-static", "-s"],
            Build::Exported => &["-O2", "-g", "-rdynamic"],
        }
    }

    fn rust_flags(self) -> Result<&'static [&'static str]> {
        Ok(match self {
            Build::Plain | Build::Exported | Build::NoFramePointers => &["-O", "-g"],
            Build::NoDebug => &["-O"],
            Build::FramePointers => &["-O", "-g", "-C", "force-frame-pointers=yes"],
            Build::Stripped => &["-O", "-C", "strip=symbols"],
            Build::Static | Build::StaticStripped => bail!("no static Rust programs"),
        })
    }
}

/// The binary of `programs/SOURCE`, built if it isn't there or is older than its source.
///
/// # Panics
/// When the compiler is missing or fails.
pub fn program(source: &str, build: Build) -> PathBuf {
    let stem = Path::new(source).file_stem().expect("a file name").to_str().expect("ASCII");
    made(source, build.name(), stem, || command(source, build))
}

/// The shared library NAME of `programs/SOURCE`, with `-D` definitions.
///
/// # Panics
/// When the compiler is missing or fails.
pub fn library(source: &str, name: &str, defines: &[&str]) -> PathBuf {
    made(source, "libraries", &format!("{name}.so"), || {
        let mut command = gcc("gcc", &["-std=gnu11", "-fno-builtin", "-fPIC", "-shared"]);
        command.args(["-O2", "-g"]).args(defines.iter().map(|d| format!("-D{d}"))).arg(source);
        Ok(command)
    })
}

fn command(source: &str, build: Build) -> Result<Command> {
    let flags = ["-Wall", "-Wextra", "-Werror", "-Wno-infinite-recursion", "-pthread"];
    let mut command = match Path::new(source).extension().and_then(|e| e.to_str()) {
        Some("c") if source == "no_allocator.c" => {
            let mut command = gcc("gcc", &["-O2", "-static", "-nostdlib"]);
            if build == Build::StaticStripped {
                command.arg("-s");
            }
            command
        }
        // The allocator calls must stay calls, and not become jumps that lose their caller.
        Some("c") => {
            let mut command = gcc("gcc", &["-std=gnu11", "-fno-builtin"]);
            command.args(["-fno-optimize-sibling-calls"]).args(flags).args(build.c_flags());
            command
        }
        Some("cpp") => {
            let mut command = gcc("g++", &["-std=gnu++17", "-fno-optimize-sibling-calls"]);
            command.args(flags).args(build.c_flags());
            command
        }
        Some("rs") => {
            let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
            let mut command = Command::new(rustc);
            command.args(["--edition", "2024"]).args(build.rust_flags()?);
            command
        }
        _ => bail!("don't know how to build {source}"),
    };
    command.arg(source);
    Ok(command)
}

fn gcc(compiler: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(compiler);
    command.args(flags);
    command
}

fn made(
    source: &str,
    folder: &str,
    name: &str,
    command: impl FnOnce() -> Result<Command>,
) -> PathBuf {
    make(source, folder, name, command)
        .unwrap_or_else(|e| panic!("cannot build the truth program {source} ({folder}): {e:#}"))
}

fn make(
    source: &str,
    folder: &str,
    name: &str,
    command: impl FnOnce() -> Result<Command>,
) -> Result<PathBuf> {
    let root = paths::target().join("truth-programs");
    let folder = root.join(folder);
    fs::create_dir_all(&folder)?;
    let lock = File::create(root.join("lock"))?;
    lock.lock().context("cannot lock the truth programs")?;
    let output = folder.join(name);
    let mut command = command()?;
    let line = command_line(&command);
    let note = folder.join(format!("{name}.command"));
    if is_current(source, &output)? && fs::read_to_string(&note).is_ok_and(|old| old == line) {
        return Ok(output);
    }
    let fresh = folder.join(format!("{name}.new"));
    let made = command.arg("-o").arg(&fresh).current_dir(paths::programs()).output();
    let made = made.with_context(|| format!("cannot run {}", command.get_program().display()))?;
    ensure!(made.status.success(), "{line}\n{}", String::from_utf8_lossy(&made.stderr));
    fs::rename(&fresh, &output)?;
    fs::write(&note, line)?;
    Ok(output)
}

fn command_line(command: &Command) -> String {
    let mut line = OsString::from(command.get_program());
    for arg in command.get_args() {
        line.push(" ");
        line.push(arg);
    }
    line.to_string_lossy().into_owned()
}

fn is_current(source: &str, output: &Path) -> Result<bool> {
    let Ok(made) = modified(output) else { return Ok(false) };
    Ok(made > modified(&paths::programs().join(source))?
        && made > modified(&paths::programs().join("truth.h"))?)
}

fn modified(path: &Path) -> Result<SystemTime> {
    Ok(fs::metadata(path).with_context(|| path.display().to_string())?.modified()?)
}
