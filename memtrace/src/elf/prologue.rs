//! Where in a function's first instructions a breakpoint costs least.
//!
//! When a uprobe's breakpoint hits, the kernel runs the instruction under it. A few kinds it
//! emulates; all others it single-steps out of line, at one or two more traps (about ten times the
//! cost in a virtual machine). So the breakpoint goes to the first emulated instruction that is
//! reached exactly once per call with the arguments still in their registers.
//!
//! Which kinds: `arch/x86/kernel/uprobes.c`, `branch_setup_xol_ops` (relative `jmp` and `call`,
//! `jcc`, one-byte `nop`: since 3.16), `push_setup_xol_ops` (`push r64`: since 4.15), the multi-byte
//! `nop`s of the kernel's own table since 6.16.
//!
//! Everything here works on bytes: no process, no file.

use std::collections::BTreeSet;
use std::ops::Range;

use iced_x86::{
    Code, ConditionCode, Decoder, DecoderOptions, EncodingKind, FlowControl, Formatter,
    Instruction, InstructionInfoFactory, IntelFormatter, Mnemonic, OpAccess, OpKind, Register,
    RflagsBits,
};

/// Instructions that are looked at from the entry on.
const MAX_INSTRUCTIONS: usize = 32;

/// No place is farther from the function's start than this, bytes: the longest instruction has 15.
pub const REACH: u64 = 15 * MAX_INSTRUCTIONS as u64;

/// Bytes of a function's body that are searched for branches into its beginning.
const MAX_BODY: usize = 64 * 1024;

/// What an emulated and a single-stepped hit cost, as a ratio (measured 690 to 10,000 ns in a
/// virtual machine; smaller on bare metal, but never the other way round).
const EMULATED_COST: u32 = 10;
const STEPPED_COST: u32 = 145;

/// What the running kernel emulates beyond what every supported kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emulation {
    /// Multi-byte `nop`s in the encodings of the kernel's `x86_nops` table. Before that, an operand
    /// size prefix on a `nop` made the kernel refuse the probe.
    pub long_nops: bool,
}

impl Emulation {
    /// For a kernel release: multi-byte `nop`s are emulated from 6.16 on.
    pub const fn of_kernel(major: u32, minor: u32) -> Self {
        Emulation { long_nops: major > 6 || (major == 6 && minor >= 16) }
    }
}

/// How the kernel runs an instruction that has a breakpoint on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// In the kernel, inside the same trap.
    Emulated,
    /// Out of line, with at least one more trap.
    Stepped,
    /// Not at all: the probe is refused, or the kernel would run it wrongly.
    Refused,
}

/// Which of the first three integer argument registers must still hold the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Arguments {
    pub rdi: bool,
    pub rsi: bool,
    pub rdx: bool,
}

impl Arguments {
    fn include(self, register: Register) -> bool {
        match register.full_register() {
            Register::RDI => self.rdi,
            Register::RSI => self.rsi,
            Register::RDX => self.rdx,
            _ => false,
        }
    }
}

/// What the probe needs of the place where it sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub arguments: Arguments,
    /// The function's return is probed too.
    pub returns: bool,
    /// Calls whose first argument is NULL need not be seen (`free(NULL)` does nothing).
    pub may_miss_null: bool,
}

/// Where the breakpoints of one function go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Bytes from the function's start to the entry breakpoint.
    pub entry_offset: u64,
    /// Bytes pushed before it is reached: the return address is at `rsp + pushed`.
    pub pushed: u8,
    /// The instruction under it, Intel syntax.
    pub instruction: String,
    /// Whether the kernel emulates that instruction.
    pub emulated: bool,
    /// Bytes from the function's start to the return probe's breakpoint, always a place where the
    /// return address is at `rsp`. Equal to `entry_offset` when both share one. Means nothing for a
    /// function whose return is not probed.
    pub return_offset: u64,
    pub return_emulated: bool,
    /// Calls with a NULL first argument don't reach the entry breakpoint.
    pub misses_null: bool,
}

/// Why a function can't be probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrologueError {
    #[error("there is no code at its address")]
    NoCode,
    #[error("its first bytes are not a valid instruction")]
    Undecodable,
    #[error("the kernel refuses a breakpoint on its first instruction")]
    Refused,
}

