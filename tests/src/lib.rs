//! What the live tests share: truth programs are built and run, memtrace records them, and what it
//! reports is compared with the truth.
//!
//! Live tests need root and a kernel that memtrace can trace on. Where that is missing they fail
//! and say what is missing ([`machine::live`]); they are never skipped.

pub mod compare;
pub mod compile;
pub mod heaptrack;
pub mod machine;
pub mod oracle;
pub mod paths;
pub mod process;
pub mod record;
pub mod report;
pub mod scenario;
pub mod tracefs;
pub mod truth;

pub use compare::{Mode, compare};
pub use compile::{Build, program};
pub use machine::live;
pub use process::{Finished, Running};
pub use record::{Recorder, Recording};
pub use report::Report;
pub use scenario::Scenario;
pub use truth::Truth;
