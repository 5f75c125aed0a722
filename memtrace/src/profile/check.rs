//! Is a profile whole: does every index point at something?

use thiserror::Error;

use super::Profile;

/// An index in a profile that points at nothing, or tables that don't fit together.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Inconsistent {
    /// `table` names an entry of `target` that does not exist.
    #[error("{table} {index} refers to {target} {to}, which does not exist")]
    Dangling { table: &'static str, index: usize, target: &'static str, to: u32 },
    /// There must be one cost per stack.
    #[error("{stacks} stacks have {costs} costs")]
    Costs { stacks: usize, costs: usize },
    /// The time line must be in time order.
    #[error("time point {index} is older than the one before it")]
    TimeGoesBack { index: usize },
}

impl Profile {
    /// Checks that every index is in range, that there is one cost per stack and that the time line
    /// is in order, so that code behind this call can index without asking.
    pub fn check(&self) -> Result<(), Inconsistent> {
        if self.stacks.len() != self.costs.len() {
            return Err(Inconsistent::Costs { stacks: self.stacks.len(), costs: self.costs.len() });
        }
        let within = |table, index, target, to: u32, len: usize| {
            if (to as usize) < len {
                Ok(())
            } else {
                Err(Inconsistent::Dangling { table, index, target, to })
            }
        };
        let strings = self.strings.len();
        for (index, module) in self.modules.iter().enumerate() {
            within("module", index, "string", module.path, strings)?;
            within("module", index, "string", module.build_id, strings)?;
        }
        for (index, location) in self.locations.iter().enumerate() {
            if let Some(module) = location.module {
                within("location", index, "module", module, self.modules.len())?;
            }
            for line in &location.lines {
                within("location", index, "string", line.function, strings)?;
                if let Some(file) = line.file {
                    within("location", index, "string", file, strings)?;
                }
            }
        }
        for (index, stack) in self.stacks.iter().enumerate() {
            for location in &stack.locations {
                within("stack", index, "location", *location, self.locations.len())?;
            }
        }
        match self.timeline.windows(2).position(|pair| pair[1].ms < pair[0].ms) {
            Some(before) => Err(Inconsistent::TimeGoesBack { index: before + 1 }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::profile::{Cost, Line, Location, Module, Profile, Stack, TimePoint};

    fn whole() -> Profile {
        Profile {
            strings: vec!["a".into()],
            modules: vec![Module { path: 0, build_id: 0 }],
            locations: vec![Location {
                module: Some(0),
                address: 1,
                lines: vec![Line { function: 0, file: Some(0), line: None }],
            }],
            stacks: vec![Stack { locations: vec![0], end: 0, pid: 1 }],
            costs: vec![Cost::default()],
            timeline: vec![TimePoint::default(); 2],
            ..Profile::default()
        }
    }

    #[test]
    fn a_whole_profile_passes() {
        assert_eq!(whole().check(), Ok(()));
    }

    #[test]
    fn every_dangling_index_is_found() {
        let breaks: [fn(&mut Profile); 8] = [
            |p| p.modules[0].path = 1,
            |p| p.modules[0].build_id = 1,
            |p| p.locations[0].module = Some(1),
            |p| p.locations[0].lines[0].function = 1,
            |p| p.locations[0].lines[0].file = Some(u32::MAX),
            |p| p.stacks[0].locations[0] = 1,
            |p| p.costs.clear(),
            |p| p.timeline[0].ms = 1,
        ];
        for (number, damage) in breaks.iter().enumerate() {
            let mut profile = whole();
            damage(&mut profile);
            assert!(profile.check().is_err(), "damage {number} went unseen");
        }
    }
}
