//! Colours, or none.

use std::fmt;

use anstyle::{AnsiColor, Style};

/// The styles of a report; all plain without colour.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Styles {
    /// Section titles.
    pub(super) title: Style,
    /// The amount that a line is about.
    pub(super) amount: Style,
    /// A call site.
    pub(super) site: Style,
    /// What is there for completeness.
    pub(super) dim: Style,
    /// What makes the numbers wrong.
    pub(super) bad: Style,
    /// All is well.
    pub(super) good: Style,
}

impl Styles {
    pub(super) fn new(colour: bool) -> Self {
        if !colour {
            return Self::default();
        }
        Self {
            title: Style::new().bold().underline(),
            amount: AnsiColor::Yellow.on_default(),
            site: Style::new().bold(),
            dim: Style::new().dimmed(),
            bad: AnsiColor::Red.on_default().bold(),
            good: AnsiColor::Green.on_default(),
        }
    }
}

/// `text` between the codes of `style`.
pub(super) fn paint<T: fmt::Display>(style: Style, text: T) -> impl fmt::Display {
    fmt::from_fn(move |f| write!(f, "{style}{text}{style:#}"))
}
