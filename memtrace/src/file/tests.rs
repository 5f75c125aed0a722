//! The recording as a whole: what is written is what is read, wherever the file ends.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use memtrace_common::point::Function;
use memtrace_common::stack::StackEnd;
use proptest::collection::vec;
use proptest::prelude::{
    ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::format::{
    CHUNK_HEADER_BYTES, ChunkHeader, FILE_HEADER_BYTES, FLAG_FINAL, FLAG_FLUSH, MAGIC, VERSION,
};
use super::writer::{Medium, Writer};
use super::{
    Damage, Ending, MEMORY_LIMIT_BYTES, ReadError, Recorder, Recording, WriteError, read,
    read_from, read_recording,
};
use crate::heap::model_tests::events;
use crate::profile::{Line, Losses, MAX_TIME_POINTS, Meta, Profile};
use crate::stream::event::Event;

/// A disk of limited size.
#[derive(Clone)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    room: Arc<Mutex<usize>>,
}

impl Disk {
    fn new(room: usize) -> Self {
        Self { bytes: Arc::default(), room: Arc::new(Mutex::new(room)) }
    }

    fn writer(&self) -> Writer {
        Writer::with_medium(PathBuf::from("disk"), Box::new(self.clone())).expect("room for it")
    }

    fn set_room(&self, room: usize) {
        *self.room.lock().expect("one thread") = room;
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().expect("one thread").clone()
    }
}

impl Medium for Disk {
    fn append(&mut self, new: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes.lock().expect("one thread");
        let room = self.room.lock().expect("one thread").saturating_sub(bytes.len());
        bytes.extend_from_slice(&new[..new.len().min(room)]);
        if room < new.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.bytes.lock().expect("one thread").truncate(len as usize);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn regular_file(&self) -> Option<&fs::File> {
        None
    }
}

/// Something that a session does to its recorder.
#[derive(Clone, Debug)]
enum Step {
    Event(Event<'static>),
    /// The record of a stack, with frames at these addresses.
    Stack(u64, Vec<u64>),
    /// Names for a location.
    Lines(usize, Vec<u8>),
    Command(usize, u8),
    ThreadName(usize, u8),
    Sample(u64),
    Losses(u64),
    Meta(u32),
    Flush,
    /// A flush to a full disk.
    LostFlush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        60 => events().prop_map(Step::Event),
        6 => (0u64..7, vec(0u64..20, 0..5)).prop_map(|(key, frames)| Step::Stack(key, frames)),
        4 => (any::<usize>(), vec(any::<u8>(), 0..3)).prop_map(|(at, names)| Step::Lines(at, names)),
        2 => (any::<usize>(), any::<u8>()).prop_map(|(at, name)| Step::Command(at, name)),
        2 => (any::<usize>(), any::<u8>()).prop_map(|(at, name)| Step::ThreadName(at, name)),
        3 => (0u64..1 << 40).prop_map(Step::Sample),
        1 => any::<u64>().prop_map(Step::Losses),
        1 => any::<u32>().prop_map(Step::Meta),
        10 => proptest::strategy::Just(Step::Flush),
        3 => proptest::strategy::Just(Step::LostFlush),
    ];
    vec(step, 0..200)
}

/// A recording in memory, with the state and the file's length at each flush.
struct Session {
    recorder: Recorder,
    disk: Disk,
    writer: Writer,
    now_ms: u64,
    flushed: Vec<(usize, Profile)>,
}

impl Session {
    fn new() -> Self {
        let disk = Disk::new(usize::MAX);
        let writer = disk.writer();
        let recorder = Recorder::new(Meta { page_size: 4096, ..Meta::default() });
        let mut session = Self { recorder, disk, writer, now_ms: 0, flushed: Vec::new() };
        session.flush();
        session
    }

    fn flush(&mut self) {
        self.recorder.flush(&mut self.writer).expect("the disk has room");
        self.flushed.push((self.disk.bytes().len(), self.recorder.profile()));
    }

