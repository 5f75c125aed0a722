//! A profile's tables resolved to frames with names.

use memtrace_common::stack::StackEnd;

use crate::profile::{Location, LocationId, Profile, Stack};

/// One function of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame<'a> {
    /// Demangled name; None when no symbol was found.
    pub function: Option<&'a str>,
    /// Source file; None without debug information.
    pub file: Option<&'a str>,
    /// Source line from 1.
    pub line: Option<u32>,
    /// Path of the binary as the target saw it; None for code in no file (JIT).
    pub module: Option<&'a str>,
    /// As [`Location::address`]: relative to the module (SVMA) if there is one, else absolute.
    pub address: u64,
    /// The function was inlined into the next frame, which has the same address.
    pub inlined: bool,
}

/// What an index out of range stands for.
static NO_LOCATION: Location = Location { module: None, address: 0, lines: Vec::new() };

/// The location with this id; an empty one at address 0 when there is none.
pub fn location(profile: &Profile, id: LocationId) -> &Location {
    profile.locations.get(id as usize).unwrap_or(&NO_LOCATION)
}

/// Number of frames that a location stands for: its functions, or one without a name.
pub fn frame_count(location: &Location) -> usize {
    location.lines.len().max(1)
}

/// Frame `index` of a location, innermost inlined function first.
pub fn frame<'a>(profile: &'a Profile, location: &'a Location, index: usize) -> Frame<'a> {
    let name = |id| Some(profile.string(id)).filter(|name| !name.is_empty());
    let module = location
        .module
        .and_then(|id| profile.modules.get(id as usize))
        .and_then(|module| name(module.path));
    let line = location.lines.get(index);
    Frame {
        function: line.and_then(|line| name(line.function)),
        file: line.and_then(|line| line.file).and_then(name),
        line: line.and_then(|line| line.line).filter(|line| *line != 0),
        module,
        address: location.address,
        inlined: index + 1 < location.lines.len(),
    }
}

/// All frames of a stack, innermost first.
pub fn stack_frames<'a>(
    profile: &'a Profile,
    stack: &'a Stack,
) -> impl DoubleEndedIterator<Item = Frame<'a>> + Clone {
    stack.locations.iter().flat_map(move |id| {
        let location = location(profile, *id);
        (0..frame_count(location)).map(move |index| frame(profile, location, index))
    })
}

/// Why a stack ends where it does, in words; None when its outermost frame was reached.
pub fn truncation(end: u8) -> Option<&'static str> {
    Some(match StackEnd::from_u8(end) {
        Some(StackEnd::Complete) => return None,
        Some(StackEnd::DepthLimit) => "depth limit",
        Some(StackEnd::NoUnwindInfo) => "no unwind info",
        Some(StackEnd::UnreadableMemory) => "unreadable memory",
        Some(StackEnd::NoMapping) => "no mapping",
        Some(StackEnd::UnsupportedRule) => "unsupported unwind rule",
        Some(StackEnd::FramePointerEnd) => "end of frame pointers",
        Some(StackEnd::ProbeTrampoline) => "inside a function with another return probe",
        Some(StackEnd::StackNotGrowing) => "damaged or switched stack",
        Some(StackEnd::UnknownProcess) => "process too new",
        Some(StackEnd::Busy) => "unwinder busy",
        None => "unknown reason",
    })
}

/// The same for machines; `docs/report-json.md` lists the words.
pub fn end_name(end: u8) -> &'static str {
    match StackEnd::from_u8(end) {
        Some(StackEnd::Complete) => "complete",
        Some(StackEnd::DepthLimit) => "depth_limit",
        Some(StackEnd::NoUnwindInfo) => "no_unwind_info",
        Some(StackEnd::UnreadableMemory) => "unreadable_memory",
        Some(StackEnd::NoMapping) => "no_mapping",
        Some(StackEnd::UnsupportedRule) => "unsupported_rule",
        Some(StackEnd::FramePointerEnd) => "frame_pointer_end",
        Some(StackEnd::ProbeTrampoline) => "probe_trampoline",
        Some(StackEnd::StackNotGrowing) => "stack_not_growing",
        Some(StackEnd::UnknownProcess) => "unknown_process",
        Some(StackEnd::Busy) => "busy",
        None => "unknown",
    }
}

/// Shown in place of the frames when a stack's record was lost.
pub const UNKNOWN_STACK: &str = "[unknown stack]";

/// The last part of a path.
pub fn file_name(path: &str) -> &str {
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::{Frame, file_name, frame, location, stack_frames};
    use crate::{
        profile::{Profile, Stack},
        report::testing::Builder,
    };

    #[test]
    fn inlined_functions_come_before_the_one_they_are_inlined_into() {
        let mut builder = Builder::new();
        let at = builder.location("/bin/x", 0x10, &[("inner", "a.h", 1), ("outer", "a.c", 2)]);
        let stack = Stack { locations: vec![at], ..Stack::default() };
        let profile = builder.finish();
        let frames: Vec<_> = stack_frames(&profile, &stack).collect();
        assert_eq!(frames.len(), 2);
        assert_eq!((frames[0].function, frames[0].inlined), (Some("inner"), true));
        assert_eq!((frames[1].function, frames[1].inlined), (Some("outer"), false));
        assert_eq!((frames[1].file, frames[1].line), (Some("a.c"), Some(2)));
    }

    #[test]
    fn ids_out_of_range_are_unknown_names() {
        let profile = Profile::default();
        let nothing = frame(&profile, location(&profile, 7), 0);
        let expected = Frame {
            function: None,
            file: None,
            line: None,
            module: None,
            address: 0,
            inlined: false,
        };
        assert_eq!(nothing, expected);
    }

    #[test]
    fn file_names_are_the_last_part() {
        assert_eq!(file_name("/usr/lib/libc.so.6"), "libc.so.6");
        assert_eq!(file_name("[vdso]"), "[vdso]");
        assert_eq!(file_name("///"), "///");
    }
}
