//! Names of stateful operators, windows, sources and sinks: what outlives a restart is found by it.

use std::fmt;

/// A name, checked when the program is compiled: see [`name!`](crate::name!).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(&'static str);

impl Name {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Checks the form: 1 to 64 bytes of `a-z`, `0-9`, `_`, `-` and `.`, starting with a letter.
    ///
    /// # Panics
    /// If it has another form; in a constant (as `name!` makes it) the program does not compile.
    #[must_use]
    pub const fn new(name: &'static str) -> Name {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty() && bytes.len() <= Name::MAX_LEN, "a name has 1 to 64 bytes");
        assert!(bytes[0].is_ascii_lowercase(), "a name starts with a letter a-z");
        let mut at = 0;
        while at < bytes.len() {
            let allowed = matches!(bytes[at], b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.');
            assert!(allowed, "a name consists of a-z, 0-9, `_`, `-` and `.`");
            at += 1;
        }
        Name(name)
    }

    /// The name.
    #[must_use]
    pub const fn get(&self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({})", self.0)
    }
}

/// A [`Name`], checked when the program is compiled.
///
/// ```
/// use sawmill::name;
/// assert_eq!(name!("word_counts").get(), "word_counts");
/// ```
///
/// ```compile_fail
/// let name = sawmill::name!("Not A Name");
/// ```
#[macro_export]
macro_rules! name {
    ($name:literal) => {
        const { $crate::Name::new($name) }
    };
}