    fn finish(&mut self) {
        self.recorder.finish(&mut self.writer).expect("the disk has room");
        let profile = Profile { complete: true, ..self.recorder.profile() };
        self.flushed.push((self.disk.bytes().len(), profile));
    }

    fn step(&mut self, step: &Step) {
        self.now_ms += 7;
        let recorder = &mut self.recorder;
        match step {
            Step::Event(event) => recorder.apply(event, self.now_ms),
            Step::Stack(key, frames) => {
                if recorder.is_unexplained(*key) {
                    let libc = recorder.tables.module("/lib/libc.so.6", "c0ffee");
                    let frames: Vec<_> = frames
                        .iter()
                        .map(|at| recorder.tables.location((at % 2 == 0).then_some(libc), *at))
                        .collect();
                    recorder.explain(*key, 1, StackEnd::DepthLimit, &frames);
                }
            }
            Step::Lines(at, names) => {
                let count = recorder.tables.take_new_locations().end as usize;
                if count > 0 {
                    let lines = names
                        .iter()
                        .map(|name| Line {
                            function: recorder.tables.string(&format!("f{name}")),
                            file: (name % 2 == 0)
                                .then(|| recorder.tables.string(&format!("{name}.c"))),
                            line: (name % 3 == 0).then_some(u32::from(*name)),
                        })
                        .collect();
                    recorder.tables.set_lines((at % count) as u32, lines);
                }
            }
            Step::Command(at, name) => {
                let count = recorder.heap.processes().len();
                if count > 0 {
                    recorder.set_command((at % count) as u32, vec![format!("cmd{name}")]);
                }
            }
            Step::ThreadName(at, name) => {
                let count = recorder.heap.threads().len();
                if count > 0 {
                    recorder.set_thread_name((at % count) as u32, &format!("t{name}"));
                }
            }
            Step::Sample(rss_bytes) => recorder.sample(self.now_ms, *rss_bytes),
            Step::Losses(lost_frees) => {
                recorder.set_losses(Losses { lost_frees: *lost_frees, ..Losses::default() });
            }
            Step::Meta(probes) => {
                recorder.set_meta(Meta { probes: *probes, ..recorder.meta().clone() });
            }
            Step::Flush => self.flush(),
            Step::LostFlush => {
                let before = self.disk.bytes();
                self.disk.set_room(before.len() + 3);
                let error = recorder.flush(&mut self.writer).expect_err("the disk is full");
                assert!(matches!(error, WriteError::Write { unwritten_bytes: 20.., .. }));
                assert_eq!(self.disk.bytes(), before, "half a flush was taken back");
                self.disk.set_room(usize::MAX);
            }
        }
    }
}

fn read_bytes(bytes: &[u8]) -> Result<Recording, ReadError> {
    read_from(bytes, Path::new("memory"), MEMORY_LIMIT_BYTES)
}

/// A short recording with something of everything.
fn sample_session() -> Session {
    let mut session = Session::new();
    let function = Function::Malloc;
    session.step(&Step::Stack(11, vec![2, 4, 5]));
    for n in 1..=20u64 {
        let (pid, tid, stack) = (1, n as u32 % 3 + 1, 10 + n % 3);
        let alloc = Event::Alloc { pid, tid, address: n * 64, size: n * n, stack, function };
        session.step(&Step::Event(alloc));
        if n % 3 == 0 {
            session.step(&Step::Event(Event::Free { pid, tid, address: n * 32 / 64 * 64 }));
        }
        if n % 5 == 0 {
            session.step(&Step::Sample(n << 20));
            session.step(&Step::Flush);
        }
    }
    session.step(&Step::Event(Event::AllocFailed { pid: 1, tid: 1, size: 9, stack: 12, function }));
    session.step(&Step::Event(Event::Fork { pid: 1, child: 2 }));
    session.step(&Step::Event(Event::Free { pid: 2, tid: 2, address: 64 }));
    session.step(&Step::Lines(0, vec![6, 7]));
    session.step(&Step::Command(0, 1));
    session.step(&Step::ThreadName(1, 2));
    session.step(&Step::Losses(3));
    session.step(&Step::Flush);
    session.finish();
    session
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_file_cut_anywhere_reads_as_the_last_flush_before_the_cut(
        steps in steps(),
        cuts in vec(any::<usize>(), 40),
    ) {
        let mut session = Session::new();
        for step in &steps {
            session.step(step);
        }
        session.finish();
        let bytes = session.disk.bytes();
        let borders = session.flushed.iter().flat_map(|(len, _)| [*len, *len - 1]);
        for cut in borders.chain(cuts.into_iter().map(|cut| cut % bytes.len())) {
            let expected = session.flushed.iter().rfind(|(len, _)| *len <= cut);
            match (read_bytes(&bytes[..cut]), expected) {
                (Ok(recording), Some((_, profile))) => {
                    prop_assert_eq!(&recording.profile, profile);
                    prop_assert_eq!(profile.check(), Ok(()));
                    let whole = recording.ending == Ending::Complete;
                    prop_assert_eq!(whole, cut == bytes.len());
                }
                (Err(ReadError::NoData { .. } | ReadError::Empty { .. }), None) => {}
                (got, _) => prop_assert!(false, "cut at {cut}: {got:?}"),
            }
        }
    }

    #[test]
    fn the_whole_state_in_one_delta_reads_as_the_sum_of_all_deltas(steps in steps()) {
        let mut session = Session::new();
        for step in &steps {
            session.step(step);
        }
        session.disk = Disk::new(usize::MAX);
        session.writer = session.disk.writer();
        let everything = session.recorder.take_everything();
        session.writer.append(&everything).expect("the disk has room");
        session.recorder.confirm();
        let got = read_bytes(&session.disk.bytes()).expect("one flush").profile;
        prop_assert_eq!(got, session.recorder.profile());
        // What comes after fits on top of it.
        for step in &steps {
            session.step(step);
        }
        session.finish();
        let got = read_bytes(&session.disk.bytes()).expect("whole").profile;
        prop_assert_eq!(&got, &session.flushed.last().expect("flushed").1);
    }

    #[test]
    fn a_flipped_bit_is_found_and_what_is_before_it_is_kept(at in any::<usize>(), bit in 0u8..8) {
        let session = sample_session();
        let mut bytes = session.disk.bytes();
        let at = at % bytes.len();
        bytes[at] ^= 1u8 << bit;
        match read_bytes(&bytes) {
            Ok(recording) => {
                let (_, expected) =
                    session.flushed.iter().rfind(|(len, _)| *len <= at).expect("a flush before");
                prop_assert_eq!(&recording.profile, expected);
                prop_assert!(!recording.profile.complete);
            }
            Err(ReadError::NotARecording { .. } | ReadError::NewerVersion { .. }) => {
                prop_assert!(at < FILE_HEADER_BYTES);
            }
            Err(ReadError::NoData { .. }) => {
                prop_assert!((FILE_HEADER_BYTES..session.flushed[0].0).contains(&at));
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn random_bytes_give_an_error(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert!(read_bytes(&bytes).is_err());
        let mut behind_header = header(VERSION);
        behind_header.extend(bytes);
        prop_assert!(read_bytes(&behind_header).is_err());
    }

    #[test]
    fn records_made_up_by_an_attacker_never_give_a_profile_that_is_not_whole(
        chunks in vec(vec(prop_oneof![3 => 0u8..18, 1 => any::<u8>()], 1..60), 1..6),
        limit in 0u64..20_000,
    ) {
        let bytes = file_of(&chunks);
        for limit in [limit, MEMORY_LIMIT_BYTES] {
            match read_from(&bytes[..], Path::new("memory"), limit) {
                Ok(recording) => prop_assert_eq!(recording.profile.check(), Ok(())),
                Err(ReadError::NoData { .. } | ReadError::TooLarge { .. }) => {}
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }
}

fn header(version: u32) -> Vec<u8> {
    [&MAGIC[..], &version.to_le_bytes()].concat()
}

/// A file with these chunks, each a flush, checksums and all.
fn file_of(chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = header(VERSION);
    for (sequence, raw) in (0..).zip(chunks) {
        bytes.extend(chunk(raw, raw.len() as u32, sequence, FLAG_FLUSH));
    }
    bytes
}

fn chunk(raw: &[u8], raw_bytes: u32, sequence: u32, flags: u32) -> Vec<u8> {
    let payload = zstd::bulk::compress(raw, 1).expect("compressed");
    let payload_bytes = payload.len() as u32;
    let header = ChunkHeader { payload_bytes, raw_bytes, sequence, flags };
    [&header.encode(&payload)[..], &payload].concat()
}

#[test]
fn files_that_are_no_recordings_are_told_apart() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file");
    let with = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("written");
        read(&path).expect_err("not a recording")
    };
    assert!(matches!(with(b""), ReadError::Empty { .. }));
    assert!(matches!(with(b"heaptrack"), ReadError::NotARecording { .. }));
    assert!(matches!(with(b"M"), ReadError::NoData { reason: Damage::Truncated, .. }));
    assert!(matches!(with(&header(VERSION)[..11]), ReadError::NoData { .. }));
    assert!(matches!(with(&header(VERSION)), ReadError::NoData { offset: 12, .. }));
    assert!(matches!(with(&header(0)), ReadError::NotARecording { .. }));
    let error = with(&header(VERSION + 1));
    assert!(matches!(error, ReadError::NewerVersion { found: 2, supported: 1, .. }));
    assert!(error.to_string().contains("use a newer memtrace"), "{error}");
    assert!(matches!(read(dir.path()), Err(ReadError::Io { .. })));
    let missing = read(&dir.path().join("missing")).expect_err("missing");
    assert!(missing.to_string().contains("missing: No such file"), "{missing}");
}

#[test]
fn damage_is_named_with_its_place() {
    let session = sample_session();
    let bytes = session.disk.bytes();
    let border = session.flushed[2].0;
    let ending = |bytes: &[u8]| match read_bytes(bytes).expect("some flushes").ending {
        Ending::Damaged { damage, offset } => {
            assert_eq!(offset, border as u64);
            damage
        }
        Ending::Complete => panic!("it is damaged"),
    };
    assert_eq!(ending(&bytes[..border]), Damage::Truncated);
    assert_eq!(ending(&bytes[..border + 30]), Damage::Truncated);
    // A power cut can leave a file whose end was never written.
    let zeros = [&bytes[..border], &[0; 5000][..]].concat();
    assert_eq!(ending(&zeros), Damage::Header);
    let mut flipped = bytes.clone();
    flipped[border + 25] ^= 1;
    assert_eq!(ending(&flipped), Damage::Checksum);
    // A chunk that is there twice, e.g. after a repair that went wrong.
    let twice = [&bytes[..border], &bytes[session.flushed[1].0..]].concat();
    assert_eq!(ending(&twice), Damage::Header);
    // A chunk whose checksum is right and whose content is not: string 9 does not exist.
    let wrong = chunk(&[2, 200, 1, 9], 4, 3, FLAG_FLUSH);
    assert_eq!(ending(&[&bytes[..border], &wrong].concat()), Damage::Content);
    // One that states more than it holds.
    let wrong = chunk(&[6], 2, 3, FLAG_FLUSH);
    assert_eq!(ending(&[&bytes[..border], &wrong].concat()), Damage::Content);
}

#[test]
fn a_chunk_that_claims_to_be_huge_is_not_believed() {
    let session = sample_session();
    let border = session.flushed[1].0;
    for (payload_bytes, raw_bytes) in [(u32::MAX, 1), (1, u32::MAX), (u32::MAX, u32::MAX)] {
        let claim = ChunkHeader { payload_bytes, raw_bytes, sequence: 2, flags: FLAG_FLUSH };
        let bytes = [&session.disk.bytes()[..border], &claim.encode(&[])].concat();
        let recording = read_bytes(&bytes).expect("two flushes");
        assert_eq!(recording.profile, session.flushed[1].1);
    }
    // 4 MiB of zeros in a few hundred bytes, stated as less than it is.
    let bomb = chunk(&vec![0; 4 << 20], 100, 2, FLAG_FLUSH);
    let recording = read_bytes(&[&session.disk.bytes()[..border], &bomb].concat());
    assert_eq!(recording.expect("two flushes").profile, session.flushed[1].1);
}

#[test]
fn a_bomb_of_well_formed_chunks_stops_at_the_memory_limit() {
    // Empty strings: two bytes each, packed to nearly nothing.
    let strings = [1, 0].repeat(1 << 20);
    for flags in [FLAG_FLUSH, 0] {
        let mut bytes = header(VERSION);
        for sequence in 0..64 {
            bytes.extend(chunk(&strings, strings.len() as u32, sequence, flags));
        }
        assert!(bytes.len() < 64 * 1024);
        let limit_bytes = 32 << 20;
        let error = read_from(&bytes[..], Path::new("memory"), limit_bytes).expect_err("a bomb");
        assert!(matches!(error, ReadError::TooLarge { limit_bytes: 33_554_432, .. }));
    }
}

#[test]
fn what_follows_the_closing_chunk_is_not_read() {
    let session = sample_session();
    let bytes = [&session.disk.bytes()[..], b"tail"].concat();
    let recording = read_bytes(&bytes).expect("whole");
    assert_eq!(recording.ending, Ending::Complete);
    assert!(recording.profile.complete);
}

#[test]
fn a_flush_of_many_chunks_counts_only_when_it_is_whole() {
    let mut session = Session::new();
    for n in 0..40 {
        session.recorder.tables.string(&format!("{n}{}", "x".repeat(60_000)));
    }
    session.flush();
    let bytes = session.disk.bytes();
    let (before, _) = session.flushed[0];
    let second = before
        + CHUNK_HEADER_BYTES
        + u32::from_le_bytes(bytes[before..before + 4].try_into().expect("four")) as usize;
    assert!(second < bytes.len(), "more than one chunk");
    assert_eq!(read_bytes(&bytes[..second]).expect("a flush").profile, session.flushed[0].1);
    assert_eq!(read_bytes(&bytes).expect("two flushes").profile, session.flushed[1].1);
    assert_eq!(FLAG_FLUSH & FLAG_FINAL, 0);
}

#[test]
fn a_full_disk_loses_nothing_once_there_is_room_again() {
    let mut session = sample_session_until_full();
    session.flush();
    let expected = session.recorder.profile();
    assert_eq!(read_bytes(&session.disk.bytes()).expect("flushes").profile, expected);
}

fn sample_session_until_full() -> Session {
    let mut session = Session::new();
    let function = Function::Malloc;
    for n in 1..200u64 {
        let alloc =
            Event::Alloc { pid: 1, tid: 1, address: n, size: n % 17, stack: n % 50, function };
        session.step(&Step::Event(alloc));
        session.step(&Step::Stack(n % 50, vec![n]));
        session.step(&Step::Sample(n));
        session.step(if n % 10 < 7 { &Step::LostFlush } else { &Step::Flush });
    }
    session.step(&Step::LostFlush);
    session
}

#[test]
fn a_path_that_cannot_be_written_fails_at_once_and_says_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let in_no_dir = dir.path().join("no/such/file");
    for (path, why) in [
        (dir.path(), "Is a directory"),
        (&in_no_dir, "No such file or directory"),
        (Path::new("/dev/full"), "No space left on device"),
    ] {
        let error = Writer::create(path).map(drop).expect_err("not writable").to_string();
        assert!(error.starts_with("cannot create") && error.contains(why), "{error}");
    }
}

#[test]
fn a_device_can_be_written_to_and_is_never_replaced() {
    let mut recorder = Recorder::new(Meta::default());
    let mut writer = Writer::create(Path::new("/dev/null")).expect("writable");
    writer.compact_above(0);
    recorder.flush(&mut writer).expect("flushed");
    assert!(!writer.wants_compaction());
    recorder.finish(&mut writer).expect("finished");
}

#[test]
fn an_older_file_at_the_path_is_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("r.mtrc");
    fs::write(&path, vec![b'x'; 100_000]).expect("written");
    let mut recorder = Recorder::new(Meta::default());
    let mut writer = Writer::create(&path).expect("writable");
    recorder.finish(&mut writer).expect("finished");
    assert_eq!(fs::metadata(&path).expect("there").len(), writer.written_bytes());
    assert!(read(&path).expect("whole").complete);
}

/// Runs a recording to a file that wants to be compacted at every flush from the third on.
fn compacting(path: &Path, mut between: impl FnMut(u64)) -> (Recorder, Writer, Vec<bool>) {
    let mut recorder = Recorder::new(Meta::default());
    let mut writer = Writer::create(path).expect("writable");
    let mut compacted = Vec::new();
    for n in 1..=300u64 {
        let function = Function::Malloc;
        let (address, size, stack) = (n, 1000 - n, n % 7);
        let alloc = Event::Alloc { pid: 1, tid: 1, address, size, stack, function };
        recorder.apply(&alloc, n);
        recorder.apply(&Event::Free { pid: 1, tid: 1, address: n / 2 }, n);
        if n % 100 == 0 {
            writer.compact_above(1);
        }
        between(n);
        let flushed = recorder.flush(&mut writer).expect("flushed");
        if n % 100 == 0 {
            compacted.push(flushed.compacted);
        } else {
            assert!(!flushed.compacted);
        }
        if n % 50 == 0 {
            let got = read(writer.path()).unwrap_or_default();
            assert!(got == recorder.profile() || got == Profile::default());
        }
    }
    (recorder, writer, compacted)
}

#[test]
fn a_compacted_file_is_smaller_and_says_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let (real, link) = (dir.path().join("real.mtrc"), dir.path().join("link.mtrc"));
    std::os::unix::fs::symlink(&real, &link).expect("linked");
    let mut largest = 0;
    let (mut recorder, mut writer, compacted) = compacting(&link, |_| {
        largest = largest.max(fs::metadata(&real).expect("there").len());
    });
    assert_eq!(compacted, [true; 3]);
    assert_eq!(read(&real).expect("readable"), recorder.profile());
    assert!(writer.written_bytes() < largest / 5, "{} of {largest}", writer.written_bytes());
    recorder.finish(&mut writer).expect("finished");
    let recording = read_recording(&link).expect("readable");
    assert_eq!(recording.profile, Profile { complete: true, ..recorder.profile() });
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 2, "nothing is left beside it");
}

