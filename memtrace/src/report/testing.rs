//! Profiles built by hand.

use std::collections::HashMap;

use crate::profile::{
    Cost, Line, Location, LocationId, Losses, Meta, Module, Process, Profile, Stack, Thread,
    TimePoint,
};

/// Makes profiles whose totals are the sums of their stacks.
#[derive(Default)]
pub(crate) struct Builder {
    profile: Profile,
    strings: HashMap<String, u32>,
    modules: HashMap<u32, u32>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let mut builder = Self::default();
        builder.string("");
        builder.profile.complete = true;
        builder.profile.meta = Meta {
            memtrace_version: "0.1.0".into(),
            command: vec!["./server".into(), "--name".into(), "a b".into()],
            kernel: "6.18.0".into(),
            hostname: "box".into(),
            started_unix_ms: 1_790_000_000_123,
            page_size: 4096,
            memory_bytes: 8 << 30,
            unwinder: "eh_frame".into(),
            probes: 26,
            ..Meta::default()
        };
        builder.profile.processes = vec![Process { pid: 123, ..Process::default() }];
        builder
    }

    pub(crate) fn string(&mut self, text: &str) -> u32 {
        if let Some(id) = self.strings.get(text) {
            return *id;
        }
        let id = self.profile.strings.len() as u32;
        self.profile.strings.push(text.to_owned());
        self.strings.insert(text.to_owned(), id);
        id
    }

    pub(crate) fn module(&mut self, path: &str) -> u32 {
        let path = self.string(path);
        let build_id = self.string("");
        let modules = &mut self.profile.modules;
        *self.modules.entry(path).or_insert_with(|| {
            modules.push(Module { path, build_id });
            modules.len() as u32 - 1
        })
    }

    /// An empty module, file, or a line 0 means "not known".
    pub(crate) fn location(
        &mut self,
        module: &str,
        address: u64,
        lines: &[(&str, &str, u32)],
    ) -> LocationId {
        let module = (!module.is_empty()).then(|| self.module(module));
        let lines = lines
            .iter()
            .map(|(function, file, line)| Line {
                function: self.string(function),
                file: (!file.is_empty()).then(|| self.string(file)),
                line: (*line != 0).then_some(*line),
            })
            .collect();
        self.profile.locations.push(Location { module, address, lines });
        self.profile.locations.len() as u32 - 1
    }

    /// A stack, innermost location first, with `calls` allocations of `bytes` in all, none freed.
    pub(crate) fn stack(&mut self, locations: &[LocationId], calls: u64, bytes: u64) -> &mut Cost {
        self.profile.stacks.push(Stack { locations: locations.to_vec(), end: 0, pid: 123 });
        self.profile.costs.push(Cost {
            alloc_calls: calls,
            alloc_bytes: bytes,
            peak_bytes: bytes,
            peak_blocks: calls,
            ..Cost::default()
        });
        self.profile.costs.last_mut().expect("just pushed")
    }

    pub(crate) fn last_stack(&mut self) -> &mut Stack {
        self.profile.stacks.last_mut().expect("a stack was added")
    }

    pub(crate) fn finish(mut self) -> Profile {
        let totals = &mut self.profile.totals;
        for cost in &self.profile.costs {
            totals.alloc_calls += cost.alloc_calls;
            totals.alloc_bytes += cost.alloc_bytes;
            totals.free_calls += cost.free_calls;
            totals.freed_bytes += cost.freed_bytes;
            totals.temporary_calls += cost.temporary_calls;
            totals.failed_calls += cost.failed_calls;
            totals.peak_bytes += cost.peak_bytes;
            totals.leaked_bytes += cost.live_bytes();
            totals.leaked_blocks += cost.live_blocks();
        }
        totals.peak_ms = 3_200;
        totals.duration_ms = 10_020;
        totals.peak_rss_bytes = 12 << 20;
        self.profile
    }
}

