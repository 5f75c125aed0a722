//! The call stack of an event: walked here, interned here, sent once.

use aya_ebpf::{
    helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_user},
    programs::RetProbeContext,
};
use memtrace_common::{
    counter::Counter,
    limits::MAX_FRAMES,
    record::{Kind, StackHeader, tag},
    stack::StackEnd,
};

use crate::{counters::count, maps::KNOWN_STACKS, ring::emit_bytes, thread::Thread};

/// Where a thread is: the registers that unwinding starts from.
#[derive(Clone, Copy)]
pub struct Registers {
    pub ip: u64,
    pub sp: u64,
    pub bp: u64,
}

impl Registers {
    /// The registers just after the probed function returned: `ip` is the return address, since the
    /// kernel puts the real one back before it runs return probes.
    #[inline(always)]
    pub fn after_return(ctx: &RetProbeContext) -> Self {
        // SAFETY: the context of a uprobe program is a readable pt_regs.
        let regs = unsafe { &*ctx.regs };
        Self { ip: regs.rip, sp: regs.rsp, bp: regs.rbp }
    }
}

/// Two independent 64-bit hashes of a stack: the first is its id, the second tells collisions.
struct Hash {
    id: u64,
    check: u64,
}

impl Hash {
    #[inline(always)]
    fn new(tgid: u32) -> Self {
        let mut hash = Self { id: 0x9e37_79b9_7f4a_7c15, check: 0x2545_f491_4f6c_dd1d };
        hash.add(u64::from(tgid));
        hash
    }

    #[inline(always)]
    fn add(&mut self, word: u64) {
        self.id = (self.id ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.id ^= self.id >> 32;
        self.check = (self.check.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// Walks the stack, sends its frames if they were not sent before, and returns its id. `pid_tid` is
/// that of the current thread.
#[inline(always)]
pub fn capture(thread: &mut Thread, registers: Registers, pid_tid: u64) -> u64 {
    let (frames, end, hash) = walk_frame_pointers(thread, registers, (pid_tid >> 32) as u32);
    // 0 means "no stack".
    let id = if hash.id == 0 { 1 } else { hash.id };
    if let Some(known) = KNOWN_STACKS.get_ptr(id) {
        // SAFETY: a live map value.
        if unsafe { *known } != hash.check {
            count(Counter::StackCollisions);
        }
        return id;
    }
    thread.stack = StackHeader {
        tag: tag(Kind::Stack, 0),
        stack: id,
        pid_tid,
        // SAFETY: a helper call without arguments.
        time_ns: unsafe { bpf_ktime_get_ns() },
        frames: frames as u16,
        end: end as u8,
        pad: [0; 5],
    };
    let len = size_of::<StackHeader>() as u64 + frames.min(MAX_FRAMES as u64) * 8;
    // Only a stack that was sent is known: a lost one travels again with its next event.
    if emit_bytes((&raw const thread.stack).cast(), len, Counter::LostStacks)
        && KNOWN_STACKS.insert(id, hash.check, 0).is_err()
    {
        count(Counter::StackTableFull);
    }
    id
}

/// Return address, then the chain of saved frame pointers.
#[inline(always)]
fn walk_frame_pointers(
    thread: &mut Thread,
    registers: Registers,
    tgid: u32,
) -> (u64, StackEnd, Hash) {
    let mut hash = Hash::new(tgid);
    hash.add(registers.ip);
    thread.frames[0] = registers.ip;
    let mut bp = registers.bp;
    let mut sp = registers.sp;
    let mut frames = 1u64;
    for index in 1..MAX_FRAMES {
        // The chain only goes up the stack; anything else in rbp is not a frame pointer.
        if bp < sp || bp & 7 != 0 {
            return (frames, StackEnd::FramePointerEnd, hash);
        }
        let mut frame = [0u64; 2];
        // SAFETY: reads 16 bytes of user memory into a local array; a fault is an error code.
        let result = unsafe {
            bpf_probe_read_user(
                (&raw mut frame).cast(),
                size_of::<[u64; 2]>() as u32,
                bp as *const _,
            )
        };
        if result != 0 || frame[1] == 0 {
            return (frames, StackEnd::FramePointerEnd, hash);
        }
        sp = bp + 16;
        bp = frame[0];
        hash.add(frame[1]);
        thread.frames[index] = frame[1];
        frames += 1;
    }
    (frames, StackEnd::DepthLimit, hash)
}
