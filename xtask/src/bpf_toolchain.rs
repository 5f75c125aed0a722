//! Finds what compiles the BPF programs: a Rust compiler with its library source, the LLVM it was
//! built on, and bpf-linker.
//!
//! Compiled twice: as a module of xtask, which installs what is missing, and by `memtrace/build.rs`,
//! which only looks. Standard library only, so that neither needs anything to be prepared.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// The rustc target of the BPF programs.
pub const TARGET: &str = "bpfel-unknown-none";

/// The bpf-linker that is installed when there is none. 0.10 is the last one for LLVM 22, which is
/// the LLVM of the Rust versions that the aya crates in use accept.
pub const LINKER_VERSION: &str = "0.10.3";

/// Bit code of a newer LLVM can't be read by the linker, so the compiler must be of this one.
const LLVM_MAJOR: &str = "22";

/// The oldest usable compiler, `rust-version` of the workspace.
const MIN_RUST: (u32, u32) = (1, 95);

/// A compiler that can build `core` for the BPF target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// The compiler itself, not a rustup proxy.
    pub rustc: PathBuf,
    /// Its sysroot, which holds the library source.
    pub sysroot: PathBuf,
    /// What `rustc -V` prints.
    pub version: String,
    /// The shared library of its LLVM, which bpf-linker loads.
    pub llvm: PathBuf,
}

/// All that is needed to build the BPF programs.
#[derive(Debug, Clone)]
pub struct Toolchain {
    pub compiler: Compiler,
    pub linker: PathBuf,
}

impl Toolchain {
    /// `cargo` set up to compile for the BPF target, without its subcommand. `work_dir` is a folder
    /// of the caller's own; `target_arch` is the architecture whose registers the programs read.
    pub fn cargo(&self, work_dir: &Path, target_arch: &str) -> io::Result<Command> {
        // bpf-linker takes the first libLLVM it sees in LD_LIBRARY_PATH, and system folders hold
        // several: give it a folder with nothing but the right one.
        let llvm_dir = work_dir.join("llvm");
        match fs::remove_dir_all(&llvm_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&llvm_dir)?,
        }
        let name = self.compiler.llvm.file_name().unwrap_or_else(|| OsStr::new("libLLVM.so"));
        std::os::unix::fs::symlink(&self.compiler.llvm, llvm_dir.join(name))?;

        let own_cargo = self.compiler.sysroot.join("bin/cargo");
        let cargo = if own_cargo.is_file() {
            own_cargo.into_os_string()
        } else {
            env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
        };
        let linker = self.linker.display();
        let flags = [
            "-Cdebuginfo=2".to_owned(),
            format!("-Clinker={linker}"),
            "-Clink-arg=--btf".to_owned(),
            "--cfg".to_owned(),
            format!("bpf_target_arch=\"{target_arch}\""),
        ];

        let mut command = Command::new(cargo);
        for (name, _) in env::vars_os().filter(|(name, _)| is_build_variable(name)) {
            command.env_remove(name);
        }
        command
            .env("RUSTC", &self.compiler.rustc)
            // -Z build-std on a compiler that is not a nightly one.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("LD_LIBRARY_PATH", llvm_dir)
            .env("PATH", path_with(self.compiler.rustc.parent()))
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        Ok(command)
    }
}

/// Variables by which a running cargo, clippy or build script would change what an inner cargo does.
fn is_build_variable(name: &OsStr) -> bool {
    const USERS_OWN: [&str; 5] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_TERM_"];
    const PREFIXES: [&str; 6] = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "CLIPPY", "DEP_"];
    const NAMES: [&str; 12] = [
        "DEBUG",
        "HOST",
        "LD_LIBRARY_PATH",
        "MAKEFLAGS",
        "MFLAGS",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTUP_TOOLCHAIN",
        "TARGET",
        "__CARGO_DEFAULT_LIB_METADATA",
    ];
    let Some(name) = name.to_str() else { return false };
    let starts = |prefix: &&str| name.starts_with(prefix);
    NAMES.contains(&name) || PREFIXES.iter().any(starts) && !USERS_OWN.iter().any(starts)
}

fn path_with(first: Option<&Path>) -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let all = first.map(Path::to_owned).into_iter().chain(env::split_paths(&path));
    env::join_paths(all).unwrap_or(path)
}

/// Where setup keeps the tools it installs.
pub fn tools_dir(root: &Path) -> PathBuf {
    root.join(".tools")
}

/// The best compiler on this machine: rustup's toolchains, nightly ones first, then the one that
/// setup installed for the project, then the system's.
pub fn find_compiler(root: &Path) -> Option<Compiler> {
    let mut sysroots = Vec::new();
    if let Some(home) = rustup_home() {
        sysroots.extend(toolchains(&home));
    }
    sysroots.extend(toolchains(&tools_dir(root).join("rustup")));
    sysroots
        .into_iter()
        .find_map(|sysroot| examine(&sysroot.join("bin/rustc"), sysroot))
        .or_else(find_system_compiler)
}

fn rustup_home() -> Option<PathBuf> {
    let home = env::var_os("RUSTUP_HOME").map(PathBuf::from);
    home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".rustup")))
}

fn toolchains(rustup_home: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(rustup_home.join("toolchains")) else { return Vec::new() };
    let mut found: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (!name.starts_with("nightly"), name)
    });
    found
}

