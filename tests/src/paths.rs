//! Where things are: the sources, the build directory, the memtrace binary.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// The workspace's root directory.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace")
}

/// The truth programs' sources.
pub fn programs() -> PathBuf {
    workspace().join("tests/programs")
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The memtrace binary under test: `MEMTRACE_BIN`, else a release build made once by this call (a
/// debug build is too slow a reader for the exactness that the tests ask for).
pub fn memtrace() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| find_or_build().unwrap_or_else(|e| panic!("no memtrace to test: {e:#}")))
}

fn find_or_build() -> Result<PathBuf> {
    if let Some(path) = env::var_os("MEMTRACE_BIN") {
        let path = PathBuf::from(path);
        return path.canonicalize().with_context(|| format!("MEMTRACE_BIN={}", path.display()));
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--package", "memtrace"])
        .current_dir(workspace())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo build failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let path = target().join("release/memtrace");
    path.canonicalize().with_context(|| format!("cargo built no {}", path.display()))
}
