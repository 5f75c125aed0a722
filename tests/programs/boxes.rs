//! Rust allocations by the function that asked for them: the standard library lies between it and
//! malloc, hence depth=any.
//! TRUTH
//!   site leak_boxes calls=100 bytes=6400 live_blocks=100 live_bytes=6400 depth=any
//!   site grow_vec calls=7 bytes=4064 live_blocks=1 live_bytes=2048 temporary=6 depth=any
//!   site scoped_vec calls=20 bytes=20000 temporary=20 depth=any
//!   site zeroed calls=5 bytes=5000 live_blocks=5 live_bytes=5000 depth=any
//!   site over_aligned calls=6 bytes=1536 live_blocks=6 live_bytes=1536 depth=any
//!   site strings calls=30 bytes=330 live_blocks=30 live_bytes=330 depth=any
//!   site shared calls=8 bytes=192 live_blocks=8 live_bytes=192 depth=any
//!   site from_thread calls=50 bytes=5000 live_blocks=50 live_bytes=5000 depth=any
//!   site Holder::grow calls=4 bytes=396 live_blocks=4 live_bytes=396 depth=any
//!   foreign std::
//!   foreign alloc::
//!   foreign run_thread
//!   foreign ld-linux
//!   foreign libc.so
//!   foreign main
//! END
//! The standard library makes blocks of its own at start and around threads.

use std::hint::black_box;
use std::mem;
use std::sync::Arc;

unsafe extern "C" {
    fn getpid() -> i32;
    fn read(fd: i32, to: *mut u8, n: usize) -> isize;
    fn write(fd: i32, from: *const u8, n: usize) -> isize;
}

#[inline(never)]
fn leak_boxes() {
    for i in 0..100u64 {
        mem::forget(black_box(Box::new([i; 8])));
    }
}

#[inline(never)]
fn grow_vec() {
    let mut v: Vec<u64> = Vec::new();
    for i in 0..256u64 {
        v.push(black_box(i));
    }
    mem::forget(black_box(v));
}

#[inline(never)]
fn scoped_vec() {
    for _ in 0..20 {
        drop(black_box(Vec::<u8>::with_capacity(1000)));
    }
}

#[inline(never)]
fn zeroed() {
    for _ in 0..5 {
        mem::forget(black_box(vec![0u8; 1000]));
    }
}

#[repr(align(256))]
#[allow(dead_code)]
struct Wide([u8; 256]);

#[inline(never)]
fn over_aligned() {
    for i in 0..6 {
        mem::forget(black_box(Box::new(Wide([i; 256]))));
    }
}

#[inline(never)]
fn strings() {
    for _ in 0..30 {
        mem::forget(black_box(String::from("eleven char")));
    }
}

/// Two counts and the value: 24 bytes.
#[inline(never)]
fn shared() {
    for i in 0..8u64 {
        mem::forget(black_box(Arc::new(i)));
    }
}

#[inline(never)]
fn from_thread() {
    for _ in 0..50 {
        mem::forget(black_box(Vec::<u8>::with_capacity(100)));
    }
}

struct Holder(Vec<u8>);

impl Holder {
    #[inline(never)]
    fn grow(&mut self) {
        let fresh = Vec::with_capacity(99);
        mem::forget(mem::replace(&mut self.0, fresh));
    }
}

#[inline(never)]
fn run_thread() {
    std::thread::spawn(from_thread).join().expect("thread");
}

fn say(text: &[u8]) {
    // SAFETY: `text` is readable for its length.
    let n = unsafe { write(1, text.as_ptr(), text.len()) };
    assert_eq!(n, text.len() as isize);
}

/// "ready PID\n" without an allocation.
fn say_ready() {
    let mut line = *b"ready          \n";
    // SAFETY: getpid has no preconditions.
    let mut pid = unsafe { getpid() };
    let mut at = line.len() - 1;
    while pid > 0 {
        at -= 1;
        line[at] = b'0' + (pid % 10) as u8;
        pid /= 10;
    }
    say(&line);
}

fn wait_for_line() {
    let mut c = 0u8;
    // SAFETY: `c` is writable for one byte.
    while unsafe { read(0, &mut c, 1) } == 1 && c != b'\n' {}
}

fn main() {
    let waits = std::env::args_os().nth(1).is_some_and(|a| a == "--wait");
    if waits {
        say_ready();
        wait_for_line();
    }
    leak_boxes();
    grow_vec();
    scoped_vec();
    zeroed();
    over_aligned();
    strings();
    shared();
    run_thread();
    let mut holder = Holder(Vec::new());
    for _ in 0..4 {
        holder.grow();
    }
    mem::forget(holder);
    say(b"done\n");
    if waits {
        wait_for_line();
    }
}
