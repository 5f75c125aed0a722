//! What a live test needs of the machine.

use std::fs::{self, File};
use std::path::Path;

use crate::paths;

/// Held by a live test: one runs at a time, over all test processes of this workspace, so that none
/// disturbs another's timing.
pub struct Turn {
    _lock: File,
}

/// Waits for this test's turn on a machine that can run live tests.
///
/// # Panics
/// When the machine can't: not root, no BTF, no tracefs. A live test that can't run has failed.
pub fn live() -> Turn {
    assert!(
        rustix::process::geteuid().is_root(),
        "live tests need root (they attach probes to processes); run: sudo -E cargo xtask test"
    );
    assert!(
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        "live tests need a kernel with BTF (CONFIG_DEBUG_INFO_BTF): no /sys/kernel/btf/vmlinux"
    );
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    assert!(
        filesystems.contains("\ttracefs"),
        "live tests need a kernel with tracefs and uprobes (CONFIG_UPROBE_EVENTS)"
    );
    let path = paths::target().join("live-tests.lock");
    fs::create_dir_all(paths::target()).expect("the target directory");
    let lock = File::create(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    lock.lock().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Turn { _lock: lock }
}
