//! Function names as parts of a folded line.
//!
//! A folded line is `root;caller;leaf COUNT`. Tools split it at `;` and at the last space, some take
//! a second number before the count for the "before" of a differential graph, and some skip lines
//! that begin with `# `. A name must not be able to do any of that, nor end the line, nor hold what
//! XML cannot.

use std::borrow::Cow;

use crate::report::{
    escape::is_unprintable,
    frames::{Frame, file_name},
};

/// The name of a frame in a folded line: the function, else `module+0x1234`, else the address.
pub(super) fn frame_name(frame: &Frame<'_>) -> String {
    match (frame.function.map(fold), frame.module) {
        (Some(name), _) if !name.is_empty() => name.into_owned(),
        (_, Some(module)) => format!("{}+{:#x}", fold(file_name(module)), frame.address),
        (_, None) => format!("{:#x}", frame.address),
    }
}

/// The text with everything replaced that means something in a folded line. May become empty.
pub(super) fn fold(name: &str) -> Cow<'_, str> {
    let name = name.trim();
    let numeric = name.rsplit_once(' ').filter(|(_, last)| {
        last.chars().all(|c| c.is_ascii_digit() || c == '.') && last.contains(|c: char| c != '.')
    });
    let comment = name.starts_with("# ");
    if numeric.is_none() && !comment && !name.contains(is_special) {
        return Cow::Borrowed(name);
    }
    let replace = |c| match c {
        ';' => ':',
        c if is_special(c) => '?',
        c => c,
    };
    let mut out: String = name.chars().map(replace).collect();
    // Replacements keep the number of characters but not of bytes: look again from the end.
    if numeric.is_some()
        && let Some(space) = out.rfind(' ')
    {
        out.replace_range(space..=space, "_");
    }
    if comment {
        out.replace_range(1..2, "_");
    }
    Cow::Owned(out)
}

/// Not printable on a line of its own, the separator, or one of the two characters of the basic
/// plane that XML 1.0 does not allow.
fn is_special(c: char) -> bool {
    c == ';' || is_unprintable(c) || matches!(c, '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::{fold, frame_name};
    use crate::report::frames::Frame;

    #[test]
    fn names_cannot_act_on_the_line() {
        assert_eq!(fold("operator new(unsigned long)"), "operator new(unsigned long)");
        assert_eq!(fold("<[u8; 8]>::f"), "<[u8: 8]>::f");
        assert_eq!(fold("a\nb\tc\x1b[31m"), "a?b?c?[31m");
        assert_eq!(fold("a 12"), "a_12");
        assert_eq!(fold("a 12 1.5"), "a 12_1.5");
        assert_eq!(fold("a; 12"), "a:_12");
        assert_eq!(fold("# comment"), "#_comment");
        assert_eq!(fold("# 7"), "#_7");
        assert_eq!(fold("  a  "), "a");
        assert_eq!(fold("x\u{2028}\u{fffe}"), "x??");
    }

    #[test]
    fn frames_without_a_function_are_named_by_module_and_address() {
        let frame = Frame {
            function: None,
            file: None,
            line: None,
            module: Some("/usr/lib/a;b.so"),
            address: 0x12,
            inlined: false,
        };
        assert_eq!(frame_name(&frame), "a:b.so+0x12");
        assert_eq!(frame_name(&Frame { module: None, ..frame }), "0x12");
        assert_eq!(frame_name(&Frame { function: Some(" \n "), ..frame }), "a:b.so+0x12");
        assert_eq!(frame_name(&Frame { function: Some("f"), ..frame }), "f");
    }

    proptest! {
        #[test]
        fn folded_names_are_stable_and_harmless(name in any::<String>(), odd in "[#;0-9. a\n]{0,12}") {
            for name in [name, odd] {
                let folded = fold(&name);
                let acting = [';', '\n', '\r', '\0', '\x1b', '\u{85}', '\u{2028}'];
                prop_assert!(!folded.contains(acting));
                prop_assert!(!folded.starts_with("# ") && !folded.starts_with(' '));
                prop_assert!(fold(&folded) == folded, "{folded:?}");
                if let Some((_, last)) = folded.rsplit_once(' ') {
                    prop_assert!(last.parse::<f64>().is_err() || last.contains(char::is_alphabetic)
                        || last.starts_with(['+', '-']), "{folded:?}");
                }
            }
        }
    }
}
