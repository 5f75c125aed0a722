//! What was lost, in words.

use crate::profile::{Losses, Profile};

/// The state of the totals in one line, and a line for each cause of loss.
pub(super) fn describe(profile: &Profile) -> (String, Vec<String>) {
    let losses = &profile.losses;
    let until = if profile.complete { "" } else { " up to where the recording ends" };
    let summary = if losses.is_exact() {
        format!("no events lost: totals are exact{until}")
    } else if losses.affect_totals() {
        "events were lost: totals are NOT exact".to_owned()
    } else {
        format!("totals are exact{until}, some stacks are not")
    };
    (summary, lines(losses))
}

fn lines(losses: &Losses) -> Vec<String> {
    // Destructured, so that a new cause cannot go unreported.
    let Losses {
        lost_allocs,
        lost_frees,
        lost_reallocs,
        lost_stacks,
        lost_life,
        thread_table_full,
        abandoned_calls,
        stack_collisions,
        unreadable_results,
        unknown_points,
        undecodable,
        unknown_stacks,
        unwritten_bytes,
    } = *losses;
    [
        (
            lost_allocs,
            "allocations not seen (ring buffer full): allocated, peak and leaked are too low",
        ),
        (lost_frees, "frees not seen (ring buffer full): peak and leaked are too high"),
        (
            lost_reallocs,
            "halves of reallocs not seen (ring buffer full): peak and leaked are too low or too high",
        ),
        (
            thread_table_full,
            "calls not followed (thread table full): allocated, peak and leaked are too low",
        ),
        (
            unreadable_results,
            "results of posix_memalign unreadable: allocated, peak and leaked are too low",
        ),
        (unknown_points, "probe hits at no known point: any total may be too low"),
        (undecodable, "records not understood: any total may be wrong"),
        (
            lost_life,
            "forks, execs or exits not seen: blocks may be booked to a process that was gone",
        ),
        (unwritten_bytes, "bytes of recording not written (disk full): everything in them is missing"),
        (
            lost_stacks,
            "stack records not seen (ring buffer full): totals are not affected, a stack that \
             never came again is [unknown stack]",
        ),
        (unknown_stacks, "allocations without a known stack: counted under [unknown stack]"),
        (stack_collisions, "stacks merged by a hash collision: counted under the other stack"),
        (
            abandoned_calls,
            "calls never returned (thread ended or jumped out inside): no block came of them, \
             totals are not affected",
        ),
    ]
    .into_iter()
    .filter(|(count, _)| *count != 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::describe;
    use crate::{
        profile::Losses,
        report::testing::{lossy, server},
    };

    #[test]
    fn nothing_lost_is_said_in_these_words() {
        let (summary, lines) = describe(&server());
        assert_eq!(summary, "no events lost: totals are exact");
        assert!(lines.is_empty());
    }

    #[test]
    fn every_cause_has_its_line() {
        let (summary, lines) = describe(&lossy());
        assert_eq!(summary, "events were lost: totals are NOT exact");
        assert_eq!(lines.len(), 13);
    }

    #[test]
    fn calls_that_never_returned_are_no_loss() {
        let mut profile = server();
        profile.losses = Losses { abandoned_calls: 1, ..Losses::default() };
        let (summary, lines) = describe(&profile);
        assert_eq!(summary, "no events lost: totals are exact");
        assert_eq!(lines.len(), 1);
    }

    #[test]
    fn lost_stacks_leave_the_totals_exact() {
        let mut profile = server();
        profile.losses = Losses { unknown_stacks: 1, ..Losses::default() };
        assert_eq!(describe(&profile).0, "totals are exact, some stacks are not");
    }
}
