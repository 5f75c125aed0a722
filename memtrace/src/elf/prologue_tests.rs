use super::{
    Arguments, Emulation, Handling, Placement, PrologueError, Wanted, branches_into, handling,
    place,
};
use iced_x86::{Decoder, DecoderOptions};

const START: u64 = 0x98930;
const NEW: Emulation = Emulation::of_kernel(6, 18);
const OLD: Emulation = Emulation::of_kernel(6, 1);

const ONE: Arguments = Arguments { rdi: true, rsi: false, rdx: false };
const TWO: Arguments = Arguments { rdi: true, rsi: true, rdx: false };
const THREE: Arguments = Arguments { rdi: true, rsi: true, rdx: true };

fn allocates(arguments: Arguments) -> Wanted {
    Wanted { arguments, returns: true, may_miss_null: false }
}

const FREES: Wanted = Wanted { arguments: ONE, returns: false, may_miss_null: true };

fn best(code: &[u8], wanted: Wanted) -> Placement {
    place(code, START, &wanted, &[], OLD).expect("a placement").remove(0)
}

/// entry offset, pushed, emulated, return offset
fn summary(placement: &Placement) -> (u64, u8, bool, u64) {
    (placement.entry_offset, placement.pushed, placement.emulated, placement.return_offset)
}

// The first instructions of glibc 2.36 (Debian 12).
const MALLOC: &[u8] = b"\x41\x54\x55\x53\x48\x89\xfb\x48\x83\xec\x10\xc3";
const FREE: &[u8] =
    b"\x48\x85\xff\x0f\x84\xbf\x00\x00\x00\x55\x48\x8d\x77\xf0\x53\x48\x83\xec\x18\xc3";
const CALLOC: &[u8] = b"\x41\x55\x48\x89\xf8\x41\x54\x55\x53\x48\x83\xec\x18\x48\xf7\xe6\xc3";
const REALLOCARRAY: &[u8] =
    b"\x48\x89\xf0\x48\xf7\xe2\x48\x89\xc6\x70\x05\xe9\x40\xb8\xf8\xff\x31\xc0\xc3";
const POSIX_MEMALIGN: &[u8] =
    b"\x80\x3d\x01\x02\x14\x00\x00\x41\x54\x49\x89\xd4\x55\x48\x89\xfd\x53\x48\x89\xf3\x74\x5a\xc3";
const MEMALIGN: &[u8] =
    b"\x80\x3d\x71\x0e\x14\x00\x00\x74\x07\xe9\x32\xf6\xff\xff\x66\x90\x48\x83\xec\x18\xc3";
const VALLOC: &[u8] =
    b"\x80\x3d\x31\x0e\x14\x00\x00\x53\x48\x89\xfb\x74\x1b\x48\x8b\x05\x34\x98\x13\x00\xc3";

#[test]
fn a_push_at_the_entry_carries_both_breakpoints() {
    for (code, arguments) in [(MALLOC, ONE), (CALLOC, TWO)] {
        let placement = best(code, allocates(arguments));
        assert_eq!(summary(&placement), (0, 0, true, 0));
        assert!(placement.return_emulated);
    }
    assert_eq!(best(MALLOC, allocates(ONE)).instruction, "push r12");
}

#[test]
fn glibc_free_is_probed_past_its_null_check() {
    let placement = best(FREE, FREES);
    assert_eq!((placement.entry_offset, placement.pushed, placement.emulated), (9, 0, true));
    assert_eq!(placement.instruction, "push rbp");
    assert!(placement.misses_null);
}

#[test]
fn a_null_check_is_not_passed_when_null_must_be_seen() {
    let placement = best(FREE, allocates(ONE));
    assert_eq!(summary(&placement), (3, 0, true, 3));
    assert!(placement.instruction.starts_with("je 0x"), "{}", placement.instruction);
}

