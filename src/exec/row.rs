//! What flows: rows, and the views of them that closures get.

use std::fmt;
use std::marker::PhantomData;

/// An owned row that closures get by value: anything that can be cloned and sent to a thread.
///
/// No codec is asked for: rows that stay in memory need none.
pub trait Data: Clone + Send + Sync + 'static {}

impl<T: Clone + Send + Sync + 'static> Data for T {}

/// What a dataset is made of.
///
/// `View<'a>` is what closures get: a borrow of the bytes where they lie for the markers [`Str`],
/// [`Bytes`] and [`Kv`], the value itself for owned types. A view lives for one call only.
///
/// ```
/// use sawmill::{Bytes, Kv, Row};
/// let view: <Kv<Bytes, u64> as Row>::View<'_> = (b"word", 3);
/// assert_eq!(<Kv<Bytes, u64> as Row>::own(view), (b"word".to_vec(), 3));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a row of a dataset",
    label = "not a row",
    note = "a row is an owned `Clone + Send + Sync + 'static` type, or one of the markers `Str`, \
            `Bytes` and `Kv<K, V>`, whose views borrow; a borrowed view lives for one call only: \
            push it with `flat_map_rows`, or return an owned value"
)]
pub trait Row: Send + Sync + 'static {
    /// What closures get.
    type View<'a>;
    /// What remains of a row after the call: what `collect` returns.
    type Owned: Data;

    /// Makes a row that outlives the call.
    fn own(view: Self::View<'_>) -> Self::Owned;
}

impl<T: Data> Row for T {
    type View<'a> = T;
    type Owned = T;

    fn own(view: T) -> T {
        view
    }
}

/// Marker of rows seen as `&str`.
///
/// Deliberately not `Clone`: an owned type would be passed by value.
#[derive(Debug)]
pub enum Str {}

/// Marker of rows seen as `&[u8]`.
#[derive(Debug)]
pub enum Bytes {}

/// Marker of rows seen as a key and a value.
pub struct Kv<K, V>(PhantomData<fn() -> (K, V)>);

impl<K, V> fmt::Debug for Kv<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kv")
    }
}

impl Row for Str {
    type View<'a> = &'a str;
    type Owned = String;

    fn own(view: &str) -> String {
        view.to_owned()
    }
}

impl Row for Bytes {
    type View<'a> = &'a [u8];
    type Owned = Vec<u8>;

    fn own(view: &[u8]) -> Vec<u8> {
        view.to_vec()
    }
}

impl<K: Row, V: Row> Row for Kv<K, V> {
    type View<'a> = (K::View<'a>, V::View<'a>);
    type Owned = (K::Owned, V::Owned);

    fn own((key, value): Self::View<'_>) -> Self::Owned {
        (K::own(key), V::own(value))
    }
}

/// Where an operator's closure puts its rows: each is passed on at once, none is kept.
pub struct Emit<'o, U: Row>(&'o mut dyn FnMut(U::View<'_>));

impl<'o, U: Row> Emit<'o, U> {
    pub(crate) fn new(out: &'o mut dyn FnMut(U::View<'_>)) -> Emit<'o, U> {
        Emit(out)
    }

    /// Passes one row on.
    #[inline]
    pub fn push(&mut self, view: U::View<'_>) {
        (self.0)(view);
    }
}

impl<U: Row> fmt::Debug for Emit<'_, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Emit")
    }
}
