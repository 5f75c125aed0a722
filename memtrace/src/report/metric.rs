//! What stacks are ranked and drawn by.

use crate::profile::{Cost, Totals};

/// One number of a [`Cost`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Bytes allocated and not released by the end.
    Leaked,
    /// Bytes live at the moment when the whole heap was largest.
    Peak,
    /// Bytes requested in all.
    Allocated,
    /// Successful allocation calls.
    Calls,
    /// Calls whose block the same thread's next event released.
    Temporary,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Metric; 5] =
        [Metric::Leaked, Metric::Peak, Metric::Allocated, Metric::Calls, Metric::Temporary];

    /// The word for it on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Leaked => "leaked",
            Metric::Peak => "peak",
            Metric::Allocated => "allocated",
            Metric::Calls => "calls",
            Metric::Temporary => "temporary",
        }
    }

    /// "bytes" or "calls".
    pub fn unit(self) -> &'static str {
        match self {
            Metric::Leaked | Metric::Peak | Metric::Allocated => "bytes",
            Metric::Calls | Metric::Temporary => "calls",
        }
    }

    /// The amount for one stack, in [`unit`](Metric::unit)s.
    pub fn of(self, cost: &Cost) -> u64 {
        match self {
            Metric::Leaked => cost.live_bytes(),
            Metric::Peak => cost.peak_bytes,
            Metric::Allocated => cost.alloc_bytes,
            Metric::Calls => cost.alloc_calls,
            Metric::Temporary => cost.temporary_calls,
        }
    }

    /// The bytes behind the amount: of the same blocks, also where the metric counts calls.
    pub fn bytes(self, cost: &Cost) -> u64 {
        match self {
            Metric::Calls => cost.alloc_bytes,
            Metric::Temporary => cost.temporary_bytes,
            Metric::Leaked | Metric::Peak | Metric::Allocated => self.of(cost),
        }
    }

    /// The amount for the whole recording.
    pub fn total(self, totals: &Totals) -> u64 {
        match self {
            Metric::Leaked => totals.leaked_bytes,
            Metric::Peak => totals.peak_bytes,
            Metric::Allocated => totals.alloc_bytes,
            Metric::Calls => totals.alloc_calls,
            Metric::Temporary => totals.temporary_calls,
        }
    }
}
