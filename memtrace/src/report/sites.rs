//! Stacks merged by call site.
//!
//! The call site of a stack is its innermost frame that does not allocate on behalf of another (see
//! [`wrappers`](super::wrappers)). Frames with a source line are the same site if function and line
//! are, whatever the instruction; without a line, the address decides. Stacks with the same
//! locations but of different processes (a forked worker) are one stack here.

use std::{collections::HashMap, ops::Range};

use rustc_hash::FxHashMap;

use super::{
    frames::{frame_count, location},
    wrappers::is_wrapper,
};
use crate::profile::{Cost, LocationId, Profile, StackId, StringId};

/// A place in the program, with all that was allocated from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The frame: location and index of the function there. None: the stack's record was lost.
    pub at: Option<(LocationId, usize)>,
    pub cost: Cost,
    /// Its stacks, in [`CallSites::stacks`].
    stacks: Range<usize>,
}

/// A distinct stack, with the cost of all processes that had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteStack {
    /// The first stack of the profile with these frames.
    pub id: StackId,
    pub cost: Cost,
}

/// All call sites of a profile, in the order of their first stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallSites {
    pub sites: Vec<Site>,
    stacks: Vec<SiteStack>,
}

impl CallSites {
    /// Merges the stacks for which `keep` is true; `keep` may be shorter than the stacks, missing
    /// entries count as true. Linear in the number of frames.
    pub fn new(profile: &Profile, keep: &[bool]) -> Self {
        let mut keys = SiteKeys::new(profile);
        let mut by_key: FxHashMap<SiteKey, usize> = FxHashMap::default();
        let mut by_frames: FxHashMap<(&[LocationId], u8), usize> = FxHashMap::default();
        let mut sites: Vec<Site> = Vec::new();
        let mut stacks: Vec<(usize, SiteStack)> = Vec::new();

        for (id, stack) in profile.stacks.iter().enumerate() {
            if !keep.get(id).copied().unwrap_or(true) {
                continue;
            }
            let cost = profile.costs.get(id).copied().unwrap_or_default();
            let known = by_frames.entry((&stack.locations, stack.end)).or_insert_with(|| {
                let (key, at) = keys.of(&stack.locations);
                let site = *by_key.entry(key).or_insert_with(|| {
                    sites.push(Site { at, cost: Cost::default(), stacks: 0..0 });
                    sites.len() - 1
                });
                stacks.push((site, SiteStack { id: id as StackId, cost: Cost::default() }));
                stacks.len() - 1
            });
            let (site, merged) = &mut stacks[*known];
            add(&mut merged.cost, &cost);
            add(&mut sites[*site].cost, &cost);
        }

        // Stable: within a site the stacks stay in the profile's order.
        stacks.sort_by_key(|(site, _)| *site);
        let mut begin = 0;
        for chunk in stacks.chunk_by(|a, b| a.0 == b.0) {
            sites[chunk[0].0].stacks = begin..begin + chunk.len();
            begin += chunk.len();
        }
        Self { sites, stacks: stacks.into_iter().map(|(_, stack)| stack).collect() }
    }

    /// The stacks of a site.
    pub fn stacks(&self, site: &Site) -> &[SiteStack] {
        &self.stacks[site.stacks.clone()]
    }

    /// Number of distinct stacks of all sites together.
    pub fn stack_count(&self) -> usize {
        self.stacks.len()
    }
}

/// Adds `cost` to `sum`; sums of a damaged profile stop at the largest number.
pub fn add(sum: &mut Cost, cost: &Cost) {
    // Destructured, so that a new field cannot be forgotten here.
    let Cost {
        alloc_calls,
        alloc_bytes,
        free_calls,
        freed_bytes,
        temporary_calls,
        temporary_bytes,
        failed_calls,
        peak_bytes,
        peak_blocks,
    } = cost;
    for (sum, part) in [
        (&mut sum.alloc_calls, alloc_calls),
        (&mut sum.alloc_bytes, alloc_bytes),
        (&mut sum.free_calls, free_calls),
        (&mut sum.freed_bytes, freed_bytes),
        (&mut sum.temporary_calls, temporary_calls),
        (&mut sum.temporary_bytes, temporary_bytes),
        (&mut sum.failed_calls, failed_calls),
        (&mut sum.peak_bytes, peak_bytes),
        (&mut sum.peak_blocks, peak_blocks),
    ] {
        *sum = sum.saturating_add(*part);
    }
}

/// What makes two frames the same call site.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum SiteKey {
    Unknown,
    Line { module: Option<usize>, function: usize, file: usize, line: u32 },
    Address { module: Option<usize>, function: Option<usize>, address: u64 },
}

struct SiteKeys<'a> {
    profile: &'a Profile,
    /// For each string, the first string with the same text; the same for modules by path and build
    /// id. A profile merged from others may hold a name twice.
    strings: Vec<usize>,
    modules: Vec<usize>,
    /// For each function name: whether it is a wrapper, once that was asked.
    wrappers: Vec<Option<bool>>,
}

impl<'a> SiteKeys<'a> {
    fn new(profile: &'a Profile) -> Self {
        let strings = first_equal(profile.strings.iter().map(String::as_str));
        let string = |id: StringId| strings.get(id as usize).copied();
        let modules =
            first_equal(profile.modules.iter().map(|m| (string(m.path), string(m.build_id))));
        let wrappers = vec![None; profile.strings.len()];
        Self { profile, strings, modules, wrappers }
    }

