//! Clippy for what the host's clippy can't see.

use std::env;

use anyhow::{Context, Result};

use crate::bpf_toolchain::TARGET;
use crate::run::{root, run, step};
use crate::setup;

/// Runs clippy on the BPF programs where their compiler comes with one; Debian's does not.
pub fn bpf() -> Result<()> {
    let toolchain = setup::compiler()?;
    if !toolchain.compiler.sysroot.join("bin/clippy-driver").is_file() {
        step("no clippy for the BPF programs: their compiler comes without one");
        return Ok(());
    }
    let work_dir = root().join("target/lint-bpf");
    let mut cargo = toolchain
        .cargo(&work_dir, env::consts::ARCH)
        .with_context(|| format!("cannot write to {}", work_dir.display()))?;
    cargo
        .current_dir(root())
        .args(["clippy", "--quiet", "--locked", "--release", "-Zbuild-std=core"])
        .args(["--target", TARGET, "--package", "memtrace-ebpf", "--target-dir"])
        .arg(&work_dir)
        .args(["--", "-D", "warnings"]);
    run(&mut cargo)
}
