//! The operators once more, over lists, one row after the other: slow and obvious.

use std::fmt::Debug;

use xxhash_rust::xxh3::xxh3_64;

use super::Pair;

/// Of each partition its rows, as text.
pub(crate) type Parts = Vec<Vec<String>>;

/// What the model works on.
pub(crate) struct Lists {
    pub(crate) left: Vec<Vec<Pair>>,
    pub(crate) right: Vec<Vec<Pair>>,
    pub(crate) parallelism: u32,
}

pub(crate) fn show<T: Debug>(parts: Vec<Vec<T>>) -> Parts {
    let part = |part: Vec<T>| part.iter().map(|row| format!("{row:?}")).collect();
    parts.into_iter().map(part).collect()
}

/// Neither commutative nor associative: it shows the order and the shape of a fold.
pub(crate) fn join(a: i64, b: i64) -> i64 {
    a.wrapping_mul(31).wrapping_sub(b ^ 5)
}

impl Lists {
    /// Each partition of the left side for itself.
    pub(crate) fn each<T: Debug>(&self, f: impl Fn(Vec<Pair>) -> Vec<T>) -> Parts {
        show(self.left.iter().cloned().map(f).collect())
    }

    /// Each row of the left side for itself.
    pub(crate) fn rows<T: Debug>(&self, f: impl Fn(Pair) -> T) -> Parts {
        self.each(|part| part.into_iter().map(&f).collect())
    }

    /// Rows by the hash of their key's canonical bytes, in source order.
    pub(crate) fn placed<T: Clone>(
        &self,
        parts: &[Vec<T>],
        key: impl Fn(&T) -> Vec<u8>,
    ) -> Vec<Vec<T>> {
        let place = |row: &T| {
            let high = u128::from(xxh3_64(&key(row)) >> 32);
            (high * u128::from(self.parallelism)) >> 32
        };
        let part = |number: u32| {
            let mine = parts.iter().flatten().filter(|row| place(row) == u128::from(number));
            mine.cloned().collect()
        };
        (0..self.parallelism).map(part).collect()
    }

    pub(crate) fn by_word<V: Clone>(&self, parts: &[Vec<(String, V)>]) -> Vec<Vec<(String, V)>> {
        self.placed(parts, |(word, _)| word.clone().into_bytes())
    }

    /// Whole rows as keys: how often there is each, by partition, first-seen order.
    pub(crate) fn counted(&self) -> Vec<Vec<(Pair, u64)>> {
        let bytes = |(word, n): &Pair| {
            let length = (word.len() as u64).to_le_bytes();
            [&length[..], word.as_bytes(), &n.to_le_bytes()].concat()
        };
        let parts = self.placed(&self.left, bytes).into_iter();
        let ones = |part: Vec<Pair>| part.into_iter().map(|row| (row, ()));
        parts.map(|part| folded(ones(part), |()| 1, |n, ()| n + 1)).collect()
    }

    /// Folds by word within each source partition of the left side, then over those.
    pub(crate) fn folded_twice<A: Clone + Debug>(
        &self,
        first: impl Fn(i64) -> A,
        fold: impl Fn(A, i64) -> A,
        merge: impl Fn(A, A) -> A,
    ) -> Parts {
        let combine = |part: &Vec<Pair>| folded(part.iter().cloned(), &first, &fold);
        let combined: Vec<_> = self.left.iter().map(combine).collect();
        let merged = |part: Vec<(String, A)>| folded(part, |all| all, &merge);
        show(self.by_word(&combined).into_iter().map(merged).collect())
    }

    /// Both sides by word, partition by partition.
    pub(crate) fn both<T: Debug>(&self, f: impl Fn(&[Pair], &[Pair]) -> Vec<T>) -> Parts {
        let (left, right) = (self.by_word(&self.left), self.by_word(&self.right));
        show(left.iter().zip(&right).map(|(left, right)| f(left, right)).collect())
    }
}

/// Folds rows by key: keys in first-seen order.
pub(crate) fn folded<K: PartialEq, V, A>(
    rows: impl IntoIterator<Item = (K, V)>,
    first: impl Fn(V) -> A,
    next: impl Fn(A, V) -> A,
) -> Vec<(K, A)> {
    let mut all: Vec<(K, Option<A>)> = Vec::new();
    for (key, value) in rows {
        match all.iter_mut().find(|(known, _)| *known == key) {
            Some((_, folded)) => *folded = folded.take().map(|folded| next(folded, value)),
            None => all.push((key, Some(first(value)))),
        }
    }
    all.into_iter().filter_map(|(key, folded)| Some((key, folded?))).collect()
}

/// Nested loops: all matches of each row of `from`, in the order of `with`; `None` without one.
pub(crate) fn matched(from: &[Pair], with: &[Pair]) -> Vec<(String, (i64, Option<i64>))> {
    let mut rows = Vec::new();
    for (word, a) in from {
        let before = rows.len();
        let matches = with.iter().filter(|(other, _)| other == word);
        rows.extend(matches.map(|(_, b)| (word.clone(), (*a, Some(*b)))));
        if rows.len() == before {
            rows.push((word.clone(), (*a, None)));
        }
    }
    rows
}

/// The rows of `of` whose key `others` has not: by key, first-seen order.
pub(crate) fn without(of: &[Pair], others: &[Pair]) -> Vec<Pair> {
    let alone = of.iter().filter(|(word, _)| others.iter().all(|(other, _)| other != word));
    let push = |mut all: Vec<i64>, n| {
        all.push(n);
        all
    };
    let groups = folded(alone.cloned(), |n| vec![n], push).into_iter();
    groups.flat_map(|(word, all)| all.into_iter().map(move |n| (word.clone(), n))).collect()
}
