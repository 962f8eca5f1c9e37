//! How many segments are kept ready before they are needed.
//!
//! Two at rest (LOG.md L4). A log that takes them faster than they are made asks for more, up to a
//! bound; when it does so no longer, the number falls again. Nothing is removed for that: what is
//! ready is used.

/// A spare and the reserve.
pub(crate) const AT_REST: usize = 2;
/// So many segments in a row that found all others ready, and one fewer will do.
const CALM: u32 = 16;

/// The number, and what moves it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    wanted: usize,
    most: usize,
    calm: u32,
}

impl Ahead {
    /// Two for now, `most` at most.
    pub(crate) fn new(most: usize) -> Ahead {
        Ahead { wanted: AT_REST, most: most.max(AT_REST), calm: 0 }
    }

    /// How many shall be ready.
    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    /// One is taken, when so many were ready.
    pub(crate) fn taken(&mut self, ready: usize) {
        if ready < self.wanted {
            (self.wanted, self.calm) = ((2 * self.wanted).min(self.most), 0);
            return;
        }
        self.calm += 1;
        if self.calm == CALM {
            (self.wanted, self.calm) = ((self.wanted - 1).max(AT_REST), 0);
        }
    }

    /// There was no space for one more.
    pub(crate) fn failed(&mut self) {
        (self.wanted, self.calm) = (AT_REST, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_where_segments_are_taken_before_they_are_made_and_shrinks_again() {
        let mut ahead = Ahead::new(5);
        ahead.taken(2);
        assert_eq!(ahead.wanted(), 2, "all were there");
        ahead.taken(1);
        assert_eq!(ahead.wanted(), 4);
        ahead.taken(3);
        assert_eq!(ahead.wanted(), 5, "bounded");
        for taken in 0..3 * CALM {
            assert_eq!(ahead.wanted(), 5 - (taken / CALM) as usize);
            ahead.taken(ahead.wanted());
        }
        ahead.taken(0);
        assert_eq!(ahead.wanted(), 4);
        ahead.failed();
        assert_eq!(ahead.wanted(), AT_REST);
        for _ in 0..100 {
            ahead.taken(ahead.wanted());
        }
        assert_eq!(ahead.wanted(), AT_REST, "never fewer");
    }

    #[test]
    fn two_are_ready_whatever_the_bound() {
        let mut ahead = Ahead::new(0);
        ahead.taken(0);
        assert_eq!(ahead.wanted(), AT_REST);
    }
}