/// A place that a call passes exactly once, arguments intact.
struct Candidate {
    offset: u64,
    pushed: u8,
    emulated: bool,
    misses_null: bool,
    instruction: Instruction,
}

impl Candidate {
    fn cost(&self) -> u32 {
        if self.emulated { EMULATED_COST } else { STEPPED_COST }
    }
}

/// The possible placements, cheapest first; never empty.
///
/// * `code`: the function's bytes as in the file, from its first one to its last one (a longer slice
///   only makes the search more careful). The bytes of the whole function matter, since a branch
///   back into its first instructions rules places out.
/// * `address`: where the function starts, in the address space of `branches_in`.
/// * `branches_in`: addresses that code outside the function branches to, see [`branches_into`].
///   Others are ignored.
///
/// Later entries are for the caller who cannot use the first, for example since another point has
/// the same offset in its page. Not seen: a computed jump into the first instructions.
///
/// # Errors
/// When not even the first instruction can carry a breakpoint.
pub fn place(
    code: &[u8],
    address: u64,
    wanted: &Wanted,
    branches_in: &[u64],
    emulation: Emulation,
) -> Result<Vec<Placement>, PrologueError> {
    let candidates = candidates(code, address, wanted, branches_in, emulation)?;
    let mut placements: Vec<(u32, Placement)> = Vec::new();
    let at_return = candidates
        .iter()
        .filter(|c| c.pushed == 0 && !c.misses_null)
        .min_by_key(|c| (c.cost(), c.offset));
    for entry in &candidates {
        // One breakpoint serves both where the return address is at [rsp].
        let ret = if entry.pushed == 0 && !entry.misses_null { Some(entry) } else { at_return };
        let ret = match ret {
            Some(ret) => ret,
            None if wanted.returns => continue,
            None => entry,
        };
        let shared = !wanted.returns || ret.offset == entry.offset;
        let cost = entry.cost() + if shared { 0 } else { ret.cost() };
        // A point past the NULL check spares the hits of free(NULL).
        let cost = cost * 2 - u32::from(entry.misses_null);
        placements.push((
            cost,
            Placement {
                entry_offset: entry.offset,
                pushed: entry.pushed,
                instruction: disassemble(&entry.instruction),
                emulated: entry.emulated,
                return_offset: ret.offset,
                return_emulated: ret.emulated,
                misses_null: entry.misses_null,
            },
        ));
    }
    placements.sort_by_key(|(cost, p)| (*cost, p.entry_offset));
    if placements.is_empty() {
        return Err(PrologueError::Refused);
    }
    Ok(placements.into_iter().map(|(_, placement)| placement).collect())
}

/// Walks the straight line from the entry, as far as a place can be used.
fn candidates(
    code: &[u8],
    address: u64,
    wanted: &Wanted,
    branches_in: &[u64],
    emulation: Emulation,
) -> Result<Vec<Candidate>, PrologueError> {
    if code.is_empty() {
        return Err(PrologueError::NoCode);
    }
    let mut targets = branch_targets(code, address);
    targets.extend(branches_in.iter().copied());

    let mut info = InstructionInfoFactory::new();
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let mut found = Vec::new();
    let mut pushed: u8 = 0;
    let mut misses_null = false;
    let mut null_check = NullCheck::new();

    for index in 0..MAX_INSTRUCTIONS {
        if !decoder.can_decode() {
            break;
        }
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            if index == 0 {
                return Err(PrologueError::Undecodable);
            }
            break;
        }
        let at = instruction.ip();
        // Past a branch target the point would be hit without the entry having been passed, or
        // again in a loop; and so would everything after it.
        if index > 0 && targets.contains(&at) {
            break;
        }
        let start = (at - address) as usize;
        let bytes = &code[start..start + instruction.len()];
        let handling = handling(&instruction, bytes, emulation);
        if handling != Handling::Refused {
            found.push(Candidate {
                offset: at - address,
                pushed,
                emulated: handling == Handling::Emulated,
                misses_null,
                instruction,
            });
        }

        // May the next instruction be a candidate?
        match instruction.flow_control() {
            FlowControl::Next => {}
            FlowControl::ConditionalBranch
                if wanted.may_miss_null && null_check.leaves_on_null(&instruction) =>
            {
                misses_null = true;
                continue;
            }
            _ => break,
        }
        null_check.step(&instruction, &mut info);
        match effect(&instruction, &mut info, wanted.arguments) {
            Effect::None => {}
            Effect::Push => match pushed.checked_add(8) {
                Some(more) => pushed = more,
                None => break,
            },
            Effect::Disturbs => break,
        }
    }
    if found.is_empty() { Err(PrologueError::Refused) } else { Ok(found) }
}

