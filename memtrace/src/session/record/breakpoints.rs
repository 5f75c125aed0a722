//! The plans of all targets → the places and programs to attach.

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::MetadataExt},
};

use anyhow::Result;
use memtrace_common::{limits::POINT_TABLES, point::Point};

use crate::probes::{
    attach::{Group, Place},
    points::{PlannedPoint, ProbePlan, ProbedFile},
    programs::Programs,
    tables,
};

/// Every file to probe, each once, with its points.
pub struct Breakpoints {
    files: Vec<ProbedFile>,
}

impl Breakpoints {
    /// Merges the plans of several processes; a file that they share is taken once.
    pub fn new(plans: Vec<ProbePlan>) -> Result<Self> {
        let mut files: Vec<ProbedFile> = Vec::new();
        let mut seen = Vec::new();
        for file in plans.into_iter().flat_map(|plan| plan.files) {
            let metadata = file.file.metadata()?;
            let identity = (metadata.dev(), metadata.ino());
            match seen.iter().position(|other| *other == identity) {
                // Two programs may use different functions of one file.
                Some(index) => add_points(&mut files[index], file.points),
                None => {
                    seen.push(identity);
                    files.push(file);
                }
            }
        }
        Ok(Self { files })
    }

    /// Breakpoints in all, entries and returns counted singly.
    pub fn count(&self) -> u32 {
        let places = |point: &PlannedPoint| 1 + u32::from(point.spot.returns.is_some());
        self.points().map(|(_, point)| places(point)).sum()
    }

    /// Tells the programs where their points are, and which program goes where.
    pub fn groups<'a>(&'a self, programs: &'a mut Programs) -> Result<Vec<Group<'a>>> {
        let meanings: Vec<(u64, Point)> = self
            .points()
            .map(|(_, point)| {
                let function = point.function as u8;
                (point.spot.entry, Point { function, pushed: point.spot.pushed })
            })
            .collect();
        let assigned = tables::assign(&meanings)?;
        for (&(offset, meaning), &table) in meanings.iter().zip(&assigned) {
            programs.set_point(table, tables::low_bits(offset), meaning)?;
        }
        let programs = &*programs;
        let mut groups = Vec::new();
        for table in 0..POINT_TABLES {
            let entries: Vec<Place<'_>> = self
                .points()
                .zip(&assigned)
                .filter(|&(_, &of)| of == table)
                .map(|((file, point), _)| Place { file: file.as_fd(), offset: point.spot.entry })
                .collect();
            if entries.is_empty() {
                continue;
            }
            // One program serves all returns, so they go with the first group.
            let returns = if groups.is_empty() { self.returns() } else { Vec::new() };
            groups.push(Group {
                entry_program: programs.entry(table)?,
                return_program: programs.returned()?,
                entries,
                returns,
            });
        }
        Ok(groups)
    }

    fn returns(&self) -> Vec<Place<'_>> {
        self.points()
            .filter_map(|(file, point)| {
                point.spot.returns.map(|spot| Place { file: file.as_fd(), offset: spot.offset })
            })
            .collect()
    }

    fn points(&self) -> impl Iterator<Item = (&File, &PlannedPoint)> {
        self.files.iter().flat_map(|file| file.points.iter().map(|point| (&file.file, point)))
    }
}

fn add_points(file: &mut ProbedFile, points: Vec<PlannedPoint>) {
    for point in points {
        if !file.points.iter().any(|known| known.function_offset == point.function_offset) {
            file.points.push(point);
        }
    }
}
