//! memtrace's BPF programs. A record passes: `heap` (or `life`) decides, `stack` walks and interns
//! the call stack, `ring` emits. `maps` holds everything shared, `counters` what was lost.
#![no_std]
#![no_main]
// Inline assembly for the BPF target: atomic adds, and barriers that the verifier needs.
#![feature(asm_experimental_arch)]

mod counters;
mod heap;
mod life;
mod maps;
mod ring;
mod settings;
mod stack;
mod thread;
mod unwind;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs call the tracing helpers used here.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
