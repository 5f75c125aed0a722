//! Compiles the BPF programs and leaves the object in `OUT_DIR` for the library to embed.

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

#[path = "../xtask/src/bpf_toolchain.rs"]
mod bpf_toolchain;

use bpf_toolchain::{TARGET, Toolchain, find_compiler, find_linker};

const PACKAGE: &str = "memtrace-ebpf";

/// What the object is made from, relative to the workspace.
const INPUTS: [&str; 6] = [
    "Cargo.lock",
    "Cargo.toml",
    "memtrace-common/Cargo.toml",
    "memtrace-common/src",
    "memtrace-ebpf/Cargo.toml",
    "memtrace-ebpf/src",
];

fn main() -> ExitCode {
    let (Some(manifest_dir), Some(out_dir), Ok(arch)) = (
        env::var_os("CARGO_MANIFEST_DIR"),
        env::var_os("OUT_DIR"),
        env::var("CARGO_CFG_TARGET_ARCH"),
    ) else {
        println!("cargo::error=memtrace: build.rs is for cargo to run");
        return ExitCode::SUCCESS;
    };
    let Some(root) = Path::new(&manifest_dir).parent() else {
        println!("cargo::error=memtrace: the memtrace folder must lie in its workspace");
        return ExitCode::SUCCESS;
    };
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let (Some(compiler), Some(linker)) = (find_compiler(root), find_linker(root)) else {
        println!("cargo::error=memtrace: no BPF compiler found; run: cargo xtask setup");
        return ExitCode::SUCCESS;
    };
    let toolchain = Toolchain { compiler, linker };
    match build(&toolchain, root, Path::new(&out_dir), &arch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("memtrace: {error}");
            ExitCode::FAILURE
        }
    }
}

fn build(toolchain: &Toolchain, root: &Path, out_dir: &Path, arch: &str) -> Result<(), String> {
    let target_dir = out_dir.join("ebpf");
    let mut cargo = toolchain
        .cargo(out_dir, arch)
        .map_err(|error| format!("cannot write to {}: {error}", out_dir.display()))?;
    cargo
        .current_dir(root)
        .args(["build", "--quiet", "--locked", "--release", "-Zbuild-std=core"])
        .args(["--target", TARGET, "--package", PACKAGE, "--target-dir"])
        .arg(&target_dir);
    let output = cargo.output().map_err(|error| format!("cannot run {cargo:?}: {error}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!(
            "the BPF programs do not compile with {}\n{messages}",
            toolchain.compiler.version
        ));
    }
    for line in messages.lines() {
        println!("cargo::warning={line}");
    }
    let object = target_dir.join(TARGET).join("release").join(PACKAGE);
    fs::copy(&object, out_dir.join(PACKAGE))
        .map_err(|error| format!("cannot copy {}: {error}", object.display()))?;
    Ok(())
}
