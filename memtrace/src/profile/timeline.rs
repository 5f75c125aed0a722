//! A time line with a bounded number of points.

use super::TimePoint;

/// Points kept at most. Beyond it the resolution is halved.
pub const MAX_TIME_POINTS: usize = 4_000;

/// Time points in time order, never more than [`MAX_TIME_POINTS`].
///
/// Time is cut into slots of equal length, 1 ms at first; when there are too many points the slots
/// are made twice as long. Of all points in one slot the one with the most live bytes is kept, so a
/// peak survives any number of halvings.
#[derive(Debug)]
pub struct Timeline {
    points: Vec<TimePoint>,
    resolution_ms: u64,
    /// Points before this index have not changed since the last call of `take_changed_from`.
    changed_from: usize,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { points: Vec::new(), resolution_ms: 1, changed_from: 0 }
    }
}

impl Timeline {
    /// Adds a point. One that is older than the last point is put at the last point's time: time
    /// never goes back.
    pub fn push(&mut self, mut point: TimePoint) {
        if let Some(last) = self.points.last_mut() {
            point.ms = point.ms.max(last.ms);
            if point.ms / self.resolution_ms == last.ms / self.resolution_ms {
                *last = higher(*last, point);
                self.changed_from = self.changed_from.min(self.points.len() - 1);
                return;
            }
        }
        self.points.push(point);
        while self.points.len() > MAX_TIME_POINTS {
            self.halve();
        }
    }

    /// The points so far.
    pub fn points(&self) -> &[TimePoint] {
        &self.points
    }

    /// Length of a slot, milliseconds.
    pub fn resolution_ms(&self) -> u64 {
        self.resolution_ms
    }

    /// Index of the first point that is new or changed since the last call.
    pub(crate) fn take_changed_from(&mut self) -> usize {
        std::mem::replace(&mut self.changed_from, self.points.len())
    }

    /// Undoes a [`take_changed_from`](Self::take_changed_from) that returned `index`.
    pub(crate) fn mark_changed_from(&mut self, index: usize) {
        self.changed_from = self.changed_from.min(index);
    }

    fn halve(&mut self) {
        self.resolution_ms *= 2;
        let resolution = self.resolution_ms;
        self.points.dedup_by(|later, earlier| {
            let same = later.ms / resolution == earlier.ms / resolution;
            if same {
                *earlier = higher(*earlier, *later);
            }
            same
        });
        self.changed_from = 0;
    }
}

/// Of two points of one slot, the one with more live bytes (the earlier one on a tie), with the
/// larger resident set of both.
fn higher(earlier: TimePoint, later: TimePoint) -> TimePoint {
    let rss_bytes = earlier.rss_bytes.max(later.rss_bytes);
    let point = if later.live_bytes > earlier.live_bytes { later } else { earlier };
    TimePoint { rss_bytes, ..point }
}

#[cfg(test)]
mod tests {
    use super::{MAX_TIME_POINTS, Timeline};
    use crate::profile::TimePoint;

    fn point(ms: u64, live_bytes: u64) -> TimePoint {
        TimePoint { ms, live_bytes, ..TimePoint::default() }
    }

    #[test]
    fn many_points_are_halved_and_the_highest_survives() {
        let mut timeline = Timeline::default();
        for second in 0..100_000u64 {
            timeline.push(point(second * 1000, if second == 77_777 { 9 } else { second % 3 }));
        }
        assert!(timeline.points().len() <= MAX_TIME_POINTS);
        assert!(timeline.points().len() > MAX_TIME_POINTS / 4);
        assert!(timeline.points().is_sorted_by(|a, b| a.ms < b.ms));
        assert!(timeline.points().iter().any(|p| p.ms == 77_777_000 && p.live_bytes == 9));
    }

    #[test]
    fn a_point_in_the_same_slot_raises_it_and_never_lowers_it() {
        let mut timeline = Timeline::default();
        timeline.push(point(5, 10));
        timeline.push(TimePoint { rss_bytes: 7, ..point(5, 4) });
        assert_eq!(timeline.points(), [TimePoint { rss_bytes: 7, ..point(5, 10) }]);
        timeline.push(point(3, 11));
        assert_eq!(timeline.points(), [TimePoint { rss_bytes: 7, ..point(5, 11) }]);
    }

    #[test]
    fn changed_from_names_the_first_point_to_write_again() {
        let mut timeline = Timeline::default();
        timeline.push(point(1, 1));
        assert_eq!(timeline.take_changed_from(), 0);
        timeline.push(point(2, 1));
        assert_eq!(timeline.take_changed_from(), 1);
        timeline.push(point(2, 2));
        assert_eq!(timeline.take_changed_from(), 1);
        assert_eq!(timeline.take_changed_from(), 2);
        timeline.mark_changed_from(1);
        assert_eq!(timeline.take_changed_from(), 1);
        for ms in 3..=MAX_TIME_POINTS as u64 + 1 {
            timeline.push(point(ms, 1));
        }
        assert_eq!(timeline.take_changed_from(), 0);
    }
}
