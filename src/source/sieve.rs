//! Inputs without some of their rows: how a batch goes on without records at which user code fails.

use std::collections::BTreeSet;

use super::Input;
use crate::error::Result;
use crate::exec::{InputRow, on_its_way};

/// Which rows of a run's inputs are shown.
#[derive(Debug, Default)]
pub(crate) struct Sieve {
    /// Left out.
    pub(crate) hidden: BTreeSet<InputRow>,
    /// This one and all behind it are left out, too.
    pub(crate) end: Option<InputRow>,
}

impl Sieve {
    fn shows(&self, row: InputRow) -> bool {
        self.end.is_none_or(|end| row < end) && !self.hidden.contains(&row)
    }

    /// Passes on what is shown of one partition, and says of each row that it is on its way.
    pub(super) fn rows(
        &self,
        number: u32,
        input: &dyn Input,
        partition: u32,
        out: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        let mut place = InputRow { input: number, partition, row: 0 };
        let read = input.rows(partition, &mut |row| {
            if self.shows(place) {
                on_its_way(Some(place));
                out(row);
            }
            place.row += 1;
        });
        on_its_way(None);
        read
    }
}
