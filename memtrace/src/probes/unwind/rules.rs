//! The rules of all binaries, each once.

use std::{collections::HashMap, sync::atomic::Ordering};

use memtrace_common::unwind::{Rule, rule_id};

use super::array::WordArray;

/// Rule numbers, which are in the kernel's cache and so are never taken back.
pub struct Rules {
    array: WordArray,
    ids: HashMap<Rule, u16>,
    next: u32,
    /// Rules that found no room.
    pub left_out: u64,
}

impl Rules {
    pub fn new(array: WordArray) -> Self {
        let fixed = [
            (rule_id::NONE, Rule::NONE),
            (rule_id::ANONYMOUS, Rule::ANONYMOUS),
            (rule_id::TRAMPOLINE, Rule::TRAMPOLINE),
            (rule_id::UNSUPPORTED, Rule::UNSUPPORTED),
        ];
        let mut ids = HashMap::new();
        for (id, rule) in fixed {
            array.words()[usize::from(id)].store(rule.to_bits(), Ordering::Release);
            ids.insert(rule, id);
        }
        Self { array, ids, next: rule_id::FIRST_FREE.into(), left_out: 0 }
    }

    /// The number of a rule; that of [`Rule::UNSUPPORTED`] when the array is full.
    pub fn id(&mut self, rule: Rule) -> u16 {
        if let Some(&id) = self.ids.get(&rule) {
            return id;
        }
        let room = self.array.words().get(self.next as usize);
        let (Some(word), Ok(id)) = (room, u16::try_from(self.next)) else {
            self.left_out += 1;
            return rule_id::UNSUPPORTED;
        };
        word.store(rule.to_bits(), Ordering::Release);
        self.ids.insert(rule, id);
        self.next += 1;
        id
    }

    #[cfg(test)]
    pub fn array_for_tests(&self) -> &WordArray {
        &self.array
    }

    /// Bytes of kernel memory.
    pub fn bytes(&self) -> u64 {
        size_of_val(self.array.words()) as u64
    }

    /// Rules in the array.
    pub fn len(&self) -> u32 {
        self.next
    }
}
