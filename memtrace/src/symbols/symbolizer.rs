//! Names for addresses in modules.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
};

use rustc_hash::FxHashMap;

use crate::{
    elf::{self, Image, Table},
    process::Root,
};

use super::{
    Module, ModuleId,
    debug_file::{DebugFile, Finder},
    demangle::{demangle, is_mangled},
    dwarf::{Dwarf, RawFrame},
    table::{Builder, SymbolTable},
};

/// A function at an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Demangled. `??` for an inlined function that the debug information gives no name.
    pub function: String,
    /// Source file with its directory, as the compiler was told; None without debug information.
    pub file: Option<String>,
    /// Source line from 1; None when unknown.
    pub line: Option<u32>,
}

/// Gives names to addresses, reading each module once, when it is first asked for.
///
/// Not shared between threads, but can be sent to the one that shall own it. Its stack should have
/// the 2 MiB that Rust gives threads. A module's symbols and debug information stay in memory until
/// others need the room.
///
/// Sources, the best first: the DWARF of the file itself; a separate debug file found by build id
/// or debug link, with dwz's shared file; the symbol tables `.symtab` (of either file), the one in
/// `.gnu_debugdata`, and `.dynsym`; PLT stubs.
pub struct Symbolizer {
    debug_directories: Vec<PathBuf>,
    own_root: Option<Root>,
    names: FxHashMap<ModuleId, Names>,
    clock: u64,
    budget_bytes: usize,
}

/// What is known of one module.
struct Names {
    module: Arc<Module>,
    table: SymbolTable,
    dwarf: Option<Dwarf>,
    last_used: u64,
}

/// Past this, the modules that were not used for longest are forgotten, bytes.
const BUDGET_BYTES: usize = 768 << 20;

impl Default for Symbolizer {
    fn default() -> Self {
        Self::new(vec!["/usr/lib/debug".into()])
    }
}

impl Symbolizer {
    /// A symbolizer that looks for separate debug files in these directories (in the target's file
    /// system first), and beside the binaries. The default is `/usr/lib/debug` alone.
    pub fn new(debug_directories: Vec<PathBuf>) -> Self {
        Self {
            debug_directories,
            own_root: Root::own().ok(),
            names: FxHashMap::default(),
            clock: 0,
            budget_bytes: BUDGET_BYTES,
        }
    }

    /// The functions at an address of a module (SVMA), innermost inlined one first. Empty when no
    /// symbol covers it or the module can't be read.
    ///
    /// The address after a call may belong to the next line or even the next function, so for a
    /// return address the byte before it, which is in the call, is looked up.
    pub fn frames(
        &mut self,
        module: &Arc<Module>,
        svma: u64,
        is_return_address: bool,
    ) -> Vec<Frame> {
        let probe = if is_return_address { svma.wrapping_sub(1) } else { svma };
        // Linkers leave the debug information of functions that they dropped at address 0.
        if !module.holds_code_at(probe) {
            return Vec::new();
        }
        self.clock += 1;
        let clock = self.clock;
        let names = self.names_of(module);
        names.last_used = clock;
        // The parsers below are made for broken input, but they are large, and what they read comes
        // from the target: a mistake in them may cost a module's names, not the recording.
        let found = catch_unwind(AssertUnwindSafe(|| names.frames(probe)));
        found.unwrap_or_else(|_| {
            names.dwarf = None;
            names.table.find(probe).map(symbol_only).into_iter().collect()
        })
    }

    fn names_of(&mut self, module: &Arc<Module>) -> &mut Names {
        let known = self.names.get(&module.id()).is_some_and(|n| Arc::ptr_eq(&n.module, module));
        if !known {
            let (table, dwarf) = catch_unwind(AssertUnwindSafe(|| self.load(module)))
                .unwrap_or_else(|_| Default::default());
            let names = Names { module: Arc::clone(module), table, dwarf, last_used: self.clock };
            self.names.insert(module.id(), names);
            self.forget_the_unused(module.id());
        }
        self.names.entry(module.id()).or_insert_with(|| Names {
            module: Arc::clone(module),
            table: SymbolTable::default(),
            dwarf: None,
            last_used: 0,
        })
    }