#[test]
fn a_file_that_was_moved_away_is_not_replaced_and_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, moved) = (dir.path().join("a.mtrc"), dir.path().join("b.mtrc"));
    let (mut recorder, mut writer, compacted) = compacting(&path, |n| {
        if n == 150 {
            fs::rename(&path, &moved).expect("moved");
            fs::write(&path, "someone else's").expect("written");
        }
    });
    assert_eq!(compacted, [true, false, false]);
    recorder.finish(&mut writer).expect("finished");
    assert_eq!(fs::read(&path).expect("there"), b"someone else's");
    let expected = Profile { complete: true, ..recorder.profile() };
    assert_eq!(read(&moved).expect("readable"), expected);
}

#[test]
fn a_time_line_that_is_halved_between_flushes_is_read_as_it_is() {
    let mut session = Session::new();
    for n in 0..3 * MAX_TIME_POINTS as u64 {
        session.recorder.sample(n * 1000, n % 77);
        if n % 500 == 0 {
            session.flush();
        }
    }
    session.finish();
    let (_, expected) = session.flushed.last().expect("flushed");
    let profile = read_bytes(&session.disk.bytes()).expect("whole").profile;
    assert_eq!(profile.timeline, expected.timeline);
    assert!(profile.timeline.len() <= MAX_TIME_POINTS);
}

