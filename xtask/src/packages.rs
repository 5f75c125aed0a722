//! System packages, through apt.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::run::{as_root, run, step, which};

/// A program and the Debian package that has it.
#[derive(Clone, Copy)]
pub struct Tool {
    pub program: &'static str,
    pub package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// What the demo's service is compiled with.
pub const DEMO: [Tool; 1] = [tool("gcc", "gcc")];

/// What the tests run, record and compare with.
pub const TEST: [Tool; 10] = [
    tool("gcc", "gcc"),
    tool("g++", "g++"),
    tool("readelf", "binutils"),
    tool("gdb", "gdb"),
    tool("python3", "python3"),
    tool("sqlite3", "sqlite3"),
    tool("jq", "jq"),
    tool("redis-server", "redis-server"),
    tool("redis-cli", "redis-tools"),
    tool("heaptrack_print", "heaptrack"),
];

/// What the benches compare with.
pub const BENCH: [Tool; 2] = [tool("gcc", "gcc"), tool("bpftrace", "bpftrace")];

/// Runs as root: a package's service must not be running or enabled because a test wanted the
/// package's program. Debian's maintainer scripts ask policy-rc.d before they start a service.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod 755 "$policy" || exit 1
fi
had_redis=$(dpkg-query -W -f '${db:Status-Status}' redis-server 2>/dev/null)
export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=300 -q update ||
    echo 'apt-get update failed; going on with the package lists that are there' >&2
apt-get -o DPkg::Lock::Timeout=300 -q -y --no-install-recommends --no-remove install "$@" || exit 1
if [ "$had_redis" != installed ] && [ -d /run/systemd/system ]; then
    case " $* " in *' redis-server '*) systemctl disable --now redis-server ;; esac
fi
exit 0
"#;

/// Installs the packages of those tools that are not there.
pub fn ensure_tools(tools: &[Tool]) -> Result<()> {
    let (found, missing): (Vec<&Tool>, Vec<&Tool>) =
        tools.iter().partition(|tool| which(tool.program).is_some());
    if !found.is_empty() {
        let names: Vec<_> = found.iter().map(|tool| tool.program).collect();
        step(format!("found {}", names.join(", ")));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    packages.dedup();
    install(&packages)?;
    for tool in missing {
        ensure!(
            which(tool.program).is_some(),
            "package {} was installed but has no {}",
            tool.package,
            tool.program
        );
    }
    Ok(())
}

/// Installs Debian packages.
pub fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    ensure!(
        which("apt-get").is_some(),
        "no apt-get here; install with your package manager what Debian calls: {list}"
    );
    step(format!("apt-get install {list}"));
    let mut command = as_root("sh").with_context(|| format!("cannot install {list}"))?;
    command.args(["-c", INSTALL, "install"]).args(packages).stdin(Stdio::null());
    run(&mut command).with_context(|| format!("cannot install {list}"))
}
