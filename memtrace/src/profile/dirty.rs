//! Which entries of a growing table changed since they were last written.

/// A set of indices: cheap to mark again and again, emptied in one step.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    bits: Vec<u64>,
    marked: Vec<u32>,
}

impl Dirty {
    /// Marks an index; nothing happens when it is marked already.
    #[inline]
    pub(crate) fn mark(&mut self, index: u32) {
        let word = (index / 64) as usize;
        let bit = 1u64 << (index % 64);
        if let Some(bits) = self.bits.get_mut(word) {
            if *bits & bit != 0 {
                return;
            }
            *bits |= bit;
        } else {
            self.bits.resize(word + 1, 0);
            self.bits[word] = bit;
        }
        self.marked.push(index);
    }

    /// The marked indices in ascending order; the set is empty afterwards.
    pub(crate) fn take(&mut self) -> Vec<u32> {
        let mut marked = std::mem::take(&mut self.marked);
        for index in &marked {
            self.bits[(index / 64) as usize] = 0;
        }
        marked.sort_unstable();
        marked
    }

    /// Marks all of these.
    pub(crate) fn mark_all(&mut self, indices: &[u32]) {
        for index in indices {
            self.mark(*index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Dirty;

    #[test]
    fn an_index_marked_twice_is_taken_once_and_in_order() {
        let mut dirty = Dirty::default();
        for index in [70, 3, 70, 64, 3] {
            dirty.mark(index);
        }
        assert_eq!(dirty.take(), [3, 64, 70]);
        assert!(dirty.take().is_empty());
        dirty.mark_all(&[64]);
        assert_eq!(dirty.take(), [64]);
    }
}