    /// The call site of a stack: the first frame that is no wrapper, the outermost one if all are.
    fn of(&mut self, locations: &[LocationId]) -> (SiteKey, Option<(LocationId, usize)>) {
        let mut last = None;
        for id in locations {
            let location = location(self.profile, *id);
            for index in 0..frame_count(location) {
                last = Some((*id, index));
                let wrapper =
                    location.lines.get(index).is_some_and(|line| self.is_wrapper(line.function));
                if !wrapper {
                    return (self.key(*id, index), last);
                }
            }
        }
        match last {
            Some((id, index)) => (self.key(id, index), last),
            None => (SiteKey::Unknown, None),
        }
    }

    fn is_wrapper(&mut self, function: StringId) -> bool {
        match self.wrappers.get_mut(function as usize) {
            Some(known) => *known.get_or_insert_with(|| is_wrapper(self.profile.string(function))),
            None => false,
        }
    }

    fn key(&self, id: LocationId, index: usize) -> SiteKey {
        let location = location(self.profile, id);
        let module = location.module.and_then(|id| self.modules.get(id as usize).copied());
        let string = |id: StringId| self.strings.get(id as usize).copied();
        let line = location.lines.get(index);
        let function = line.and_then(|line| string(line.function));
        let source = line.and_then(|line| Some((string(line.file?)?, line.line?)));
        match (function, source) {
            (Some(function), Some((file, line))) => SiteKey::Line { module, function, file, line },
            _ => SiteKey::Address { module, function, address: location.address },
        }
    }
}

/// For each item, the index of the first item equal to it.
fn first_equal<T: Eq + std::hash::Hash>(items: impl Iterator<Item = T>) -> Vec<usize> {
    // The standard hasher: the keys are texts of the traced program.
    let mut first = HashMap::new();
    items.enumerate().map(|(index, item)| *first.entry(item).or_insert(index)).collect()
}

#[cfg(test)]
mod tests {
    use super::CallSites;
    use crate::{
        profile::Profile,
        report::{
            frames::{frame, location},
            testing::{Builder, server},
        },
    };

    fn names(profile: &Profile, sites: &CallSites) -> Vec<String> {
        let name = |(id, index): (u32, usize)| {
            let frame = frame(profile, location(profile, id), index);
            frame.function.map_or(format!("{:x}", frame.address), str::to_owned)
        };
        sites.sites.iter().map(|site| site.at.map_or("?".to_owned(), name)).collect()
    }

    #[test]
    fn wrappers_are_passed_over_and_lost_stacks_have_a_site_of_their_own() {
        let profile = server();
        let sites = CallSites::new(&profile, &[]);
        assert_eq!(
            names(&profile, &sites),
            ["buffer_new", "Index::load()", "4242", "7f0000001234", "?"]
        );
    }

    #[test]
    fn stacks_of_forked_processes_are_one_stack() {
        let profile = server();
        let sites = CallSites::new(&profile, &[]);
        let stacks = sites.stacks(&sites.sites[0]);
        assert_eq!(stacks.len(), 2);
        assert_eq!((stacks[1].id, stacks[1].cost.alloc_bytes), (1, 5000));
        assert_eq!(sites.sites[0].cost.alloc_calls, 1005);
        assert_eq!(sites.stack_count(), 6);
    }

    #[test]
    fn one_line_with_two_instructions_is_one_site_but_addresses_differ() {
        let mut b = Builder::new();
        let first = b.location("/bin/a", 1, &[("f", "a.c", 5)]);
        let second = b.location("/bin/a", 2, &[("f", "a.c", 5)]);
        let third = b.location("/bin/a", 3, &[("f", "", 0)]);
        let fourth = b.location("/bin/a", 4, &[("f", "", 0)]);
        let elsewhere = b.location("/bin/b", 4, &[("f", "", 0)]);
        for location in [first, second, third, fourth, elsewhere] {
            b.stack(&[location], 1, 1);
        }
        let profile = b.finish();
        assert_eq!(CallSites::new(&profile, &[]).sites.len(), 4);
    }

    #[test]
    fn stack_of_wrappers_only_has_its_outermost_frame_as_site() {
        let mut b = Builder::new();
        let new = b.location("/lib/libstdc++.so", 1, &[("operator new(unsigned long)", "", 0)]);
        let vector = b.location("/bin/a", 2, &[("std::vector<int>::push_back(int)", "", 0)]);
        b.stack(&[new, vector], 1, 1);
        let profile = b.finish();
        let sites = CallSites::new(&profile, &[]);
        assert_eq!(names(&profile, &sites), ["std::vector<int>::push_back(int)"]);
    }

    #[test]
    fn costs_and_indices_of_a_damaged_profile_do_no_harm() {
        let mut profile = server();
        profile.costs.truncate(1);
        profile.costs[0].alloc_bytes = u64::MAX;
        profile.strings.truncate(2);
        profile.locations.truncate(2);
        profile.modules.clear();
        let sites = CallSites::new(&profile, &[true, true, false]);
        assert!(!sites.sites.is_empty());
    }
}
