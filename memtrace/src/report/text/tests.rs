use std::io;

use super::{TextOptions, write_text};
use crate::{
    profile::Profile,
    report::{
        Filter, Metric,
        testing::{Builder, lossy, server},
    },
};

fn report(profile: &Profile, options: &TextOptions) -> String {
    let mut out = Vec::new();
    write_text(profile, options, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn whole_report() {
    insta::assert_snapshot!(report(&server(), &TextOptions::default()));
}

#[test]
fn report_with_every_loss_of_an_incomplete_recording() {
    let options = TextOptions { limit: 1, stacks: 0, ..TextOptions::default() };
    insta::assert_snapshot!(report(&lossy(), &options));
}

#[test]
fn one_ranking_filtered_and_limited() {
    let options = TextOptions {
        only: Some(Metric::Allocated),
        limit: 2,
        stacks: 1,
        filter: Some(Filter::new("main.c")),
        min_bytes: 1024,
        ..TextOptions::default()
    };
    insta::assert_snapshot!(report(&server(), &options));
}

#[test]
fn empty_profile() {
    insta::assert_snapshot!(report(&Profile::default(), &TextOptions::default()));
}

#[test]
fn lists_say_what_they_leave_out() {
    let options = TextOptions { limit: 1, stacks: 1, ..TextOptions::default() };
    let text = report(&server(), &options);
    assert!(text.contains("and 4.88KiB from 1 more stack"), "{text}");
    assert!(text.contains("and 4 more call sites"), "{text}");
}

#[test]
fn hostile_names_are_printed_on_one_line_without_control_characters() {
    let name = format!("<script>;\"\n\x1b]0;title\x07\u{202e}{}", "pair<int>, ".repeat(1000));
    let mut b = Builder::new();
    let f = b.location(&format!("/bin/{name}"), 1, &[(&name, &name, 1)]);
    b.stack(&[f], 1, 1);
    let mut profile = b.finish();
    profile.meta.command = vec![name.clone()];
    profile.meta.kernel = name.clone();
    let text = report(&profile, &TextOptions::default());
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
    assert!(!text.contains('\u{202e}'));
    assert!(text.contains("<script>;\"\\n\\x1b]0;title\\x07\\u{202e}pair<int>"), "{text}");
    assert!(text.lines().filter(|line| line.contains(" in <script>")).count() >= 2);
}

#[test]
fn colour_adds_codes_and_changes_no_text() {
    let plain = report(&lossy(), &TextOptions::default());
    let coloured = report(&lossy(), &TextOptions { colour: true, ..TextOptions::default() });
    assert!(coloured.contains("\x1b["));
    let codes = regex::Regex::new("\x1b\\[[0-9;]*m").unwrap();
    assert_eq!(codes.replace_all(&coloured, ""), plain);
}

#[test]
fn damaged_profiles_are_reported_without_panic() {
    let mut profile = server();
    profile.strings.truncate(3);
    profile.modules.truncate(1);
    profile.locations.truncate(2);
    profile.costs.truncate(2);
    profile.costs[0].freed_bytes = u64::MAX;
    profile.costs[1].alloc_bytes = u64::MAX;
    profile.stacks[0].end = 77;
    profile.meta.started_unix_ms = u64::MAX;
    let text = report(&profile, &TextOptions::default());
    assert!(text.contains("[truncated: unknown reason]"), "{text}");
    assert!(text.contains("[invalid]"), "{text}");
}

#[test]
fn a_writer_that_fails_is_an_error() {
    struct Full;
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let error = write_text(&server(), &TextOptions::default(), &mut Full).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}