#[test]
fn a_null_check_through_a_copy_is_recognized() {
    // push rbx; mov rbx, rdi; test rbx, rbx; je +8; nop; ret
    let placement = best(b"\x53\x48\x89\xfb\x48\x85\xdb\x74\x08\x90\xc3", FREES);
    assert_eq!((placement.entry_offset, placement.pushed), (9, 8));
    assert!(placement.misses_null);
    // The copy is overwritten before the test: push rbx; mov rbx, rdi; xor ebx, ebx; test rbx, rbx; je
    let placement = best(b"\x53\x48\x89\xfb\x31\xdb\x48\x85\xdb\x74\x08\x90\xc3", FREES);
    assert_eq!((placement.entry_offset, placement.pushed, placement.misses_null), (0, 0, false));
}

#[test]
fn a_test_of_another_register_or_condition_is_no_null_check() {
    // test rsi, rsi; je; push rbp
    assert_eq!(best(b"\x48\x85\xf6\x74\x08\x55\xc3", FREES).entry_offset, 3);
    // test rdi, rdi; jne; push rbp
    assert_eq!(best(b"\x48\x85\xff\x75\x08\x55\xc3", FREES).entry_offset, 3);
    // test edi, edi: only half of the pointer
    assert_eq!(best(b"\x85\xff\x74\x08\x55\xc3", FREES).entry_offset, 2);
    // test rdi, rdi; dec eax (writes ZF); je; push rbp
    assert_eq!(best(b"\x48\x85\xff\xff\xc8\x74\x08\x55\xc3", FREES).entry_offset, 5);
}

#[test]
fn instructions_that_leave_the_arguments_alone_are_passed() {
    let wanted = Wanted {
        arguments: Arguments { rdi: true, rsi: false, rdx: true },
        returns: true,
        may_miss_null: false,
    };
    assert_eq!(summary(&best(POSIX_MEMALIGN, wanted)), (7, 0, true, 7));
    assert_eq!(summary(&best(VALLOC, allocates(ONE))), (7, 0, true, 7));
}

#[test]
fn a_conditional_jump_is_a_place_but_not_passed() {
    let placements = place(MEMALIGN, START, &allocates(TWO), &[], OLD).expect("placements");
    let offsets: Vec<u64> = placements.iter().map(|p| p.entry_offset).collect();
    assert_eq!(offsets, [7, 0]);
    assert_eq!(summary(&placements[0]), (7, 0, true, 7));
    assert_eq!(summary(&placements[1]), (0, 0, false, 0));
}

#[test]
fn a_lost_argument_ends_the_search() {
    // mul rdx overwrites rdx before the first emulated instruction.
    let placement = best(REALLOCARRAY, allocates(THREE));
    assert_eq!(summary(&placement), (0, 0, false, 0));
    // A write to half of the register loses it as well: mov edi, edi; push rbp
    assert_eq!(best(b"\x89\xff\x55\xc3", allocates(ONE)).entry_offset, 0);
    // It does not matter when nobody wants it.
    assert_eq!(
        best(b"\x89\xff\x55\xc3", allocates(Arguments { rdi: false, rsi: true, rdx: false }))
            .entry_offset,
        2
    );
}

#[test]
fn endbr64_is_passed() {
    let mut code = b"\xf3\x0f\x1e\xfa".to_vec();
    code.extend_from_slice(MALLOC);
    assert_eq!(summary(&best(&code, allocates(ONE))), (4, 0, true, 4));
    let mut code = b"\xf3\x0f\x1e\xfa".to_vec();
    code.extend_from_slice(FREE);
    assert_eq!(best(&code, FREES).entry_offset, 13);
}

#[test]
fn jump_or_call_at_the_entry_is_the_place() {
    assert_eq!(summary(&best(b"\xe9\x6b\x19\x00\x00\x90\x90", allocates(ONE))), (0, 0, true, 0));
    assert_eq!(summary(&best(b"\xe8\x6b\x19\x00\x00\x55\xc3", allocates(ONE))), (0, 0, true, 0));
}

