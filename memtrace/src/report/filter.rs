//! Which stacks to look at.

use regex::Regex;

use crate::profile::{Profile, StringId};

/// A text to look for in the names of functions, modules and source files.
///
/// A name is taken if it contains the text as it is, or if the text is a regular expression that
/// matches it: C++ names are full of characters that a regular expression would not take literally,
/// and nobody should have to escape them.
#[derive(Clone, Debug)]
pub struct Filter {
    text: String,
    regex: Option<Regex>,
}

impl Filter {
    /// Every text is a filter; one that is no regular expression is only searched for.
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), regex: Regex::new(text).ok() }
    }

    /// The text that the filter was made of.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn matches(&self, name: &str) -> bool {
        name.contains(&self.text) || self.regex.as_ref().is_some_and(|regex| regex.is_match(name))
    }

    /// For each stack of the profile, whether any of its frames matches. Looks at every name once.
    pub fn select(&self, profile: &Profile) -> Vec<bool> {
        let strings: Vec<bool> = profile.strings.iter().map(|name| self.matches(name)).collect();
        let string = |id: StringId| strings.get(id as usize).copied().unwrap_or(false);
        let module = |id: u32| profile.modules.get(id as usize).is_some_and(|m| string(m.path));
        let locations: Vec<bool> = profile
            .locations
            .iter()
            .map(|location| {
                location.module.is_some_and(module)
                    || location
                        .lines
                        .iter()
                        .any(|line| string(line.function) || line.file.is_some_and(string))
            })
            .collect();
        let known = |id: &u32| locations.get(*id as usize).copied().unwrap_or(false);
        profile.stacks.iter().map(|stack| stack.locations.iter().any(known)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Filter;
    use crate::report::testing::Builder;

    #[test]
    fn function_module_and_file_of_any_frame_count() {
        let mut builder = Builder::new();
        let a = builder.location("/lib/libssl.so.3", 1, &[("ssl_read", "", 0)]);
        let b = builder.location("/bin/app", 2, &[("std::vector<int>::grow(int)", "src/v.h", 3)]);
        let main = builder.location("/bin/app", 3, &[("main", "src/main.c", 4)]);
        builder.stack(&[a, main], 1, 1);
        builder.stack(&[b, main], 1, 1);
        builder.stack(&[main], 1, 1);
        let profile = builder.finish();
        let select = |text: &str| Filter::new(text).select(&profile);
        assert_eq!(select("libssl"), [true, false, false]);
        assert_eq!(select("^ssl_"), [true, false, false]);
        assert_eq!(select("v\\.h$"), [false, true, false]);
        assert_eq!(select("main"), [true, true, true]);
        assert_eq!(select("grow(int)"), [false, true, false], "taken literally");
        assert_eq!(select("vector<int>::grow("), [false, true, false], "no regular expression");
        assert_eq!(select("nothing"), [false, false, false]);
    }
}
