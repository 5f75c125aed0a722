//! Folded stacks: one line a stack, root first, amount at the end.

use std::io::{self, Write};

use rustc_hash::FxHashMap;

use super::names::frame_name;
use crate::{
    profile::Profile,
    report::{
        Metric,
        frames::{UNKNOWN_STACK, frame, frame_count, location, truncation},
    },
};

/// The stacks of a profile with their amounts by one metric: names root first, stacks of equal names
/// merged, in the order of their names. Stacks with an amount of 0 are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoldedStacks {
    /// Sorted, without duplicates.
    names: Vec<String>,
    /// Indices into `names`, all stacks one behind the other.
    frames: Vec<u32>,
    /// Where in `frames` a stack ends, and its amount.
    stacks: Vec<(usize, u64)>,
}

impl FoldedStacks {
    /// Folds the profile. Memory grows with the number of frames and of distinct names, not with
    /// the length of the lines.
    pub fn new(profile: &Profile, metric: Metric) -> Self {
        let (names, mut table) = Names::of(profile);
        let mut frames: Vec<u32> = Vec::new();
        let mut unsorted: Vec<(usize, usize, u64)> = Vec::new();
        for (id, stack) in profile.stacks.iter().enumerate() {
            let amount = profile.costs.get(id).map_or(0, |cost| metric.of(cost));
            if amount == 0 {
                continue;
            }
            let begin = frames.len();
            if stack.locations.is_empty() {
                frames.push(table.unknown_stack);
            } else if truncation(stack.end).is_some() {
                frames.push(table.truncated[usize::from(stack.end)]);
            }
            for id in stack.locations.iter().rev() {
                table.push_frames(*id, &mut frames);
            }
            unsorted.push((begin, frames.len(), amount));
        }

        unsorted.sort_by(|a, b| frames[a.0..a.1].cmp(&frames[b.0..b.1]));
        let mut sorted =
            Self { names, frames: Vec::with_capacity(frames.len()), stacks: Vec::new() };
        let same =
            |a: &(usize, usize, u64), b: &(usize, usize, u64)| frames[a.0..a.1] == frames[b.0..b.1];
        for group in unsorted.chunk_by(same) {
            sorted.frames.extend_from_slice(&frames[group[0].0..group[0].1]);
            let amount = group.iter().fold(0u64, |sum, (.., amount)| sum.saturating_add(*amount));
            sorted.stacks.push((sorted.frames.len(), amount));
        }
        sorted
    }

    /// True when no stack has any amount.
    pub fn is_empty(&self) -> bool {
        self.stacks.is_empty()
    }

    /// Sum of all amounts.
    pub fn total(&self) -> u128 {
        self.stacks.iter().map(|(_, amount)| u128::from(*amount)).sum()
    }

    /// Each stack's names, root first, and its amount.
    pub fn iter(
        &self,
    ) -> impl DoubleEndedIterator<Item = (impl Iterator<Item = &str>, u64)> + ExactSizeIterator
    {
        (0..self.stacks.len()).map(|index| {
            let begin = if index == 0 { 0 } else { self.stacks[index - 1].0 };
            let (end, amount) = self.stacks[index];
            let names = self.frames[begin..end].iter().map(|id| self.names[*id as usize].as_str());
            (names, amount)
        })
    }
}

