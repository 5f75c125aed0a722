//! Measures report and export on 500,000 stacks of 2 million frames.
//!
//! ```text
//! cargo test --release -p memtrace --lib large -- --ignored --nocapture
//! ```

use std::{
    fs,
    io::{self, Write},
    time::Duration,
};

use super::{JsonOptions, Metric, TextOptions, testing::Builder, write_json, write_text};
use crate::{
    export::{FoldedStacks, write_folded, write_svg},
    profile::Profile,
};

const STACKS: u64 = 500_000;

fn profile() -> Profile {
    let mut b = Builder::new();
    // 200,000 locations in 50,000 functions, every third with an inlined one.
    let locations: Vec<_> = (0..200_000u64)
        .map(|n| {
            let function = format!("app::module_{}::Type<T>::function_{}", n % 100, n / 4);
            let inlined = format!("core::inlined_{}", n % 5000);
            let outer = (function.as_str(), "src/some/file.rs", (n % 900) as u32 + 1);
            let inner = (inlined.as_str(), "src/other/file.rs", 7);
            let lines: &[_] = if n % 3 == 0 { &[inner, outer] } else { &[outer] };
            b.location("/usr/bin/app", n * 16, lines)
        })
        .collect();
    let mut state = 1u64;
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for n in 0..STACKS {
        let mut pick = |below| locations[random(below) as usize];
        let frames = [pick(200_000), pick(20_000), pick(100), locations[0]];
        b.stack(&frames, n % 7 + 1, n % 4096 + 1).temporary_calls = n % 3;
    }
    b.finish()
}

/// Counts bytes and forgets them.
#[derive(Default)]
struct Sink(u64);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What this thread has used so far: on a busy machine the clock on the wall measures the others.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

fn measure(name: &str, work: impl FnOnce(&mut Sink)) {
    let mut sink = Sink::default();
    let begin = cpu_time();
    work(&mut sink);
    let took = cpu_time() - begin;
    println!("{name}: {} ms CPU, {} bytes", took.as_millis(), sink.0);
    assert!(sink.0 != 0);
    assert!(took < Duration::from_secs(5), "{name} took {took:?}");
}

#[test]
#[ignore = "a measurement, for a release build"]
fn large_profiles_take_less_than_five_seconds() {
    let profile = profile();
    let leaked = Metric::Leaked;
    measure("text", |out| write_text(&profile, &TextOptions::default(), out).unwrap());
    measure("json", |out| write_json(&profile, &JsonOptions::default(), out).unwrap());
    measure("folded", |out| {
        write_folded(&FoldedStacks::new(&profile, leaked), out).unwrap();
    });
    measure("svg", |out| {
        write_svg(&profile, leaked, &FoldedStacks::new(&profile, leaked), out).unwrap();
    });
}
