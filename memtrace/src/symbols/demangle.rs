//! Names as the programmer wrote them.

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};

/// Longest mangled name that is looked at and longest result that is taken, bytes. A few hundred
/// bytes of mangled C++ can stand for gigabytes of text.
const MAX_BYTES: usize = 64 << 10;

/// The name without a symbol version, demangled when it is Rust (hash removed) or C++. A name that
/// can't be demangled, or only to more than 64 KiB, is given as it is.
pub fn demangle(raw: &str) -> String {
    let name = without_version(raw);
    if name.len() <= MAX_BYTES {
        let text = if is_rust(name) {
            rust(name)
        } else if name.starts_with("_Z") {
            cpp(name)
        } else {
            None
        };
        if let Some(text) = text {
            return text;
        }
    }
    name.to_owned()
}

/// True for names that a compiler encoded, so that they say more than a bare identifier.
pub(super) fn is_mangled(name: &str) -> bool {
    name.starts_with("_Z") || is_rust(name)
}

/// `malloc@@GLIBC_2.2.5` → `malloc`.
pub(super) fn without_version(name: &str) -> &str {
    match name.find('@') {
        Some(at) if at > 0 => &name[..at],
        _ => name,
    }
}

/// v0 names begin with `_R`. Legacy ones look like C++ and end in a hash: `17h` + 16 digits + `E`.
fn is_rust(name: &str) -> bool {
    if name.starts_with("_R") {
        return true;
    }
    let Some(hash) = name.rfind("17h").filter(|_| name.starts_with("_ZN")) else { return false };
    let rest = &name.as_bytes()[hash + 3..];
    rest.len() > 16 && rest[..16].iter().all(u8::is_ascii_hexdigit) && rest[16] == b'E'
}

fn rust(name: &str) -> Option<String> {
    let parsed = rustc_demangle::try_demangle(name).ok()?;
    let mut text = Bounded(String::new());
    // The alternate form leaves the hash out.
    write!(text, "{parsed:#}").ok()?;
    Some(text.0)
}

fn cpp(name: &str) -> Option<String> {
    // The crate's own defaults, written down because they bound the stack that it uses.
    let parsing = ParseOptions::default().recursion_limit(96);
    let symbol = Symbol::new_with_options(name, &parsing).ok()?;
    let mut text = Bounded(String::new());
    let options = DemangleOptions::default().recursion_limit(128);
    symbol.structured_demangle(&mut text, &options).ok()?;
    Some(suffixed_literals(text.0))
}

/// `Head<(unsigned long)0>` → `Head<0ul>`, as C++ itself and binutils write it.
fn suffixed_literals(text: String) -> String {
    const SUFFIXES: [(&str, &str); 5] = [
        ("(unsigned int)", "u"),
        ("(long)", "l"),
        ("(unsigned long)", "ul"),
        ("(long long)", "ll"),
        ("(unsigned long long)", "ull"),
    ];
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(open) = rest.find('(') {
        let (before, from_open) = rest.split_at(open);
        out.push_str(before);
        let literal = SUFFIXES.iter().find_map(|(cast, suffix)| {
            let value = from_open.strip_prefix(cast)?;
            let sign = usize::from(value.starts_with('-'));
            let digits = value[sign..].bytes().take_while(u8::is_ascii_digit).count();
            (digits > 0).then(|| (value.split_at(sign + digits), suffix))
        });
        rest = match literal {
            Some(((number, tail), suffix)) => {
                out.push_str(number);
                out.push_str(suffix);
                tail
            }
            None => {
                out.push('(');
                &from_open[1..]
            }
        };
    }
    out.push_str(rest);
    out
}

/// A string that refuses to grow beyond the limit.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_BYTES {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_the_programmer_wrote_them() {
        for (raw, expected) in [
            ("malloc", "malloc"),
            ("malloc@@GLIBC_2.2.5", "malloc"),
            ("memcpy@GLIBC_2.2.5", "memcpy"),
            ("@odd", "@odd"),
            ("main", "main"),
            ("_ZN3app5Cache3putEiPKc", "app::Cache::put(int, char const*)"),
            ("_Znwm@@GLIBCXX_3.4", "operator new(unsigned long)"),
            ("_ZZ4mainENKUliE_clEi", "main::{lambda(int)#1}::operator()(int) const"),
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
            ("_ZN4core3fmt5write17h0123456789abcdefE.llvm.123", "core::fmt::write"),
            ("_RNvNtCs1234_7mycrate3foo3bar", "mycrate::foo::bar"),
            ("_RINvNtC3std3mem8align_ofjE", "std::mem::align_of::<usize>"),
            ("_Z1fILm0ELj7ELln5ELi3ELb1EEvv", "void f<0ul, 7u, -5l, 3, true>()"),
            ("_Zbroken", "_Zbroken"),
            ("_R", "_R"),
            ("", ""),
        ] {
            assert_eq!(demangle(raw), expected, "{raw}");
        }
    }

    #[test]
    fn exponential_name_gives_the_raw_name_quickly() {
        // Each pair doubles what the substitution before it stood for.
        let mut name = String::from("_Z1fI");
        name.push_str("St4pairIiiE");
        for i in 0..30 {
            let s = |n: usize| match n {
                0 => "S_".to_owned(),
                n => format!("S{}_", char::from_digit((n - 1) as u32, 36).unwrap_or('z')),
            };
            name.push_str(
                &format!("St4pairI{0}{0}E", s(i + 1)).to_uppercase().replace("ST4PAIR", "St4pair"),
            );
        }
        name.push_str("EvT_");
        let begun = std::time::Instant::now();
        let text = demangle(&name);
        assert!(text.len() <= MAX_BYTES);
        assert!(begun.elapsed().as_secs() < 2);
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        for unit in ["P", "N", "I", "F", "St4pairI", "A_", "Dp", "X", "L"] {
            let _ = demangle(&format!("_Z1f{}", unit.repeat(60_000 / unit.len())));
        }
        for unit in ["R", "S", "T", "F", "NvC", "I"] {
            let _ = demangle(&format!("_RNvC1a{}", unit.repeat(60_000 / unit.len())));
            let _ = demangle(&format!("_R{}", unit.repeat(60_000 / unit.len())));
        }
    }
}
