//! Rows that wait for a few others before they go into their tables.
//!
//! A look-up in a table that does not fit into the cache waits for its slot and then for its row,
//! and what the processor does meanwhile ends at the first branch that it guesses wrong. Of 16 rows
//! it can fetch all slots at once, then all rows. They come out in the order in which they came.

use super::probe::Short;
use super::table::{ByteTable, WARM};

/// At most [`WARM`] rows with short keys, each with the number of its table.
pub(crate) struct Waiting<T> {
    rows: Vec<Row<T>>,
}

struct Row<T> {
    table: usize,
    key: Short,
    value: T,
}

impl<T> Waiting<T> {
    pub(crate) fn new() -> Waiting<T> {
        Waiting { rows: Vec::with_capacity(WARM) }
    }

    /// Takes a row. Returns whether it is time to take the rows out.
    #[inline]
    pub(crate) fn push(&mut self, table: usize, key: Short, value: T) -> bool {
        self.rows.push(Row { table, key, value });
        self.rows.len() == WARM
    }

    /// Touches what the look-ups of all rows will touch.
    #[inline]
    pub(crate) fn warm<'t, A: 't>(&self, table: impl Fn(usize) -> &'t ByteTable<A>) {
        let mut slots = [0; WARM];
        for (slot, row) in slots.iter_mut().zip(&self.rows) {
            *slot = table(row.table).slot_of(row.key.hash);
        }
        let rows = self.rows.iter().zip(slots);
        std::hint::black_box(rows.fold(0, |all, (row, slot)| all ^ table(row.table).touch(slot)));
    }

    /// Takes the rows out.
    #[inline]
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (usize, Short, T)> {
        self.rows.drain(..).map(|row| (row.table, row.key, row.value))
    }
}