#[test]
fn a_flush_that_changes_nothing_is_small() {
    let mut session = sample_session();
    for stack in 0..5000u64 {
        let function = Function::Malloc;
        let alloc =
            Event::Alloc { pid: 1, tid: 1, address: 1 << 20 | stack, size: 9, stack, function };
        session.step(&Step::Event(alloc));
    }
    session.flush();
    let before = session.writer.written_bytes();
    session.step(&Step::Sample(5));
    session.flush();
    assert!(session.writer.written_bytes() - before < 200);
}

#[test]
fn allocations_of_stacks_without_a_record_are_counted_until_it_comes() {
    let mut session = Session::new();
    let function = Function::Malloc;
    for (address, stack) in [(1, 5), (2, 5), (3, 6), (4, 0)] {
        let alloc = Event::Alloc { pid: 1, tid: 1, address, size: 1, stack, function };
        session.step(&Step::Event(alloc));
    }
    assert_eq!(session.recorder.losses().unknown_stacks, 3);
    session.flush();
    session.step(&Step::Stack(5, vec![1]));
    assert_eq!(session.recorder.losses().unknown_stacks, 1);
    session.flush();
    let profile = read_bytes(&session.disk.bytes()).expect("flushes").profile;
    assert_eq!(profile.losses.unknown_stacks, 1);
    assert_eq!(profile.stacks[0].locations.len(), 1);
    assert!(session.recorder.is_unexplained(6));
    assert!(!session.recorder.is_unexplained(5));
}