/// Writes one line a stack: `main;parse;read 4096`. Nothing at all when nothing has any amount.
pub fn write_folded(stacks: &FoldedStacks, out: &mut impl Write) -> io::Result<()> {
    let mut line = String::new();
    for (names, amount) in stacks.iter() {
        fold_line(&mut line, names, amount);
        line.push('\n');
        out.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// Puts `a;b;c AMOUNT` into `line`.
pub(super) fn fold_line<'a>(line: &mut String, names: impl Iterator<Item = &'a str>, amount: u64) {
    line.clear();
    for name in names {
        if !line.is_empty() {
            line.push(';');
        }
        line.push_str(name);
    }
    line.push_str(&format!(" {amount}"));
}

/// Every frame's name, as an index that sorts like the name.
struct Names {
    /// The frames of a location, outermost first, are `frames[starts[id]..starts[id + 1]]`.
    frames: Vec<u32>,
    starts: Vec<usize>,
    /// For an id out of range.
    invalid: u32,
    unknown_stack: u32,
    truncated: Vec<u32>,
}

impl Names {
    fn of(profile: &Profile) -> (Vec<String>, Self) {
        let mut names: Vec<String> = Vec::new();
        let mut ids: FxHashMap<String, u32> = FxHashMap::default();
        let mut intern = |name: String| {
            *ids.entry(name).or_insert_with_key(|name| {
                names.push(name.clone());
                names.len() as u32 - 1
            })
        };
        let mut frames = Vec::with_capacity(profile.locations.len());
        let mut starts = vec![0];
        for location in &profile.locations {
            for index in (0..frame_count(location)).rev() {
                frames.push(intern(frame_name(&frame(profile, location, index))));
            }
            starts.push(frames.len());
        }
        let nowhere = location(profile, u32::MAX);
        let invalid = intern(frame_name(&frame(profile, nowhere, 0)));
        let unknown_stack = intern(UNKNOWN_STACK.to_owned());
        let truncated = (0..=u8::MAX)
            .map(|end| match truncation(end) {
                Some(reason) => intern(format!("[truncated: {reason}]")),
                None => invalid,
            })
            .collect();

        let mut order: Vec<u32> = (0..names.len() as u32).collect();
        order.sort_unstable_by(|a, b| names[*a as usize].cmp(&names[*b as usize]));
        let mut rank = vec![0u32; names.len()];
        for (position, id) in order.iter().enumerate() {
            rank[*id as usize] = position as u32;
        }
        let ranked = |id: u32| rank[id as usize];
        let table = Self {
            frames: frames.into_iter().map(ranked).collect(),
            starts,
            invalid: ranked(invalid),
            unknown_stack: ranked(unknown_stack),
            truncated: Vec::into_iter(truncated).map(ranked).collect(),
        };
        names.sort_unstable();
        (names, table)
    }

    /// Appends the frames of a location, outermost first.
    fn push_frames(&mut self, id: u32, out: &mut Vec<u32>) {
        let id = id as usize;
        match self.starts.get(id..=id + 1) {
            Some(&[begin, end]) => out.extend_from_slice(&self.frames[begin..end]),
            _ => out.push(self.invalid),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::{any, prop_assert, prop_assert_eq, proptest},
    };

    use super::{FoldedStacks, write_folded};
    use crate::{
        profile::Profile,
        report::{
            Metric,
            testing::{Builder, server},
        },
    };

    fn folded(profile: &Profile, metric: Metric) -> String {
        let mut out = Vec::new();
        write_folded(&FoldedStacks::new(profile, metric), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn stacks_are_root_first_merged_and_sorted() {
        insta::assert_snapshot!(folded(&server(), Metric::Leaked), @"");
        insta::assert_snapshot!(folded(&server(), Metric::Temporary), @"");
    }

    #[test]
    fn nothing_leaked_is_no_line() {
        let mut profile = server();
        for cost in &mut profile.costs {
            cost.freed_bytes = cost.alloc_bytes;
        }
        assert_eq!(folded(&profile, Metric::Leaked), "");
    }

    #[test]
    fn order_does_not_depend_on_the_order_of_the_recording() {
        let profile = server();
        let mut reversed = profile.clone();
        reversed.stacks.reverse();
        reversed.costs.reverse();
        assert_eq!(folded(&profile, Metric::Calls), folded(&reversed, Metric::Calls));
    }

    #[test]
    fn damaged_profiles_fold_without_panic() {
        let mut profile = server();
        profile.locations.truncate(2);
        profile.stacks[0].locations.push(u32::MAX);
        profile.stacks[1].end = 99;
        profile.costs.truncate(3);
        let text = folded(&profile, Metric::Calls);
        assert!(text.contains("[truncated: unknown reason];main;"), "{text}");
        assert!(text.contains("0x0;main;handle"), "{text}");
    }

    proptest! {
        #[test]
        fn lines_can_be_taken_apart_again(
            names in vec(any::<String>(), 1..6),
            stacks in vec((vec(0usize..6, 0..5), 1u64..1000), 0..12),
        ) {
            let mut b = Builder::new();
            let locations: Vec<_> = names
                .iter()
                .enumerate()
                .map(|(address, name)| b.location("/bin/x", address as u64, &[(name, "", 0)]))
                .collect();
            for (frames, bytes) in &stacks {
                let frames: Vec<_> = frames.iter().map(|f| locations[f % locations.len()]).collect();
                b.stack(&frames, 1, *bytes);
            }
            let profile = b.finish();
            let text = folded(&profile, Metric::Allocated);
            let mut sum = 0;
            let mut seen = std::collections::HashSet::new();
            for line in text.lines() {
                let (frames, count) = line.rsplit_once(' ').unwrap();
                sum += count.parse::<u64>().unwrap();
                prop_assert!(seen.insert(frames.to_owned()), "{frames} twice");
                prop_assert!(frames.split(';').all(|frame| !frame.is_empty()), "{line:?}");
                let depth = frames.split(';').count();
                prop_assert!(stacks.iter().any(|(frames, _)| frames.len().max(1) == depth));
            }
            prop_assert_eq!(sum, stacks.iter().map(|(_, bytes)| bytes).sum::<u64>());
        }
    }
}
