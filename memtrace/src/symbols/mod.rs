//! Addresses → frames: function, file, line, inlined ones too, demangled.
//!
//! Two halves. While a target lives, [`AddressSpaces`] turns the absolute addresses of its stacks
//! into a [`Module`] and an address in it, which costs a binary search; a module's file is opened
//! when its mapping is first seen, so it can be read after the target has ended, deleted or replaced
//! it. Later, on any one thread, a [`Symbolizer`] reads those files and gives names.

mod address_space;
mod debug_file;
mod demangle;
mod dwarf;
mod module;
mod spaces;
mod symbolizer;
mod table;

pub use address_space::{AddressSpace, Resolved};
pub use demangle::demangle;
pub use module::{Module, ModuleId, Modules};
pub use spaces::AddressSpaces;
pub use symbolizer::{Frame, Symbolizer};
