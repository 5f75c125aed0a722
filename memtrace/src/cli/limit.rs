//! "How many": a number or `all`.

use thiserror::Error;

/// How many of something to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    All,
    AtMost(usize),
}

impl Limit {
    /// The number as an upper bound; `usize::MAX` for all.
    pub fn count(self) -> usize {
        match self {
            Limit::All => usize::MAX,
            Limit::AtMost(count) => count,
        }
    }
}

/// Why a limit was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected a number or 'all'")]
pub struct LimitError;

/// Reads a whole number or `all`.
pub fn parse_limit(text: &str) -> Result<Limit, LimitError> {
    if text.eq_ignore_ascii_case("all") {
        return Ok(Limit::All);
    }
    text.parse().map(Limit::AtMost).map_err(|_| LimitError)
}

#[cfg(test)]
mod tests {
    use super::{Limit, LimitError, parse_limit};

    #[test]
    fn limits_are_numbers_or_all() {
        assert_eq!(parse_limit("20"), Ok(Limit::AtMost(20)));
        assert_eq!(parse_limit("0"), Ok(Limit::AtMost(0)));
        assert_eq!(parse_limit("all"), Ok(Limit::All));
        assert_eq!(parse_limit("-1"), Err(LimitError));
        assert_eq!(parse_limit("many"), Err(LimitError));
    }
}
