//! An interactive flame graph.

use std::io::{self, Write};

use inferno::flamegraph::{
    Options, Palette, TextTruncateDirection,
    color::{BackgroundColor, BasicPalette, Color},
    from_lines,
};
use thiserror::Error;

use super::folded::{FoldedStacks, fold_line};
use crate::{
    profile::Profile,
    report::{Metric, escape::shell_words, units::exact_bytes},
};

/// Why no flame graph was made.
#[derive(Debug, Error)]
pub enum SvgError {
    /// The amounts add up to more than a flame graph can hold, which only a damaged recording does.
    #[error("the amounts of the stacks add up to more than 2^53: the recording is damaged")]
    TooLarge,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Sums are drawn with floating point; up to here it is exact.
const MAX_TOTAL: u128 = 1 << 53;

/// Writes the flame graph of the stacks, which were folded by `metric` from `profile`. If there is
/// nothing to draw the SVG says so.
pub fn write_svg(
    profile: &Profile,
    metric: Metric,
    stacks: &FoldedStacks,
    out: &mut impl Write,
) -> Result<(), SvgError> {
    let total = stacks.total();
    if total > MAX_TOTAL {
        return Err(SvgError::TooLarge);
    }
    let title = title(profile, metric);
    if stacks.is_empty() {
        let line = format!("no data: nothing was {}", past(metric));
        return Ok(write_note(&title, &line, out)?);
    }
    let amount = match metric.unit() {
        "bytes" => exact_bytes(u64::try_from(total).unwrap_or(u64::MAX)),
        unit => format!("{total} {unit}"),
    };
    let subtitle = match metric {
        Metric::Leaked => format!("{amount} not freed by the end of the recording"),
        Metric::Peak => format!("{amount} live when the heap was largest"),
        Metric::Allocated => format!("{amount} allocated, freed or not"),
        Metric::Calls => format!("{amount} that allocated"),
        Metric::Temporary => format!("{amount} whose block was freed right away"),
    };

    let mut options = Options::default();
    options.colors = Palette::Basic(BasicPalette::Hot);
    options.bgcolors = Some(BackgroundColor::Flat(Color { r: 255, g: 250, b: 245 }));
    // The same picture for the same recording, and the same colour for a function in all of them.
    options.deterministic = true;
    options.title = xml_text(&title);
    options.subtitle = Some(xml_text(&subtitle));
    options.count_name = metric.unit().to_owned();
    options.name_type = "Function:".to_owned();
    // The end of a C++ or Rust name says more than its namespaces.
    options.text_truncate_direction = TextTruncateDirection::Right;
    // Lines in the order of whole names, so that equal prefixes are neighbours. inferno would sort
    // the lines as text, where `f(int);x` comes between `f` and `f;y` and tears `f` in two; this
    // mode takes them as they are, backwards.
    options.flame_chart = true;

    let mut text = String::new();
    let mut line = String::new();
    for (names, amount) in stacks.iter().rev() {
        fold_line(&mut line, names, amount);
        text.push_str(&line);
        text.push('\n');
    }
    Ok(from_lines(&mut options, text.lines(), out)?)
}

/// The head line: what was recorded and what is drawn.
fn title(profile: &Profile, metric: Metric) -> String {
    let command = shell_words(&profile.meta.command);
    let what = match metric {
        Metric::Leaked => "leaked bytes",
        Metric::Peak => "bytes at the peak",
        Metric::Allocated => "allocated bytes",
        Metric::Calls => "allocation calls",
        Metric::Temporary => "temporary allocations",
    };
    if command.is_empty() { what.to_owned() } else { format!("{}: {what}", middle_cut(&command)) }
}

/// A title has one line of about 100 characters.
fn middle_cut(command: &str) -> String {
    crate::report::escape::short_printable(command, 80).into_owned()
}

fn past(metric: Metric) -> &'static str {
    match metric {
        Metric::Leaked => "leaked",
        Metric::Peak => "live at the peak",
        Metric::Allocated | Metric::Calls => "allocated",
        Metric::Temporary => "allocated for a moment only",
    }
}

/// Text without the two characters that are printable but not allowed in XML.
fn xml_text(text: &str) -> String {
    text.replace(['\u{fffe}', '\u{ffff}'], "?")
}

