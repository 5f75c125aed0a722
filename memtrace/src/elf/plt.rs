//! Names for the stubs that a binary calls other libraries' functions through.

use object::{Object, ObjectSection, ObjectSymbol, ObjectSymbolTable, RelocationTarget};
use rustc_hash::FxHashMap;

/// A PLT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PltStub<'data> {
    /// The function that it jumps to.
    pub name: &'data str,
    /// First byte (SVMA).
    pub svma: u64,
    /// Bytes.
    pub size: u64,
}

/// More stubs than any real program has.
const MAX_STUBS: usize = 1 << 20;

/// The PLT stubs of an x86-64 binary. Others give none.
///
/// A stub is recognised by its `jmp *slot(%rip)`, and named by the dynamic relocation of that slot,
/// which holds for lazy, `-z now`, and IBT flavours alike.
pub fn plt_stubs<'data>(file: &object::File<'data>) -> Vec<PltStub<'data>> {
    if file.architecture() != object::Architecture::X86_64 {
        return Vec::new();
    }
    let slots = slot_names(file);
    let mut stubs = Vec::new();
    for section in file.sections() {
        // .plt.got has entries of 8 bytes, or of 16 with IBT.
        let entry = match section.name_bytes() {
            Ok(b".plt" | b".plt.sec") => 16,
            Ok(b".plt.got") if section.align() <= 8 => 8,
            Ok(b".plt.got") => 16,
            _ => continue,
        };
        let Ok(data) = section.data() else { continue };
        for (index, code) in data.chunks_exact(entry).take(MAX_STUBS).enumerate() {
            let svma = section.address().wrapping_add((index * entry) as u64);
            if let Some(name) = slot(code, svma).and_then(|slot| slots.get(&slot)) {
                stubs.push(PltStub { name, svma, size: entry as u64 });
            }
        }
    }
    stubs
}

/// The address of the slot that the stub jumps through.
fn slot(code: &[u8], svma: u64) -> Option<u64> {
    const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
    const BND: &[u8] = &[0xf2];
    let mut jump = code.strip_prefix(ENDBR64).unwrap_or(code);
    jump = jump.strip_prefix(BND).unwrap_or(jump);
    let displacement = jump.strip_prefix(&[0xff, 0x25])?.first_chunk::<4>()?;
    let next = code.len() - jump.len() + 6;
    let relative = i64::from(i32::from_le_bytes(*displacement));
    Some(svma.wrapping_add(next as u64).wrapping_add_signed(relative))
}

/// Slots that the loader fills with a symbol's address.
fn slot_names<'data>(file: &object::File<'data>) -> FxHashMap<u64, &'data str> {
    let (Some(relocations), Some(symbols)) =
        (file.dynamic_relocations(), file.dynamic_symbol_table())
    else {
        return FxHashMap::default();
    };
    relocations
        .take(4 * MAX_STUBS)
        .filter_map(|(slot, relocation)| {
            let RelocationTarget::Symbol(index) = relocation.target() else { return None };
            let symbol = symbols.symbol_by_index(index).ok()?;
            let name = symbol.name().ok().filter(|n| !n.is_empty())?;
            Some((slot, name))
        })
        .collect()
}
