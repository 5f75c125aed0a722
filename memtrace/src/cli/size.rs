//! Byte sizes as people write them.

use thiserror::Error;

/// Why a size was not understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SizeError {
    #[error("not a size; write it like 4096, 512KiB or 16M")]
    NotANumber,
    #[error(
        "unknown unit '{0}'; use B, K, M, G, T (powers of 1024, also KiB, MiB, …) or kB, MB, …"
    )]
    UnknownUnit(String),
    #[error("larger than 2^64 bytes")]
    TooLarge,
}

/// Bytes meant by `text`: a whole or decimal number and an optional unit.
///
/// `K`, `M`, `G`, `T` and `KiB`, … are powers of 1024, `kB`, `MB`, `GB`, `TB` powers of 1000, as in
/// GNU coreutils. Case does not matter, a space before the unit neither. A fraction of a byte is
/// cut off.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim_start());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || fraction.len() > 18 || number.ends_with('.') {
        return Err(SizeError::NotANumber);
    }

    let factor: u128 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(SizeError::UnknownUnit(unit.to_owned())),
    };
    // Only digits are left, so the one thing that can go wrong is the length.
    let whole: u64 = whole.parse().map_err(|_| SizeError::TooLarge)?;
    let mut bytes = u128::from(whole) * factor;
    if !fraction.is_empty() {
        let numerator: u128 = fraction.parse().map_err(|_| SizeError::NotANumber)?;
        bytes += numerator * factor / 10u128.pow(fraction.len() as u32);
    }
    u64::try_from(bytes).map_err(|_| SizeError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::{SizeError, parse_size};

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("17B", 17),
            ("64M", 64 << 20),
            ("64m", 64 << 20),
            ("512KiB", 512 << 10),
            ("16MiB", 16 << 20),
            ("1 GiB", 1 << 30),
            ("1.5M", 3 << 19),
            ("0.5k", 512),
            ("2T", 2 << 40),
            ("10kB", 10_000),
            ("3MB", 3_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_reason() {
        for text in ["", "M", "-1", ".5M", "1.", "1.2.3", "0x10", "1e9", "1.0000000000000000000"] {
            let error = parse_size(text).unwrap_err();
            assert!(matches!(error, SizeError::NotANumber | SizeError::UnknownUnit(_)), "{text}");
        }
        assert_eq!(parse_size("5 parsecs"), Err(SizeError::UnknownUnit("parsecs".to_owned())));
        assert_eq!(parse_size("18446744073709551616"), Err(SizeError::TooLarge));
        assert_eq!(parse_size("16777216T"), Err(SizeError::TooLarge));
    }
}