/// A picture of two lines of text.
fn write_note(title: &str, line: &str, out: &mut impl Write) -> io::Result<()> {
    let escape =
        |text: &str| xml_text(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let (title, line) = (escape(title), escape(line));
    write!(
        out,
        r##"<?xml version="1.0" standalone="no"?>
<svg version="1.1" width="1200" height="90" viewBox="0 0 1200 90" xmlns="http://www.w3.org/2000/svg">
<rect width="100%" height="100%" fill="rgb(255,250,245)"/>
<g font-family="monospace" text-anchor="middle">
<text x="600" y="32" font-size="17">{title}</text>
<text x="600" y="64" font-size="13">{line}</text>
</g>
</svg>
"##
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{SvgError, write_svg};
    use crate::{
        export::FoldedStacks,
        profile::Profile,
        report::{
            Metric,
            testing::{Builder, server},
        },
    };

    fn svg(profile: &Profile, metric: Metric) -> String {
        let mut out = Vec::new();
        write_svg(profile, metric, &FoldedStacks::new(profile, metric), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// The hover texts, with how often each occurs.
    fn titles(svg: &str) -> HashMap<String, usize> {
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        let document = roxmltree::Document::parse_with_options(svg, options).unwrap();
        let mut titles = HashMap::new();
        for node in document.descendants().filter(|node| node.has_tag_name("title")) {
            *titles.entry(node.text().unwrap().to_owned()).or_default() += 1;
        }
        titles
    }

    #[test]
    fn frames_carry_exact_amounts_and_their_unit() {
        let profile = server();
        let titles = titles(&svg(&profile, Metric::Leaked));
        let leaked = profile.totals.leaked_bytes;
        assert_eq!(leaked, 1_044_056);
        assert!(titles.contains_key("all (1,044,056 bytes, 100%)"), "{titles:#?}");
        assert!(titles.contains_key("handle (638,976 bytes, 61.20%)"), "{titles:#?}");
        assert!(titles.contains_key("[unknown stack] (16 bytes, 0.00%)") || leaked > 160_000);
    }

    #[test]
    fn calls_are_called_calls() {
        let titles = titles(&svg(&server(), Metric::Calls));
        assert!(titles.contains_key("all (1,058 calls, 100%)"), "{titles:#?}");
    }

    #[test]
    fn a_function_is_one_box_whatever_its_neighbours_are_called() {
        let mut b = Builder::new();
        let [f, f_int, x, y] =
            ["f", "f(int)", "x", "y"].map(|name| b.location("/a", 0, &[(name, "", 0)]));
        b.stack(&[f], 1, 10);
        b.stack(&[x, f_int], 1, 10);
        b.stack(&[y, f], 1, 10);
        let titles = titles(&svg(&b.finish(), Metric::Leaked));
        assert_eq!(titles.get("f (20 bytes, 66.67%)"), Some(&1), "{titles:#?}");
    }

    #[test]
    fn hostile_names_stay_text() {
        let long = format!("f<{}>", "std::pair<int, char>, ".repeat(500));
        let names = [
            "<script>alert(1)</script>",
            "a\"b'c&d",
            "semi;colon",
            "line\nbreak\x1b[31m\0",
            "ends in 12 34",
            "]]>",
            "\u{ffff}",
            "# x",
            &long,
        ];
        let mut b = Builder::new();
        let frames = names.map(|name| b.location("/bin/x", 1, &[(name, "", 0)]));
        b.stack(&frames, 1, 1000);
        for frame in frames {
            b.stack(&[frame], 1, 1000);
        }
        let mut profile = b.finish();
        profile.meta.command = vec!["<script>alert(2)</script>".into(), "\x1b\u{fffe}&".into()];
        let svg = svg(&profile, Metric::Leaked);
        assert!(!svg.contains("<script>alert"));
        let titles = titles(&svg);
        assert!(titles.contains_key("all (10,000 bytes, 100%)"), "{titles:#?}");
        assert!(titles.keys().any(|title| title.starts_with("<script>alert(1)</script> (")));
        assert!(titles.keys().any(|title| title.starts_with("semi:colon (")));
        assert!(titles.keys().any(|title| title.starts_with("ends in 12_34 (")));
        assert!(titles.keys().any(|title| title.len() > 10_000));
    }

    #[test]
    fn nothing_to_draw_is_a_picture_that_says_so() {
        let mut profile = Profile::default();
        profile.meta.command = vec!["a<b".into()];
        let svg = svg(&profile, Metric::Leaked);
        let document = roxmltree::Document::parse(&svg).unwrap();
        assert!(document.descendants().any(|n| n.text() == Some("no data: nothing was leaked")));
        assert!(document.descendants().any(|n| n.text() == Some("'a<b': leaked bytes")));
    }

    #[test]
    fn impossible_amounts_are_refused() {
        let mut b = Builder::new();
        let f = b.location("/a", 0, &[]);
        b.stack(&[f], 1, u64::MAX);
        let profile = b.finish();
        let stacks = FoldedStacks::new(&profile, Metric::Leaked);
        let error = write_svg(&profile, Metric::Leaked, &stacks, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, SvgError::TooLarge));
    }

    #[test]
    fn the_same_profile_gives_the_same_picture() {
        assert_eq!(svg(&server(), Metric::Peak), svg(&server(), Metric::Peak));
    }
}
