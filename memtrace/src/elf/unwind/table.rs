//! From ranges with rules to rows and the page index, and the search in them.

use memtrace_common::unwind::{PAGE_BYTES, PAGE_SHIFT, PageRows, Row, Rule};

use super::{
    MAX_ROWS, MAX_TEXT_BYTES, TextSegment, UnwindError, UnwindTable,
    frames::{Collector, FILLING, NONE},
};

/// Functions are aligned, with bytes between them that never run: gaps of up to this size are taken
/// for that. In larger ones there may be code without call frame information.
const MAX_FILLING: u64 = 15;

/// # Errors
/// [`UnwindError::None`], [`UnwindError::TooLarge`].
pub fn build(collected: Collector<'_>, text: Vec<TextSegment>) -> Result<UnwindTable, UnwindError> {
    let Collector { mut pieces, rules, damaged, .. } = collected;
    // Sorted by start already; where functions overlap the one that begins first wins.
    let mut known_to = 0;
    pieces.retain_mut(|piece| {
        piece.start = piece.start.max(known_to);
        known_to = known_to.max(piece.end);
        piece.start < piece.end
    });
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else {
        return Err(UnwindError::None);
    };
    let base = first.start & !(PAGE_BYTES - 1);
    let size = last.end - base;
    if size > MAX_TEXT_BYTES {
        return Err(too_large("text", size, MAX_TEXT_BYTES));
    }
    let mut rows =
        Rows { rows: Vec::with_capacity(pieces.len() + 1), starts: Vec::new(), last: NONE };
    rows.starts.reserve(pieces.len() + 1);
    let mut next = base;
    for piece in &pieces {
        // Before the first function there may be anything.
        let filling = next > base && piece.start - next <= MAX_FILLING;
        rows.push(next - base, if filling { FILLING } else { NONE });
        rows.push(piece.start - base, piece.rule);
        next = piece.end;
    }
    rows.push(next - base, NONE);
    let Rows { rows, starts, .. } = rows;
    if rows.len() > MAX_ROWS {
        return Err(too_large("row count", rows.len() as u64, MAX_ROWS as u64));
    }
    let pages = pages(&starts, size);
    Ok(UnwindTable { base, rows, pages, rules, damaged, text })
}

/// Rows in the making.
struct Rows {
    rows: Vec<Row>,
    /// Distances from the base, in full.
    starts: Vec<u32>,
    last: u16,
}

impl Rows {
    /// From `start` on, `rule`. A row that starts where the last one does replaces it.
    fn push(&mut self, start: u64, rule: u16) {
        // At most MAX_TEXT_BYTES, which fits.
        let start = start as u32;
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.rows.pop();
            self.last = self.rows.last().map_or(NONE, |r| r.rule);
        }
        if !self.rows.is_empty() && self.last == rule {
            return;
        }
        self.rows.push(Row { low: start as u16, rule });
        self.starts.push(start);
        self.last = rule;
    }
}

fn pages(starts: &[u32], size: u64) -> Vec<PageRows> {
    let count = size.div_ceil(PAGE_BYTES);
    let mut pages = Vec::with_capacity(count as usize);
    let mut next = 0;
    for page in 0..count {
        let start = page << PAGE_SHIFT;
        // The last row at or below the page's first byte, then those inside.
        while next < starts.len() && u64::from(starts[next]) <= start {
            next += 1;
        }
        let first = next - 1;
        while next < starts.len() && u64::from(starts[next]) < start + PAGE_BYTES {
            next += 1;
        }
        pages.push(PageRows { first: first as u32, last: (next - 1) as u32 });
    }
    pages
}

/// As the kernel side searches, over one table.
pub fn lookup(table: &UnwindTable, svma: u64) -> Option<Rule> {
    let offset = svma.checked_sub(table.base)?;
    let page = table.pages.get(usize::try_from(offset >> PAGE_SHIFT).ok()?)?;
    let at = (offset & (PAGE_BYTES - 1)) as u16;
    let inside = table.rows.get(page.first as usize + 1..=page.last as usize)?;
    let later = inside.partition_point(|r| r.low & (PAGE_BYTES as u16 - 1) <= at);
    let row = table.rows.get(page.first as usize + later)?;
    table.rules.get(usize::from(row.rule)).copied()
}

fn too_large(what: &'static str, size: u64, limit: u64) -> UnwindError {
    UnwindError::TooLarge { what, size, limit }
}