    fn forget_the_unused(&mut self, newest: ModuleId) {
        let mut total: usize = self.names.values().map(Names::bytes).sum();
        while total > self.budget_bytes {
            let others = self.names.iter().filter(|(id, _)| **id != newest);
            let Some((&oldest, names)) = others.min_by_key(|(_, n)| n.last_used) else { return };
            total -= names.bytes();
            self.names.remove(&oldest);
        }
    }

    fn load(&self, module: &Module) -> (SymbolTable, Option<Dwarf>) {
        let Ok(image) = module.image() else { return Default::default() };
        let image = Arc::new(image);
        let Ok(file) = image.parse() else { return Default::default() };
        let finder = Finder::new(&self.debug_directories, module, self.own_root.as_ref());
        let own = DwarfSource { image: Arc::clone(&image), path: module.path().to_owned() };
        let mut dwarf = own.load(&finder);
        // Its symbol table is wanted too: a stripped file may still have line tables of its own.
        let separate = finder.debug_file(module, &file).map(DwarfSource::from);
        if dwarf.is_none() {
            dwarf = separate.as_ref().and_then(|source| source.load(&finder));
        }
        let separate = separate.map(|source| source.image);
        (symbol_table(&file, separate.as_deref()), dwarf)
    }
}

/// A file that may hold DWARF.
struct DwarfSource {
    image: Arc<Image>,
    path: PathBuf,
}

impl From<DebugFile> for DwarfSource {
    fn from(file: DebugFile) -> Self {
        Self { image: Arc::new(file.image), path: file.path }
    }
}

impl DwarfSource {
    fn load(&self, finder: &Finder<'_>) -> Option<Dwarf> {
        let link = elf::alt_link(&self.image.parse().ok()?);
        let shared = link.and_then(|link| finder.supplementary(&link, &self.path));
        Dwarf::load(Arc::clone(&self.image), shared.map(|file| Arc::new(file.image)))
    }
}

/// All tables together: each may know functions that the others leave out.
fn symbol_table(file: &object::File<'_>, separate: Option<&Image>) -> SymbolTable {
    let separate = separate.and_then(|image| image.parse().ok());
    let mini = elf::mini_debug_info(file).ok().flatten();
    let mini = mini.as_ref().and_then(|image| image.parse().ok());
    let mut builder = Builder::default();
    builder.add(elf::functions(file, Table::Static));
    for other in [&separate, &mini].into_iter().flatten() {
        builder.add(elf::functions(other, Table::Static));
    }
    builder.add(elf::functions(file, Table::Dynamic));
    for stub in elf::plt_stubs(file) {
        builder.add_stub(stub.name, stub.svma, stub.size);
    }
    builder.build()
}

impl Names {
    fn frames(&mut self, probe: u64) -> Vec<Frame> {
        if self.dwarf.as_ref().is_some_and(|dwarf| !dwarf.is_unchanged()) {
            self.dwarf = None;
        }
        let symbol = self.table.find(probe);
        let mut raw = self.dwarf.as_ref().map(|d| d.frames(probe)).unwrap_or_default();
        let Some(outermost) = raw.last_mut() else {
            return symbol.map(symbol_only).into_iter().collect();
        };
        // Compilers leave the linkage name of lambdas and local functions out of DWARF; the plain
        // one, `operator()` for example, says less than the symbol's.
        if let Some(symbol) = symbol
            && outermost.function.as_deref().is_none_or(|n| !is_mangled(n) && is_mangled(symbol))
        {
            outermost.function = Some(symbol.to_owned());
        }
        raw.into_iter().map(Frame::from).collect()
    }

    fn bytes(&self) -> usize {
        self.table.bytes() + self.dwarf.as_ref().map_or(0, Dwarf::bytes)
    }
}

impl From<RawFrame> for Frame {
    fn from(raw: RawFrame) -> Self {
        Self {
            function: raw.function.as_deref().map_or_else(|| "??".to_owned(), demangle),
            file: raw.file,
            line: raw.line,
        }
    }
}

fn symbol_only(name: &str) -> Frame {
    // A stub's mark must not be taken for a symbol version.
    let function = match name.strip_suffix("@plt") {
        Some(target) => demangle(target) + "@plt",
        None => demangle(name),
    };
    Frame { function, file: None, line: None }
}