/// A small server with every kind of stack: inlined, without symbols, truncated, lost, forked twice,
/// through C++ and Rust wrappers.
pub(crate) fn server() -> Profile {
    let mut b = Builder::new();
    let main = b.location("/usr/bin/server", 0x1100, &[("main", "src/main.c", 10)]);
    let read = b.location(
        "/usr/bin/server",
        0x1200,
        &[("buffer_new", "src/buffer.h", 7), ("read_body", "src/http.c", 80)],
    );
    let handle = b.location("/usr/bin/server", 0x1300, &[("handle", "src/http.c", 120)]);
    let stripped = b.location("/usr/lib/libz.so.1", 0x4242, &[]);
    let symbol_only = b.location("/usr/lib/libz.so.1", 0x5000, &[("inflate", "", 0)]);
    let jit = b.location("", 0x7f00_0000_1234, &[]);
    let new =
        b.location("/usr/lib/libstdc++.so.6", 0xa0, &[("operator new(unsigned long)", "", 0)]);
    let allocate = b.location(
        "/usr/bin/server",
        0x1400,
        &[
            (
                "std::__new_allocator<int>::allocate(unsigned long, void const*)",
                "new_allocator.h",
                151,
            ),
            ("std::vector<int, std::allocator<int> >::reserve(unsigned long)", "vector.tcc", 79),
            ("Index::load()", "src/index.cc", 33),
        ],
    );
    *b.stack(&[read, handle, main], 1000, 1 << 20) = Cost {
        alloc_calls: 1000,
        alloc_bytes: 1 << 20,
        free_calls: 400,
        freed_bytes: 400 << 10,
        temporary_calls: 100,
        temporary_bytes: 100 << 10,
        failed_calls: 2,
        peak_bytes: 800 << 10,
        peak_blocks: 780,
    };
    b.stack(&[read, main], 3, 3000);
    // The same in a forked worker: one stack to the reader of the text.
    b.stack(&[read, main], 2, 2000);
    b.last_stack().pid = 124;
    b.stack(&[new, allocate, main], 1, 400_000);
    b.stack(&[stripped, symbol_only, main], 50, 5_000).free_calls = 50;
    b.profile.costs.last_mut().expect("just added").freed_bytes = 5_000;
    b.stack(&[jit], 1, 64);
    b.last_stack().end = 2;
    b.stack(&[], 1, 16);
    b.profile.timeline = vec![
        TimePoint { ms: 0, live_bytes: 0, live_blocks: 0, alloc_calls: 0, rss_bytes: 4 << 20 },
        TimePoint {
            ms: 3_200,
            live_bytes: 1_234_000,
            live_blocks: 800,
            alloc_calls: 900,
            rss_bytes: 12 << 20,
        },
    ];
    b.profile.processes = vec![
        Process {
            pid: 123,
            command: b.profile.meta.command.clone(),
            live_blocks: 606,
            ..Process::default()
        },
        Process { pid: 124, parent: Some(123), exited: true, ..Process::default() },
    ];
    b.profile.threads = vec![Thread {
        pid: 123,
        tid: 123,
        name: "server".into(),
        alloc_calls: 1058,
        alloc_bytes: 9,
    }];
    b.profile.sizes.calls = vec![0, 0, 0, 0, 0, 1, 0, 1058];
    b.finish()
}

/// `server` with a loss of every cause.
pub(crate) fn lossy() -> Profile {
    let mut profile = server();
    profile.complete = false;
    profile.meta.attached = true;
    profile.totals.unknown_frees = 12;
    profile.losses = Losses {
        lost_allocs: 1,
        lost_frees: 2,
        lost_reallocs: 3,
        lost_stacks: 4,
        lost_life: 5,
        thread_table_full: 6,
        abandoned_calls: 7,
        stack_collisions: 8,
        unreadable_results: 9,
        unknown_points: 10,
        undecodable: 11,
        unknown_stacks: 12,
        unwritten_bytes: 13,
    };
    profile
}