enum Effect {
    None,
    /// Eight bytes more on the stack.
    Push,
    /// An argument is lost, the stack pointer moved by something else, or memory was written: a
    /// release may have happened that must be seen before it does.
    Disturbs,
}

fn effect(
    instruction: &Instruction,
    info: &mut InstructionInfoFactory,
    arguments: Arguments,
) -> Effect {
    let push = matches!(
        instruction.code(),
        Code::Push_r64 | Code::Pushq_imm8 | Code::Pushq_imm32 | Code::Push_rm64
    );
    let used = info.info(instruction);
    for register in used.used_registers() {
        if !writes(register.access()) {
            continue;
        }
        let full = register.register().full_register();
        if arguments.include(full) || (full == Register::RSP && !push) {
            return Effect::Disturbs;
        }
    }
    if push {
        return Effect::Push;
    }
    if used.used_memory().iter().any(|memory| writes(memory.access())) {
        return Effect::Disturbs;
    }
    Effect::None
}

fn writes(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

/// Recognizes `test rdi, rdi; je somewhere`, also with other instructions in between and through a
/// copy of rdi.
struct NullCheck {
    copies: Vec<Register>,
    flags_tell: bool,
}

impl NullCheck {
    fn new() -> Self {
        NullCheck { copies: vec![Register::RDI], flags_tell: false }
    }

    fn holds(&self, register: Register) -> bool {
        self.copies.contains(&register)
    }

    fn step(&mut self, instruction: &Instruction, info: &mut InstructionInfoFactory) {
        let compares = match instruction.mnemonic() {
            Mnemonic::Test => {
                instruction.op0_kind() == OpKind::Register
                    && instruction.op1_kind() == OpKind::Register
                    && instruction.op0_register() == instruction.op1_register()
                    && self.holds(instruction.op0_register())
            }
            Mnemonic::Cmp => {
                instruction.op0_kind() == OpKind::Register
                    && self.holds(instruction.op0_register())
                    && matches!(
                        instruction.op1_kind(),
                        OpKind::Immediate8to64 | OpKind::Immediate32to64
                    )
                    && instruction.immediate(1) == 0
            }
            _ => false,
        };
        if compares {
            self.flags_tell = true;
        } else if instruction.rflags_modified() & RflagsBits::ZF != 0 {
            self.flags_tell = false;
        }
        let copies = instruction.mnemonic() == Mnemonic::Mov
            && instruction.op0_kind() == OpKind::Register
            && instruction.op1_kind() == OpKind::Register
            && self.holds(instruction.op1_register());
        for register in info.info(instruction).used_registers() {
            if writes(register.access()) {
                let full = register.register().full_register();
                self.copies.retain(|copy| *copy != full);
            }
        }
        if copies {
            self.copies.push(instruction.op0_register());
        }
    }

    fn leaves_on_null(&self, instruction: &Instruction) -> bool {
        self.flags_tell && instruction.condition_code() == ConditionCode::e
    }
}

/// Addresses that the function's own relative branches go to.
fn branch_targets(code: &[u8], address: u64) -> BTreeSet<u64> {
    let body = &code[..code.len().min(MAX_BODY)];
    let beginning = address..address.saturating_add(REACH);
    let mut targets = BTreeSet::new();
    for instruction in &mut Decoder::with_ip(64, body, address, DecoderOptions::NONE) {
        if matches!(
            instruction.op0_kind(),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
        ) {
            let target = instruction.near_branch_target();
            if beginning.contains(&target) {
                targets.insert(target);
            }
        }
    }
    targets
}

/// Targets of 32-bit relative branches anywhere in `text` that lie in one of `ranges`.
///
/// For the code outside a function that may branch into its beginning (a compiler's cold part, say).
/// Every byte position is tried, so instruction boundaries need not be known; a chance hit in the
/// middle of an instruction only makes [`place`] more careful. Eight-bit branches are not looked
/// for: they can only come from a direct neighbour.
pub fn branches_into(text: &[u8], address: u64, ranges: &[Range<u64>]) -> Vec<u64> {
    let Some(lowest) = ranges.iter().map(|r| r.start).min() else { return Vec::new() };
    let highest = ranges.iter().map(|r| r.end).max().unwrap_or(lowest);
    let mut found = Vec::new();
    let mut before = 0u8;
    for (i, window) in text.windows(5).enumerate() {
        let opcode = window[0];
        let branch = opcode & 0xfe == 0xe8 || (before == 0x0f && opcode & 0xf0 == 0x80);
        before = opcode;
        if !branch {
            continue;
        }
        let displacement = i32::from_le_bytes([window[1], window[2], window[3], window[4]]);
        let target = address
            .wrapping_add(i as u64)
            .wrapping_add(5)
            .wrapping_add(i64::from(displacement) as u64);
        if target >= lowest && target < highest && ranges.iter().any(|r| r.contains(&target)) {
            found.push(target);
        }
    }
    found
}

/// The kernel's `x86_nops` table (`arch/x86/include/asm/nops.h`), by length from 1.
const KERNEL_NOPS: [&[u8]; 11] = [
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// How the kernel runs `instruction`, whose encoding is `bytes`, under a breakpoint.
pub fn handling(instruction: &Instruction, bytes: &[u8], emulation: Emulation) -> Handling {
    if refused(instruction, bytes) {
        return Handling::Refused;
    }
    let prefixes = bytes.iter().take_while(|b| is_legacy_prefix(**b)).count();
    let operand_size = bytes[..prefixes].contains(&0x66);
    let opcode = &bytes[prefixes..];
    if emulation.long_nops && KERNEL_NOPS.get(bytes.len() - 1).is_some_and(|nop| *nop == bytes) {
        return Handling::Emulated;
    }
    let (rex, opcode) = match opcode {
        [rex @ 0x40..=0x4f, rest @ ..] => (Some(*rex), rest),
        _ => (None, opcode),
    };
    match opcode {
        // The kernel's opcode byte skips a REX prefix: 41 90 is `xchg r8, rax` to the processor and
        // a nop to older kernels.
        [0x90, ..] if operand_size || rex.is_some() => Handling::Refused,
        [0x90, ..] => Handling::Emulated,
        [0xe8 | 0xe9 | 0xeb | 0x70..=0x7f, ..] | [0x0f, 0x80..=0x8f, ..] if operand_size => {
            Handling::Refused
        }
        [0xe8 | 0xe9 | 0xeb | 0x70..=0x7f, ..] | [0x0f, 0x80..=0x8f, ..] => Handling::Emulated,
        [0x50..=0x57] if prefixes == 0 && matches!(rex, None | Some(0x41)) => Handling::Emulated,
        _ => Handling::Stepped,
    }
}

/// `is_prefix_bad`, `good_insns_64` and `good_2byte_insns` of the kernel, and what can't run at
/// another address than its own.
fn refused(instruction: &Instruction, bytes: &[u8]) -> bool {
    // es, cs, ss, ds, lock.
    if bytes
        .iter()
        .take_while(|b| is_legacy_prefix(**b))
        .any(|b| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0))
    {
        return true;
    }
    if instruction.encoding() == EncodingKind::EVEX || instruction.is_privileged() {
        return true;
    }
    // loop and jrcxz: relative, and neither emulated nor corrected.
    if instruction.is_jcx_short() || instruction.is_loop() || instruction.is_loopcc() {
        return true;
    }
    if matches!(
        instruction.flow_control(),
        FlowControl::Interrupt | FlowControl::Exception | FlowControl::XbeginXabortXend
    ) {
        return true;
    }
    matches!(
        instruction.mnemonic(),
        Mnemonic::Syscall | Mnemonic::Sysenter | Mnemonic::Hlt | Mnemonic::Iret | Mnemonic::Iretq
    )
}

fn is_legacy_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

fn disassemble(instruction: &Instruction) -> String {
    let mut text = String::new();
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_space_after_operand_separator(true);
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    options.set_show_branch_size(false);
    options.set_rip_relative_addresses(true);
    formatter.format(instruction, &mut text);
    text
}

#[cfg(test)]
#[path = "prologue_tests.rs"]
mod tests;
