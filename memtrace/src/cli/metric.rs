//! The word for a metric on the command line.

use clap::ValueEnum;

use crate::report::Metric;

/// What to sort or export by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MetricArg {
    /// Bytes allocated and not freed by the end
    Leaked,
    /// Bytes live when the whole heap was largest
    Peak,
    /// Bytes requested, freed or not
    Allocated,
    /// Allocation calls
    Calls,
    /// Allocations that the same thread freed right away
    Temporary,
}

impl From<MetricArg> for Metric {
    fn from(arg: MetricArg) -> Self {
        match arg {
            MetricArg::Leaked => Metric::Leaked,
            MetricArg::Peak => Metric::Peak,
            MetricArg::Allocated => Metric::Allocated,
            MetricArg::Calls => Metric::Calls,
            MetricArg::Temporary => Metric::Temporary,
        }
    }
}
