//! The address spaces of all recorded processes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

use crate::process::{Mapping, ProcessError, Root};

use super::{
    Module, Modules, Resolved,
    address_space::{AddressSpace, Place},
};

/// Follows what processes map, and turns their addresses into places in files.
///
/// Give it the processes' events in the order in which they happened. An address that it can't
/// place makes it read the process's mappings again, so events of single mappings are not needed
/// while the process lives; they help when it ends at once.
#[derive(Debug, Default)]
pub struct AddressSpaces {
    modules: Modules,
    spaces: FxHashMap<u32, Followed>,
}

#[derive(Debug)]
struct Followed {
    space: AddressSpace,
    /// After a reading that didn't help, the earliest time of the next.
    patience: Option<Instant>,
}

/// A garbage address is in no mapping, whenever one looks.
const PATIENCE: Duration = Duration::from_millis(50);

impl From<AddressSpace> for Followed {
    fn from(space: AddressSpace) -> Self {
        Self { space, patience: None }
    }
}

impl AddressSpaces {
    /// Begins to follow a running process: reads its mappings, opens their files.
    ///
    /// # Errors
    /// All of [`ProcessError`].
    pub fn attach(&mut self, pid: u32) -> Result<(), ProcessError> {
        let space = AddressSpace::read(pid, &mut self.modules)?;
        self.spaces.insert(pid, space.into());
        Ok(())
    }

    /// `parent` forked `child`, which begins with the same mappings.
    pub fn fork(&mut self, parent: u32, child: u32) {
        let space = match self.spaces.get(&parent) {
            Some(parent) => parent.space.fork(child),
            None => self.read_or_empty(child, None),
        };
        self.spaces.insert(child, space.into());
    }

    /// The process replaced its program: nothing is mapped any more. What the new program maps comes
    /// by [`AddressSpaces::map`], or is read when an address is found in nothing that is mapped.
    pub fn exec(&mut self, pid: u32) {
        let space = match self.spaces.get(&pid) {
            Some(before) => before.space.exec(),
            None => AddressSpace::empty(pid, Root::of(pid).ok()),
        };
        self.spaces.insert(pid, space.into());
    }

    /// The process ended; its number may come again.
    pub fn exit(&mut self, pid: u32) {
        self.spaces.remove(&pid);
    }

    /// The process mapped something executable.
    pub fn map(&mut self, pid: u32, mapping: &Mapping) {
        let followed = self
            .spaces
            .entry(pid)
            .or_insert_with(|| AddressSpace::empty(pid, Root::of(pid).ok()).into());
        followed.space.add(mapping, &mut self.modules);
    }

    /// Module and SVMA of an absolute address of a process. None for code without a file (JIT), for
    /// addresses that are not mapped, and for processes that are not followed.
    pub fn resolve(&mut self, pid: u32, address: u64) -> Option<Resolved<'_>> {
        let followed = self.spaces.get_mut(&pid)?;
        if matches!(followed.space.place(address), Place::Unmapped)
            && followed.patience.is_none_or(|until| until <= Instant::now())
        {
            // An error means that it has ended, and what is known is all there will ever be.
            let _ = followed.space.refresh(&mut self.modules);
            let helped = !matches!(followed.space.place(address), Place::Unmapped);
            followed.patience = (!helped).then(|| Instant::now() + PATIENCE);
        }
        followed.space.resolve(address)
    }

    /// Every module so far; a [`ModuleId`](super::ModuleId) is the index.
    pub fn modules(&self) -> &[Arc<Module>] {
        self.modules.all()
    }

    fn read_or_empty(&mut self, pid: u32, fallback: Option<AddressSpace>) -> AddressSpace {
        AddressSpace::read(pid, &mut self.modules)
            .ok()
            .or(fallback)
            .unwrap_or_else(|| AddressSpace::empty(pid, None))
    }
}
