//! What memtrace is built with, found or installed. Nothing is installed but system packages and
//! what lies in the project's own `.tools`.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{env, fs, thread};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::bpf_toolchain::{
    Compiler, LINKER_VERSION, Toolchain, find_compiler, find_linker, tools_dir,
};
use crate::run::{cargo, root, run_within, step, which};
use crate::{packages, run::run};

/// The newest nightly known to work: later ones are built on an LLVM that bpf-linker 0.10 can't
/// read.
const NIGHTLY: &str = "nightly-2026-05-20";

/// Where rustup downloads from when not told otherwise.
const DIST_SERVER: &str = "https://static.rust-lang.org";

const REACHABLE_WITHIN: Duration = Duration::from_secs(5);
const DOWNLOAD_WITHIN: Duration = Duration::from_secs(600);

/// Finds or installs the compiler and the linker of the BPF programs.
pub fn compiler() -> Result<Toolchain> {
    let compiler = match find_compiler(root()) {
        Some(compiler) => compiler,
        None => install_compiler()?,
    };
    step(format!("BPF compiler: {}, {}", compiler.rustc.display(), compiler.version));
    let linker = match find_linker(root()) {
        Some(linker) => linker,
        None => install_linker()?,
    };
    step(format!("BPF linker: {}, {LINKER_VERSION}", linker.display()));
    Ok(Toolchain { compiler, linker })
}

fn install_compiler() -> Result<Compiler> {
    step("BPF compiler: no Rust compiler with its library source and LLVM 22 here");
    for name in ["rustup", "apt"] {
        let installed = match name {
            "rustup" => install_nightly(),
            _ => install_debian(),
        };
        let installed = installed.and_then(|()| {
            find_compiler(root()).ok_or_else(|| anyhow!("what it installed can't be used"))
        });
        match installed {
            Ok(compiler) => return Ok(compiler),
            Err(error) => step(format!("BPF compiler: not through {name}: {error:#}")),
        }
    }
    bail!("no BPF compiler; try: rustup toolchain install {NIGHTLY} --component rust-src")
}

/// A toolchain in a rustup home of the project's own, so that the user's is left alone.
fn install_nightly() -> Result<()> {
    let rustup = rustup().context("there is no rustup")?;
    check_dist_server()?;
    step(format!("BPF compiler: installing {NIGHTLY} with rust-src in .tools/rustup"));
    let home = tools_dir(root()).join("rustup");
    let mut command = Command::new(rustup);
    command
        .args(["toolchain", "install", NIGHTLY, "--no-self-update", "--profile", "minimal"])
        .args(["--component", "rust-src", "--component", "clippy"])
        .env("RUSTUP_HOME", &home)
        .env_remove("RUSTUP_TOOLCHAIN")
        .stdin(Stdio::null());
    run_within(DOWNLOAD_WITHIN, &mut command).inspect_err(|_| {
        // Half a toolchain is of no use, and would be in the way of the next attempt.
        let _ = fs::remove_dir_all(&home);
    })
}

fn rustup() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    which("rustup")
        .or_else(|| home.map(|home| home.join("bin/rustup")).filter(|file| file.exists()))
}

/// rustup itself tries for minutes where there is no network.
fn check_dist_server() -> Result<()> {
    let proxies = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    if proxies.iter().any(|name| env::var_os(name).is_some()) {
        return Ok(());
    }
    let server = env::var("RUSTUP_DIST_SERVER").unwrap_or_else(|_| DIST_SERVER.to_owned());
    let Some(address) = address_of(&server)? else { return Ok(()) };
    step(format!("BPF compiler: trying {address}"));
    let (sender, receiver) = mpsc::channel();
    let target = address.clone();
    // Resolving a name has no time limit of its own.
    thread::spawn(move || {
        let connected = target.to_socket_addrs().is_ok_and(|mut addresses| {
            addresses.any(|one| TcpStream::connect_timeout(&one, REACHABLE_WITHIN).is_ok())
        });
        // The receiver may have given up.
        let _ = sender.send(connected);
    });
    let connected = receiver.recv_timeout(REACHABLE_WITHIN).unwrap_or(false);
    ensure!(connected, "{address} can't be reached");
    Ok(())
}

/// Host and port of a URL; `None` if it is a file's.
fn address_of(url: &str) -> Result<Option<String>> {
    let Some((scheme, rest)) = url.split_once("://") else {
        bail!("RUSTUP_DIST_SERVER is not an address: {url}");
    };
    let host = rest.split('/').next().unwrap_or(rest);
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok(match scheme {
        "file" => None,
        _ if has_port => Some(host.to_owned()),
        "http" => Some(format!("{host}:80")),
        _ => Some(format!("{host}:443")),
    })
}

fn install_debian() -> Result<()> {
    packages::install(&["rustc-web", "rust-web-src"])
}

fn install_linker() -> Result<PathBuf> {
    step(format!("BPF linker: building bpf-linker {LINKER_VERSION} in .tools"));
    let mut command = cargo();
    command
        .args(["install", "--quiet", "--locked", "--force", "--version", LINKER_VERSION])
        .arg("--root")
        .arg(tools_dir(root()))
        .arg("bpf-linker")
        .stdin(Stdio::null());
    // Flags meant for memtrace are not meant for its tools.
    for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(name);
    }
    run(&mut command)?;
    find_linker(root()).context("bpf-linker was installed but does not run")
}

#[cfg(test)]
mod tests {
    use super::{DIST_SERVER, address_of};

    #[test]
    fn the_address_that_is_tried_is_the_one_rustup_would_use() {
        for (url, address) in [
            (DIST_SERVER, Some("static.rust-lang.org:443")),
            ("http://mirror.example/rustup", Some("mirror.example:80")),
            ("https://mirror.example:8443/rustup", Some("mirror.example:8443")),
            ("https://[2001:db8::1]/", Some("[2001:db8::1]:443")),
            ("https://[2001:db8::1]:8443", Some("[2001:db8::1]:8443")),
            ("file:///srv/rust", None),
        ] {
            let found = address_of(url).expect("an address");
            assert_eq!(found.as_deref(), address, "{url}");
        }
        assert!(address_of("static.rust-lang.org").is_err());
    }
}