#[test]
fn equal_frames_under_two_keys_are_one_stack() {
    let mut session = Session::new();
    let function = Function::Malloc;
    for (address, stack) in [(1, 5), (2, 6), (3, 7)] {
        // The third has other frames.
        session.step(&Step::Stack(stack, vec![1, if stack == 7 { 3 } else { 2 }]));
        let alloc = Event::Alloc { pid: 1, tid: 1, address, size: 10, stack, function };
        session.step(&Step::Event(alloc));
    }
    session.flush();
    let profile = read_bytes(&session.disk.bytes()).expect("flushes").profile;
    let calls: Vec<u64> = profile.costs.iter().map(|cost| cost.alloc_calls).collect();
    assert_eq!(calls, [2, 1]);
    assert_eq!(profile.losses.unknown_stacks, 0);
}

#[test]
fn the_time_line_has_a_point_at_the_peak() {
    let mut session = Session::new();
    let function = Function::Malloc;
    session.recorder.sample(0, 1);
    session.now_ms = 100;
    let alloc = Event::Alloc { pid: 1, tid: 1, address: 1, size: 500, stack: 1, function };
    session.step(&Step::Event(alloc));
    session.step(&Step::Event(Event::Free { pid: 1, tid: 1, address: 1 }));
    session.recorder.sample(1000, 2);
    let points: Vec<_> =
        session.recorder.timeline().points().iter().map(|p| (p.ms, p.live_bytes)).collect();
    assert_eq!(points, [(0, 0), (107, 500), (1000, 0)]);
}

#[test]
fn an_endless_command_line_is_cut() {
    let mut recorder =
        Recorder::new(Meta { command: vec!["x".repeat(70_000), "y".into()], ..Meta::default() });
    assert_eq!(recorder.meta().command.concat().len(), 65_536);
    recorder.apply(&Event::Exec { pid: 1 }, 0);
    recorder.set_command(0, vec![String::new(); 100_000]);
    assert_eq!(recorder.heap.processes()[0].command.len(), 65_536);
}

/// The promise: a file that version 1 wrote is read by every later memtrace. `testdata/v1.mtrc` is
/// never written again; only its reading, `v1.json`, follows when `Profile` gets new fields.
#[test]
fn a_file_of_version_1_is_read_for_ever() {
    let recording = read_bytes(include_bytes!("testdata/v1.mtrc")).expect("readable");
    let expected: Profile =
        serde_json::from_str(include_str!("testdata/v1.json")).expect("a profile");
    assert_eq!(recording.profile, expected);
    assert_eq!(recording.ending, Ending::Complete);
}
