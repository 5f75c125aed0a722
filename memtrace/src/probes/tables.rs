//! Which point table each probe point goes to.
//!
//! The kernel side knows a point by the low 12 bits of its address alone (a mapping is page-aligned,
//! so these are the bits of its file offset). Points that agree in them need different tables, each
//! with a program and a tracefs event of its own, and every event costs a descriptor a thread: so
//! as few tables as possible.

use memtrace_common::{
    limits::{POINT_TABLES, POINTS_PER_TABLE},
    point::Point,
};

/// More points share their low 12 bits than there are tables.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("over {POINT_TABLES} probe points share the low 12 bits of their address ({low:#x})")]
pub struct TooManyCollisions {
    /// The bits that they share.
    pub low: u16,
}

/// Table of each of the given points (file offset, meaning), in their order. Points of different
/// files with the same low bits and the same meaning share a table's slot.
pub fn assign(points: &[(u64, Point)]) -> Result<Vec<usize>, TooManyCollisions> {
    let mut tables = [const { Vec::<(u16, Point)>::new() }; POINT_TABLES];
    points
        .iter()
        .map(|&(offset, point)| {
            let low = low_bits(offset);
            let fits = |table: &Vec<(u16, Point)>| {
                table.iter().all(|&(taken, meaning)| taken != low || meaning == point)
            };
            let index = tables.iter().position(fits).ok_or(TooManyCollisions { low })?;
            tables[index].push((low, point));
            Ok(index)
        })
        .collect()
}

/// The part of a file offset that the kernel side knows a point by.
pub fn low_bits(offset: u64) -> u16 {
    (offset % POINTS_PER_TABLE as u64) as u16
}

#[cfg(test)]
mod tests {
    use memtrace_common::point::Function;

    use super::{POINT_TABLES, Point, TooManyCollisions, assign};

    fn point(function: Function) -> Point {
        Point { function: function as u8, pushed: 0 }
    }

    #[test]
    fn points_that_differ_in_their_low_bits_share_a_table() {
        let points = [(0x1000, point(Function::Malloc)), (0x1001, point(Function::Free))];
        assert_eq!(assign(&points), Ok(vec![0, 0]));
    }

    #[test]
    fn equal_low_bits_need_another_table_unless_they_mean_the_same() {
        let points = [
            (0x1010, point(Function::Malloc)),
            (0x2010, point(Function::Free)),
            (0x3010, point(Function::Malloc)),
        ];
        assert_eq!(assign(&points), Ok(vec![0, 1, 0]));
    }

    #[test]
    fn more_collisions_than_tables_are_an_error() {
        let points: Vec<_> = (0..=POINT_TABLES as u64)
            .map(|page| (page << 12 | 0x20, Point { function: page as u8 + 1, pushed: 0 }))
            .collect();
        assert_eq!(assign(&points), Err(TooManyCollisions { low: 0x20 }));
    }
}
