//! Which file's malloc a program uses, and where its functions lie.

use memtrace_common::point::Function;

use super::module::Module;
use crate::elf::{self, Binding, Headers, Table};

/// A function's code in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Definition {
    pub function: Function,
    /// First byte, as the file itself states it (SVMA).
    pub svma: u64,
    /// First byte, offset in the file.
    pub offset: u64,
    /// Bytes; where the symbol table doesn't say, up to the section's end.
    pub size: u64,
}

/// What one file has to offer.
#[derive(Clone, Debug, Default)]
pub(super) struct Definitions {
    pub found: Vec<Definition>,
    /// Only known by a resolver that picks the real function at run time (STT_GNU_IFUNC).
    pub indirect: Vec<Function>,
    /// Whether there was a symbol table to look in at all.
    pub has_symbols: bool,
}

impl Definitions {
    fn defines(&self, function: Function) -> bool {
        self.indirect.contains(&function) || self.found.iter().any(|d| d.function == function)
    }

    /// A file that defines `malloc` is an allocator. One that only has, say, `reallocarray` (libbsd)
    /// builds on another's.
    pub fn is_allocator(&self) -> bool {
        self.defines(Function::Malloc)
    }
}

/// The allocator functions that a file offers to others: its exported ones, and for a static
/// program, which exports nothing, those in `.symtab`.
pub(super) fn definitions(module: &Module, is_static_program: bool) -> Definitions {
    let (Ok(file), Ok(headers)) = (module.image.parse(), Headers::read(module.image.bytes()))
    else {
        return Definitions::default();
    };
    let mut definitions = Definitions::default();
    let tables: &[Table] =
        if is_static_program { &[Table::Dynamic, Table::Static] } else { &[Table::Dynamic] };
    for table in tables {
        for symbol in elf::functions(&file, *table) {
            definitions.has_symbols = true;
            if symbol.binding == Binding::Local || !symbol.is_function {
                continue;
            }
            let name = symbol.name.split('@').next().unwrap_or_default();
            let Some(function) = Function::ALL.into_iter().find(|f| f.name() == name) else {
                continue;
            };
            if symbol.is_ifunc {
                if !definitions.indirect.contains(&function) {
                    definitions.indirect.push(function);
                }
                continue;
            }
            let Some(offset) = headers.offset_of_svma(symbol.svma) else { continue };
            let most = symbol.section_end - symbol.svma;
            let size = if symbol.size == 0 { most } else { symbol.size.min(most) };
            let definition = Definition { function, svma: symbol.svma, offset, size };
            // Old and new versions of one symbol may have code of their own.
            if !definitions.found.iter().any(|d| d.function == function && d.offset == offset) {
                definitions.found.push(definition);
            }
        }
    }
    definitions
}

/// For each function the file whose definition a program gets, by the dynamic linker's rule: the
/// first in lookup order that has one. `definitions` is in that order.
///
/// glibc's own dynamic linker has a malloc too, which serves it until libc's is there. It is not
/// exported (glibc 2.31 and later) or comes last in the order (before), and so is never chosen. That
/// is right: what it hands out is a few pages for the linker's own lists, which it never gives back.
pub(super) fn in_use(definitions: &[Definitions]) -> Vec<(Function, usize)> {
    let first = |function: Function| {
        definitions.iter().position(|d| d.is_allocator() && d.defines(function))
    };
    let free = first(Function::Free);
    Function::ALL
        .into_iter()
        .filter_map(|function| Some((function, first(function)?)))
        // glibc's cfree is its free under another name. Where another file's free is in use, nobody
        // can call it without a crash, and a point there would look like a free of libc's.
        .filter(|(function, index)| !function.is_free() || Some(*index) == free)
        .collect()
}