#[test]
fn leaf_without_anything_emulated_falls_back_to_the_entry() {
    // mov rax, rdi; add rax, 8; ret
    let placements =
        place(b"\x48\x89\xf8\x48\x83\xc0\x08\xc3", START, &allocates(ONE), &[], NEW).unwrap();
    assert_eq!(summary(&placements[0]), (0, 0, false, 0));
    // The ret is the last of the places.
    assert_eq!(placements.last().map(|p| p.entry_offset), Some(7));
}

#[test]
fn nothing_is_passed_that_moves_the_stack_or_writes_memory() {
    // sub rsp, 24; push rbp
    assert_eq!(best(b"\x48\x83\xec\x18\x55\xc3", allocates(ONE)).entry_offset, 0);
    // lock inc dword [rax]; push rbp: the entry is refused, and it may have been the release.
    assert_eq!(
        place(b"\xf0\xff\x00\x55\xc3", START, &FREES, &[], OLD),
        Err(PrologueError::Refused)
    );
    // mov [rdi], rax; push rbp
    assert_eq!(best(b"\x48\x89\x07\x55\xc3", FREES).entry_offset, 0);
    // push ax: two bytes
    assert_eq!(best(b"\x66\x50\x55\xc3", FREES).entry_offset, 0);
}

#[test]
fn pushes_are_counted_and_the_return_probe_stays_before_them() {
    let placements = place(MALLOC, START, &allocates(ONE), &[], OLD).expect("placements");
    let all: Vec<_> = placements.iter().map(summary).collect();
    assert_eq!(
        all,
        [(0, 0, true, 0), (2, 8, true, 0), (3, 16, true, 0), (4, 24, false, 0), (7, 24, false, 0),]
    );
}

#[test]
fn a_branch_back_into_the_beginning_rules_the_rest_out() {
    // mov rax, rdi; L: push rbp; pop rbp; jmp L
    let code = b"\x48\x89\xf8\x55\x5d\xeb\xfc";
    let placements = place(code, START, &allocates(ONE), &[], OLD).expect("placements");
    assert_eq!(placements.iter().map(summary).collect::<Vec<_>>(), [(0, 0, false, 0)]);
    // The same from outside.
    let code = b"\x48\x89\xf8\x55\x5d\xc3";
    assert_eq!(place(code, START, &allocates(ONE), &[], OLD).unwrap()[0].entry_offset, 3);
    assert_eq!(place(code, START, &allocates(ONE), &[START + 3], OLD).unwrap()[0].entry_offset, 0);
    // A branch to the entry is a call like any other.
    assert_eq!(place(code, START, &allocates(ONE), &[START], OLD).unwrap()[0].entry_offset, 3);
}

#[test]
fn branches_from_outside_are_found_at_any_alignment() {
    // nop; jmp START+7; jne START+9; call START+0x100
    let text_at = 0x1000u64;
    let mut text = vec![0x90, 0xe9];
    text.extend(((START + 7).wrapping_sub(text_at + 6) as i32).to_le_bytes());
    text.extend([0x0f, 0x85]);
    text.extend(((START + 9).wrapping_sub(text_at + 12) as i32).to_le_bytes());
    text.push(0xe8);
    text.extend(((START + 0x100).wrapping_sub(text_at + 17) as i32).to_le_bytes());
    let mut found = branches_into(&text, text_at, &[START + 1..START + 8, START + 8..START + 16]);
    found.sort_unstable();
    assert_eq!(found, [START + 7, START + 9]);
    assert!(branches_into(&text, text_at, &[]).is_empty());
}

