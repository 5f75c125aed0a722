//! Ring-buffer records → events. Pure; any bytes are safe input.

use memtrace_common::{
    point::Function,
    record::{ADDRESS_MASK, AllocRecord, FreeRecord, Kind, LifeRecord, SIZE_MASK, StackHeader},
    stack::StackEnd,
};

use super::event::{Addresses, Event};

/// The event in one record, or None when the bytes are not a record of this version.
pub fn decode(record: &[u8]) -> Option<Event<'_>> {
    let tag = word(record, 0)?;
    let address = tag & ADDRESS_MASK;
    match Kind::from_u8((tag >> 56) as u8)? {
        kind @ (Kind::Alloc | Kind::ReallocEnd | Kind::AllocFailed) => alloc(kind, address, record),
        kind @ (Kind::Free | Kind::ReallocBegin) => {
            let (pid, tid) = pid_tid(record, core::mem::offset_of!(FreeRecord, pid_tid))?;
            Some(match kind {
                Kind::Free => Event::Free { pid, tid, address },
                _ => Event::ReallocBegin { pid, tid, address },
            })
        }
        Kind::Stack => stack(record),
        kind @ (Kind::Fork | Kind::Exec | Kind::Exit) => {
            let (pid, tid) = pid_tid(record, core::mem::offset_of!(LifeRecord, pid_tid))?;
            let other = word(record, core::mem::offset_of!(LifeRecord, other))?;
            Some(match kind {
                Kind::Fork => Event::Fork { pid, child: u32::try_from(other).ok()? },
                Kind::Exec => Event::Exec { pid },
                _ => Event::Exit { pid, tid, last: other != 0 },
            })
        }
    }
}

fn alloc(kind: Kind, address: u64, record: &[u8]) -> Option<Event<'_>> {
    let size_function = word(record, core::mem::offset_of!(AllocRecord, size_function))?;
    let size = size_function & SIZE_MASK;
    let function = Function::from_u8((size_function >> 56) as u8)?;
    let stack = word(record, core::mem::offset_of!(AllocRecord, stack))?;
    let (pid, tid) = pid_tid(record, core::mem::offset_of!(AllocRecord, pid_tid))?;
    Some(match kind {
        Kind::Alloc => Event::Alloc { pid, tid, address, size, stack, function },
        Kind::AllocFailed => Event::AllocFailed { pid, tid, size, stack, function },
        _ => Event::ReallocEnd { pid, tid, address, size, stack, function },
    })
}

fn stack(record: &[u8]) -> Option<Event<'_>> {
    let stack = word(record, core::mem::offset_of!(StackHeader, stack))?;
    let (pid, _) = pid_tid(record, core::mem::offset_of!(StackHeader, pid_tid))?;
    let time_ns = word(record, core::mem::offset_of!(StackHeader, time_ns))?;
    let frames = record.get(core::mem::offset_of!(StackHeader, frames)..)?.first_chunk::<2>()?;
    let end = StackEnd::from_u8(*record.get(core::mem::offset_of!(StackHeader, end))?)?;
    let bytes = usize::from(u16::from_ne_bytes(*frames)) * size_of::<u64>();
    let addresses = record.get(size_of::<StackHeader>()..)?.get(..bytes)?;
    Some(Event::Stack { pid, stack, time_ns, end, addresses: Addresses::from_bytes(addresses) })
}

fn word(record: &[u8], offset: usize) -> Option<u64> {
    record.get(offset..)?.first_chunk::<8>().map(|bytes| u64::from_ne_bytes(*bytes))
}

/// Process and thread id of a `bpf_get_current_pid_tgid` word.
fn pid_tid(record: &[u8], offset: usize) -> Option<(u32, u32)> {
    word(record, offset).map(|both| ((both >> 32) as u32, both as u32))
}

#[cfg(test)]
mod tests {
    use memtrace_common::record::tag;
    use proptest::prelude::{any, proptest};

    use super::{Addresses, Event, Function, Kind, StackEnd, decode};

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn an_allocation_keeps_address_size_function_and_thread() {
        let record = bytes(&[
            tag(Kind::Alloc, 0x7fff_1234_5678_9abc & super::ADDRESS_MASK),
            4096 | (Function::Calloc as u64) << 56,
            0xfeed_f00d_dead_beef,
            7 << 32 | 9,
        ]);
        assert_eq!(
            decode(&record),
            Some(Event::Alloc {
                pid: 7,
                tid: 9,
                address: 0x00ff_1234_5678_9abc,
                size: 4096,
                stack: 0xfeed_f00d_dead_beef,
                function: Function::Calloc
            })
        );
    }

    #[test]
    fn a_stack_has_the_frames_that_its_header_counts() {
        let mut record = bytes(&[tag(Kind::Stack, 0), 42, 7 << 32 | 9, 1234]);
        record.extend([2, 0, StackEnd::DepthLimit as u8, 0, 0, 0, 0, 0]);
        record.extend(bytes(&[0x1000, 0x2000]));
        let Some(Event::Stack {
            pid: 7,
            stack: 42,
            time_ns: 1234,
            end: StackEnd::DepthLimit,
            addresses,
        }) = decode(&record)
        else {
            panic!("not a stack: {:?}", decode(&record));
        };
        assert_eq!(addresses.iter().collect::<Vec<_>>(), [0x1000, 0x2000]);
        record.truncate(record.len() - 1);
        assert_eq!(decode(&record), None);
        assert_eq!(Addresses::from_bytes(&[1, 2, 3]).iter().count(), 0);
    }

    #[test]
    fn unknown_kinds_and_short_records_are_refused() {
        assert_eq!(decode(&bytes(&[0, 0, 0, 0])), None);
        assert_eq!(decode(&bytes(&[200 << 56, 0, 0, 0])), None);
        assert_eq!(decode(&bytes(&[tag(Kind::Free, 1)])), None);
        assert_eq!(decode(&[]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused_without_a_panic(record: Vec<u8>, kind in 0u8..12, word in any::<u64>()) {
            decode(&record);
            let mut record = [bytes(&[u64::from(kind) << 56 | word >> 8]), record].concat();
            decode(&record);
            record.truncate(31);
            decode(&record);
        }
    }
}
