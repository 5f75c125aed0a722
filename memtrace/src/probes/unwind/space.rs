//! Which parts of an array are in use.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use super::QUARANTINE;

/// First-fit allocation of runs of elements. Given-up runs are used again after [`QUARANTINE`],
/// because the kernel may be reading them.
pub struct Space {
    /// Start to length, never touching each other.
    free: BTreeMap<u32, u32>,
    /// In the order in which they were given up.
    resting: VecDeque<(Instant, u32, u32)>,
    used: u32,
}

impl Space {
    /// All of `size` elements free.
    pub fn new(size: u32) -> Self {
        let free = if size > 0 { BTreeMap::from([(0, size)]) } else { BTreeMap::new() };
        Self { free, resting: VecDeque::new(), used: 0 }
    }

    /// A run of `length` elements; None when no gap is long enough. An empty run starts at 0.
    pub fn take(&mut self, length: u32, now: Instant) -> Option<u32> {
        while let Some(&(since, start, resting)) = self.resting.front() {
            if now.saturating_duration_since(since) < QUARANTINE {
                break;
            }
            self.resting.pop_front();
            self.put(start, resting);
        }
        if length == 0 {
            return Some(0);
        }
        let (&start, &found) = self.free.iter().find(|&(_, &found)| found >= length)?;
        self.free.remove(&start);
        if found > length {
            self.free.insert(start + length, found - length);
        }
        self.used += length;
        Some(start)
    }

    /// Gives a run up that [`Space::take`] returned.
    pub fn give_up(&mut self, start: u32, length: u32, now: Instant) {
        if length > 0 {
            self.used -= length;
            self.resting.push_back((now, start, length));
        }
    }

    /// Elements in use; those given up, and not yet usable again, are not counted.
    pub fn used(&self) -> u32 {
        self.used
    }

    fn put(&mut self, mut start: u32, mut length: u32) {
        if let Some((&before, &size)) = self.free.range(..start).next_back()
            && before + size == start
        {
            self.free.remove(&before);
            start = before;
            length += size;
        }
        if let Some(size) = self.free.remove(&(start + length)) {
            length += size;
        }
        self.free.insert(start, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_up_space_rests_before_it_is_used_again() {
        let start = Instant::now();
        let mut space = Space::new(10);
        assert_eq!(space.take(10, start), Some(0));
        space.give_up(0, 10, start);
        assert_eq!(space.used(), 0);
        assert_eq!(space.take(1, start), None);
        assert_eq!(space.take(10, start + QUARANTINE), Some(0));
    }

    #[test]
    fn neighbours_grow_together_again() {
        let start = Instant::now();
        let later = start + QUARANTINE;
        let mut space = Space::new(9);
        let runs = [3, 3, 3].map(|n| space.take(n, start).expect("room"));
        assert_eq!(runs, [0, 3, 6]);
        for run in [3, 0, 6] {
            space.give_up(run, 3, start);
        }
        assert_eq!(space.take(9, later), Some(0));
        assert_eq!(space.take(1, later), None);
    }
}
