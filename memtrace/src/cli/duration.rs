//! Lengths of time as people write them.

use std::time::Duration;

use thiserror::Error;

/// Why a duration was not understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DurationError {
    #[error("not a duration; write it like 10s, 500ms, 2m or 1h30m")]
    Malformed,
    #[error("unknown unit '{0}'; use ms, s, m, h or d")]
    UnknownUnit(String),
    #[error("must be longer than 0")]
    Zero,
    #[error("longer than 10 years")]
    TooLong,
}

const MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The length of time meant by `text`: numbers with units, `1h30m`; a bare number is seconds.
///
/// Never zero: "no limit" is said by leaving the option out.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DurationError::Malformed);
    }
    let mut sum = Duration::ZERO;
    let mut first = true;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let value: f64 = number.parse().map_err(|_| DurationError::Malformed)?;
        let seconds = match unit.trim() {
            "ms" => 0.001,
            "s" | "sec" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            // "10" is 10 seconds, "1m30" is more likely a slip than a minute and a half.
            "" if first && tail.is_empty() => 1.0,
            "" => return Err(DurationError::Malformed),
            other => return Err(DurationError::UnknownUnit(other.to_owned())),
        };
        let part =
            Duration::try_from_secs_f64(value * seconds).map_err(|_| DurationError::TooLong)?;
        sum = sum.checked_add(part).filter(|sum| *sum <= MAX).ok_or(DurationError::TooLong)?;
        rest = tail;
        first = false;
    }
    if sum.is_zero() { Err(DurationError::Zero) } else { Ok(sum) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{DurationError, parse_duration};

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, ms) in [
            ("10s", 10_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("10", 10_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_reason() {
        assert_eq!(parse_duration(""), Err(DurationError::Malformed));
        assert_eq!(parse_duration("s"), Err(DurationError::Malformed));
        assert_eq!(parse_duration("-1s"), Err(DurationError::Malformed));
        assert_eq!(parse_duration("1m30"), Err(DurationError::Malformed));
        assert_eq!(parse_duration("."), Err(DurationError::Malformed));
        assert_eq!(parse_duration("0s"), Err(DurationError::Zero));
        assert_eq!(
            parse_duration("3fortnights"),
            Err(DurationError::UnknownUnit("fortnights".into()))
        );
        assert_eq!(parse_duration("99999999999999999999d"), Err(DurationError::TooLong));
    }
}
