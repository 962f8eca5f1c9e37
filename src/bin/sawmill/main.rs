//! The command line of sawmill.

fn main() {}
