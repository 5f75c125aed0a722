//! Numbers as people read them.

use std::fmt;

/// Bytes, rounded: `512B`, `1.50MiB`. Powers of 1024.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    // 1023.995 KiB would print as 1024.00KiB: go on to the next unit where rounding gets there.
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.995 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

/// Bytes, rounded and exact: `1.50MiB (1572864 B)`; `512B` needs no second number.
pub fn exact_bytes(bytes: u64) -> String {
    if bytes < 1024 { human_bytes(bytes) } else { format!("{} ({bytes} B)", human_bytes(bytes)) }
}

/// Share of `part` in `whole`, in per cent; 0 when the whole is 0.
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// A share with its sign; a share that is small but there never reads as 0.
pub fn human_percent(part: u64, whole: u64) -> String {
    let share = percent(part, whole);
    if part != 0 && share < 0.01 { "<0.01%".to_owned() } else { format!("{share:.2}%") }
}

/// Events a second; 0 when no time passed.
pub fn per_second(count: u64, ms: u64) -> u64 {
    u64::try_from(u128::from(count) * 1000 / u128::from(ms.max(1))).unwrap_or(u64::MAX)
        * u64::from(ms != 0)
}

/// A length of time from milliseconds: `0.250s`, `12.03s`, `3m05s`, `2h03m05s`.
pub fn human_ms(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("0.{ms:03}s"),
        1..60 => format!("{seconds}.{:02}s", ms % 1000 / 10),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m{:02}s", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

/// `1 stack`, `2 stacks`.
pub fn counted(count: u64, noun: &'static str) -> Counted {
    Counted { count, noun }
}

/// See [`counted`].
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    count: u64,
    noun: &'static str,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.count, self.noun, if self.count == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::{counted, exact_bytes, human_bytes, human_ms, human_percent, per_second};

    #[test]
    fn bytes_are_rounded_and_exact() {
        assert_eq!(human_bytes(0), "0B");
        assert_eq!(human_bytes(1023), "1023B");
        assert_eq!(human_bytes(1024), "1.00KiB");
        assert_eq!(exact_bytes(1_572_864), "1.50MiB (1572864 B)");
        assert_eq!(exact_bytes(100), "100B");
        assert_eq!(human_bytes((1 << 20) - 1), "1.00MiB");
        assert_eq!(human_bytes(u64::MAX), "16.00EiB");
    }

    #[test]
    fn times_shares_and_rates() {
        assert_eq!(human_ms(5), "0.005s");
        assert_eq!(human_ms(10_020), "10.02s");
        assert_eq!(human_ms(185_000), "3m05s");
        assert_eq!(human_ms(7_385_000), "2h03m05s");
        assert_eq!(human_percent(1, 3), "33.33%");
        assert_eq!(human_percent(1, 1_000_000), "<0.01%");
        assert_eq!(human_percent(0, 0), "0.00%");
        assert_eq!(per_second(10, 2_000), 5);
        assert_eq!(per_second(10, 0), 0);
        assert_eq!(per_second(u64::MAX, 1), u64::MAX);
        assert_eq!(counted(1, "stack").to_string(), "1 stack");
        assert_eq!(counted(0, "stack").to_string(), "0 stacks");
    }
}