#[test]
fn long_nops_are_a_place_from_6_16_on() {
    // nopw 0(rax,rax): what -fpatchable-function-entry and hot patching leave
    let code = b"\x66\x0f\x1f\x44\x00\x00\x31\xff\xc3";
    assert!(place(code, START, &allocates(ONE), &[], NEW).unwrap()[0].emulated);
    assert!(!place(code, START, &allocates(ONE), &[], OLD).unwrap()[0].emulated);
    assert_eq!(Emulation::of_kernel(6, 15), OLD);
    assert_eq!(Emulation::of_kernel(6, 16), NEW);
    assert_eq!(Emulation::of_kernel(7, 0), NEW);
}

fn handled(bytes: &[u8], emulation: Emulation) -> Handling {
    let mut decoder = Decoder::with_ip(64, bytes, START, DecoderOptions::NONE);
    let instruction = decoder.decode();
    assert_eq!(instruction.len(), bytes.len(), "{bytes:x?}");
    handling(&instruction, bytes, emulation)
}

#[test]
fn what_the_kernel_refuses_is_no_place() {
    for bytes in [
        &b"\x66\x90"[..],            // old kernels: operand size prefix on a nop
        b"\x41\x90",                 // xchg r8, rax, a nop to old kernels
        b"\xcc",                     // int3
        b"\xf4",                     // hlt
        b"\x0f\x05",                 // syscall
        b"\x0f\x0b",                 // ud2
        b"\xe3\x05",                 // jrcxz
        b"\xe2\x05",                 // loop
        b"\xf0\xff\x00",             // lock
        b"\x2e\x0f\x1f\x40\x00",     // cs prefix
        b"\x62\xf1\x7c\x48\x28\xc1", // EVEX
    ] {
        assert_eq!(handled(bytes, OLD), Handling::Refused, "{bytes:x?}");
    }
    assert_eq!(handled(b"\x66\x90", NEW), Handling::Emulated);
}

#[test]
fn what_the_kernel_emulates() {
    for bytes in [
        &b"\x90"[..],
        b"\x50",
        b"\x57",
        b"\x41\x54",
        b"\xeb\x05",
        b"\xe9\x05\x00\x00\x00",
        b"\xf2\xe9\x05\x00\x00\x00", // bnd jmp
        b"\xe8\x05\x00\x00\x00",
        b"\x74\x05",
        b"\x0f\x84\x05\x00\x00\x00",
    ] {
        assert_eq!(handled(bytes, OLD), Handling::Emulated, "{bytes:x?}");
    }
    for bytes in [
        &b"\xc3"[..],
        b"\xf3\x0f\x1e\xfa",
        b"\x48\x50", // push with a REX prefix other than 41
        b"\x6a\x05", // push imm
        b"\xff\xe0", // jmp rax
        b"\x0f\x1f\x44\x00\x00",
    ] {
        assert_eq!(handled(bytes, OLD), Handling::Stepped, "{bytes:x?}");
    }
}

#[test]
fn bad_bytes_are_an_error() {
    assert_eq!(place(b"", START, &FREES, &[], OLD), Err(PrologueError::NoCode));
    assert_eq!(place(b"\x06", START, &FREES, &[], OLD), Err(PrologueError::Undecodable));
    assert_eq!(place(b"\xcc\x90", START, &FREES, &[], OLD).unwrap_err(), PrologueError::Refused);
    // Cut in the middle of the second instruction.
    assert_eq!(best(b"\x55\x48\x83", FREES).entry_offset, 0);
}

proptest::proptest! {
    #[test]
    fn any_bytes_give_a_sane_placement_or_an_error(
        code in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        returns: bool,
    ) {
        let wanted = Wanted { arguments: TWO, returns, may_miss_null: !returns };
        if let Ok(placements) = place(&code, START, &wanted, &[], NEW) {
            proptest::prop_assert!(!placements.is_empty());
            for p in placements {
                proptest::prop_assert!((p.entry_offset as usize) < code.len());
                proptest::prop_assert!(!returns || p.return_offset <= p.entry_offset);
                proptest::prop_assert!(p.pushed % 8 == 0);
            }
        }
    }
}
