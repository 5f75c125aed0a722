//! Values that userspace writes into `.rodata` before load, so that the verifier sees constants.

/// 1: stop the allocating thread when the ring is half full instead of losing events.
#[unsafe(no_mangle)]
static LOSSLESS: u8 = 0;

/// Unread bytes in the ring from which the reader is woken, a part of the ring's size.
#[unsafe(no_mangle)]
static WAKEUP_BYTES: u64 = 1 << 20;

/// Unread bytes in the ring from which `--lossless` stops the thread.
#[unsafe(no_mangle)]
static STOP_BYTES: u64 = 8 << 20;

/// Byte offset of `task_struct.tgid`, from BTF.
#[unsafe(no_mangle)]
static TASK_TGID: u64 = 0;

/// Byte offset of `task_struct.signal`, from BTF.
#[unsafe(no_mangle)]
static TASK_SIGNAL: u64 = 0;

/// Byte offset of `signal_struct.live`, from BTF.
#[unsafe(no_mangle)]
static SIGNAL_LIVE: u64 = 0;

macro_rules! setting {
    ($name:ident, $static:ident, $type:ty) => {
        #[inline(always)]
        pub fn $name() -> $type {
            // SAFETY: a read of an initialised static of ours; volatile, since its value is replaced
            // between compilation and load.
            unsafe { core::ptr::read_volatile(&raw const $static) }
        }
    };
}

setting!(lossless, LOSSLESS, u8);
setting!(wakeup_bytes, WAKEUP_BYTES, u64);
setting!(stop_bytes, STOP_BYTES, u64);
setting!(task_tgid, TASK_TGID, u64);
setting!(task_signal, TASK_SIGNAL, u64);
setting!(signal_live, SIGNAL_LIVE, u64);
