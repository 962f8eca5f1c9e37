//! Programs that must not compile, and what the compiler tells the person who wrote them.

#[test]
fn mistakes_are_refused_with_words_a_person_understands() {
    trybuild::TestCases::new().compile_fail("ui/*.rs");
}
