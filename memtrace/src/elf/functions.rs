//! The functions that a binary's symbol tables name.

use object::{
    Object, ObjectSection, ObjectSymbol, SectionFlags, SectionIndex, elf, read::SymbolSection,
};
use rustc_hash::FxHashMap;

/// Which symbol table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// `.symtab`: all functions; absent from stripped files.
    Static,
    /// `.dynsym`: the exported and imported ones.
    Dynamic,
}

/// How widely a symbol is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Binding {
    Local,
    Weak,
    Global,
}

/// A symbol that stands for code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionSymbol<'data> {
    /// As in the table: mangled, perhaps with an `@@VERSION` behind it.
    pub name: &'data str,
    /// First byte (SVMA).
    pub svma: u64,
    /// Bytes; 0 when the table doesn't say.
    pub size: u64,
    /// End of the section that it lies in (SVMA): no function goes beyond.
    pub section_end: u64,
    pub binding: Binding,
    /// False for bare labels of assembler code.
    pub is_function: bool,
    /// The address is of a resolver that picks the real function when it is first called.
    pub is_ifunc: bool,
}

/// Longest name that is kept, bytes. The longest found in real C++ programs have some 20 KiB.
const MAX_NAME: usize = 64 << 10;

/// The code symbols of one table that are defined in an executable section. Broken entries are
/// left out.
pub fn functions<'data>(
    file: &object::File<'data>,
    table: Table,
) -> impl Iterator<Item = FunctionSymbol<'data>> {
    let sections = code_sections(file);
    let symbols = match table {
        Table::Static => file.symbols(),
        Table::Dynamic => file.dynamic_symbols(),
    };
    symbols.filter_map(move |symbol| {
        let object::SymbolFlags::Elf { st_info, .. } = symbol.flags() else { return None };
        let SymbolSection::Section(index) = symbol.section() else { return None };
        let kind = st_info.st_type();
        let is_ifunc = kind == elf::STT_GNU_IFUNC;
        let is_function = is_ifunc || kind == elf::STT_FUNC;
        if !is_function && kind != elf::STT_NOTYPE {
            return None;
        }
        let (start, end) = *sections.get(&index)?;
        let svma = symbol.address();
        if !(start..end).contains(&svma) {
            return None;
        }
        let name = symbol.name().ok()?;
        // `.L…` and `$x` mark places inside functions, not functions.
        if name.is_empty() || name.len() > MAX_NAME || name.starts_with(['.', '$']) {
            return None;
        }
        Some(FunctionSymbol {
            name,
            svma,
            size: symbol.size(),
            section_end: end,
            binding: match st_info.st_bind() {
                elf::STB_LOCAL => Binding::Local,
                elf::STB_WEAK => Binding::Weak,
                _ => Binding::Global,
            },
            is_function,
            is_ifunc,
        })
    })
}

/// Start and end (SVMA) of every executable section that is loaded. Debug files keep the entries of
/// sections whose bytes they left out.
fn code_sections(file: &object::File<'_>) -> FxHashMap<SectionIndex, (u64, u64)> {
    file.sections()
        .filter(|section| match section.flags() {
            SectionFlags::Elf { sh_flags, .. } => {
                sh_flags.contains(elf::SHF_EXECINSTR) && sh_flags.contains(elf::SHF_ALLOC)
            }
            _ => false,
        })
        .map(|s| (s.index(), (s.address(), s.address().saturating_add(s.size()))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_function_is_found_with_its_size() {
        let bytes = std::fs::read("/proc/self/exe").expect("read");
        let file = object::File::parse(&*bytes).expect("parse");
        let mine: Vec<_> = functions(&file, Table::Static)
            .filter(|f| f.name.contains("own_function_is_found_with_its_size"))
            .collect();
        assert!(!mine.is_empty());
        for function in mine {
            assert!(function.is_function && function.size > 0);
            assert!(function.svma + function.size <= function.section_end);
        }
    }
}
