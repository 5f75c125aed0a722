//! Names out of traced binaries, made safe to print.

use std::{borrow::Cow, fmt::Write};

/// True for characters that act on a terminal or a line instead of being shown: control characters
/// and the ones that reorder text (`U+202E` can make `gnp.exe` read as `exe.png`).
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        )
}

/// The text with every unprintable character as an escape: `\n`, `\x1b`, `\u{202e}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Writing to a String cannot fail.
            c if is_unprintable(c) && (c as u32) < 0x80 => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if is_unprintable(c) => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// [`printable`], and with the middle cut out if longer than `max` characters, as names of C++
/// template instances can be: whoever needs all of it has the JSON.
pub fn short_printable(text: &str, max: usize) -> Cow<'_, str> {
    // Bytes are never fewer than characters, so this decides nearly all names without counting.
    if text.len() <= max {
        return printable(text);
    }
    let count = text.chars().count();
    if count <= max {
        return printable(text);
    }
    let tail = max / 4;
    let head = max - tail;
    let cut = |chars: usize| text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
    let (head, tail) = (&text[..cut(head)], &text[cut(count - tail)..]);
    Cow::Owned(format!("{} … {}", printable(head), printable(tail)))
}

/// Words as a shell would take them, printable: `a 'b c'`.
pub fn shell_words(words: &[String]) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=+:,@%^".contains(c);
    let quoted = words.iter().map(|word| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            printable(&format!("'{}'", word.replace('\'', r"'\''"))).into_owned()
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{is_unprintable, printable, shell_words, short_printable};

    #[test]
    fn control_and_direction_characters_are_escaped() {
        assert_eq!(printable("plain ünïcode"), "plain ünïcode");
        assert_eq!(printable("a\nb\tc\x1b[31m\x7f"), "a\\nb\\tc\\x1b[31m\\x7f");
        assert_eq!(printable("\u{9b}x\u{202e}y"), "\\u{9b}x\\u{202e}y");
    }

    #[test]
    fn long_names_keep_both_ends() {
        let name = format!("begin{}end", "x".repeat(10_000));
        let short = short_printable(&name, 40);
        assert!(short.starts_with("begin") && short.ends_with("end"), "{short}");
        assert_eq!(short.chars().count(), 43);
        assert_eq!(short_printable("äöü", 3), "äöü");
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_need_it() {
        let words = ["a", "b c", "", "it's", "\x1b"].map(String::from);
        assert_eq!(shell_words(&words), r"a 'b c' '' 'it'\''s' '\x1b'");
    }

    proptest! {
        #[test]
        fn nothing_unprintable_survives(text in any::<String>(), max in 0usize..20) {
            assert!(!printable(&text).chars().any(is_unprintable));
            assert!(!short_printable(&text, max).chars().any(is_unprintable));
            assert!(!shell_words(&[text]).chars().any(is_unprintable));
        }
    }
}