fn find_system_compiler() -> Option<Compiler> {
    let path = env::var_os("PATH").unwrap_or_default();
    let standard = ["/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(standard).find_map(|dir| {
        let rustc = dir.join("rustc");
        // A rustup proxy stands for a toolchain that was looked at already.
        if !rustc.is_file() || dir.join("rustup").exists() {
            return None;
        }
        let sysroot = output(Command::new(&rustc).args(["--print", "sysroot"]))?;
        examine(&rustc, PathBuf::from(sysroot.trim()))
    })
}

/// The compiler at `rustc`, if it has its library source and the LLVM that the linker needs.
fn examine(rustc: &Path, sysroot: PathBuf) -> Option<Compiler> {
    // First what needs no process.
    if !sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file() {
        return None;
    }
    let verbose = output(Command::new(rustc).arg("-vV"))?;
    let (release, llvm) = parse_version(&verbose)?;
    if release < MIN_RUST || llvm != LLVM_MAJOR {
        return None;
    }
    Some(Compiler {
        rustc: rustc.to_owned(),
        version: verbose.lines().next()?.to_owned(),
        llvm: find_llvm(&sysroot)?,
        sysroot,
    })
}

/// Release (major, minor) and LLVM major version from what `rustc -vV` prints.
fn parse_version(verbose: &str) -> Option<((u32, u32), &str)> {
    let field = |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name));
    let mut release = field("release: ")?.split('.');
    let release = (release.next()?.parse().ok()?, release.next()?.parse().ok()?);
    Some((release, field("LLVM version: ")?.split('.').next()?))
}

fn find_llvm(sysroot: &Path) -> Option<PathBuf> {
    let mut dirs = vec![sysroot.join("lib"), sysroot.join("lib64")];
    if let Ok(entries) = fs::read_dir(sysroot.join("lib")) {
        // Debian's multiarch folder, and llvm-22/lib.
        let subdirs = entries.flatten().map(|entry| entry.path());
        let subdirs = subdirs.filter(|dir| {
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with("-linux-gnu") || *name == format!("llvm-{LLVM_MAJOR}")
        });
        dirs.extend(subdirs.flat_map(|dir| [dir.join("lib"), dir]));
    }
    let prefix = format!("libLLVM.so.{LLVM_MAJOR}");
    dirs.iter().find_map(|dir| {
        let mut names: Vec<_> = fs::read_dir(dir).ok()?.flatten().map(|e| e.file_name()).collect();
        names.sort();
        let name = names.into_iter().find(|name| name.to_string_lossy().starts_with(&prefix))?;
        Some(dir.join(name))
    })
}

/// bpf-linker as setup installs it, or on PATH if its version fits.
pub fn find_linker(root: &Path) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own = tools_dir(root).join("bin");
    let dirs = [own].into_iter().chain(env::split_paths(&path));
    dirs.map(|dir| dir.join("bpf-linker")).find(|linker| {
        linker.is_file()
            && output(Command::new(linker).arg("--version"))
                .is_some_and(|text| text.trim() == format!("bpf-linker {LINKER_VERSION}"))
    })
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    if !output.status.success() {
        return None;
    }
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::path::Path;
    use std::{env, fs, io, process};

    use super::{find_llvm, is_build_variable, parse_version, toolchains};

    #[test]
    fn versions_are_read_from_stable_nightly_and_distribution_compilers() {
        let nightly = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
                       host: x86_64-unknown-linux-gnu\nrelease: 1.97.0-nightly\n\
                       LLVM version: 22.1.4\n";
        assert_eq!(parse_version(nightly), Some(((1, 97), "22")));
        assert_eq!(parse_version("release: 2.0.1\nLLVM version: 23.0.0\n"), Some(((2, 0), "23")));
        // Built with another code generator.
        assert_eq!(parse_version("release: 1.95.0\n"), None);
    }

    #[test]
    fn variables_of_the_outer_cargo_are_dropped_and_the_users_network_settings_kept() {
        for name in [
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_PKG_NAME",
            "CARGO_TARGET_DIR",
            "CARGO",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
            "CLIPPY_ARGS",
            "TARGET",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(is_build_variable(OsStr::new(name)), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_HTTP_PROXY", "CARGO_REGISTRIES_X_INDEX", "PATH", "HOME"] {
            assert!(!is_build_variable(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn nightly_toolchains_come_first() {
        with_dir("toolchains", |dir| {
            for name in ["1.95.0-x86_64", "nightly-x86_64", "stable-x86_64"] {
                fs::create_dir_all(dir.join("toolchains").join(name))?;
            }
            let found = toolchains(dir);
            assert_eq!(found.len(), 3);
            assert!(found[0].ends_with("nightly-x86_64"));
            Ok(())
        });
    }

    #[test]
    fn of_several_llvms_the_one_the_linker_reads_is_taken() {
        with_dir("llvm", |dir| {
            let lib = dir.join("lib/x86_64-linux-gnu");
            fs::create_dir_all(&lib)?;
            for name in ["libLLVM-14.so.1", "libLLVM-22.so", "libLLVM.so.21.1", "libLLVM.so.23.1"] {
                fs::write(lib.join(name), "")?;
            }
            assert_eq!(find_llvm(dir), None);
            fs::write(lib.join("libLLVM.so.22.1"), "")?;
            assert_eq!(find_llvm(dir), Some(lib.join("libLLVM.so.22.1")));
            Ok(())
        });
    }

    fn with_dir(name: &str, test: impl FnOnce(&Path) -> io::Result<()>) {
        let dir = env::temp_dir().join(format!("xtask-{name}-{}", process::id()));
        fs::create_dir_all(&dir).and_then(|()| test(&dir)).expect("a temporary folder");
        fs::remove_dir_all(&dir).expect("nobody else removed it");
    }
}
