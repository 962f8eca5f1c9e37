//! What identifies the values that an operator keeps: codec, version, structure.
//!
//! The structure is found by asking the type to deserialise itself from a probe that writes down
//! what it is asked for: numbers and their widths, names of fields and variants, in order. Type
//! names are left out, so a renamed type is the same, and a renamed or moved field is not: two
//! fields of one type that change places would else be taken for each other. Collections are
//! probed with one element, enums once per variant, and a type inside itself with nothing behind
//! it. A type whose own `Deserialize` refuses the probe's values (ones, empty text) is known only
//! up to there: such a type raises `VERSION` when it changes.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::U32Deserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::State;

/// The codec of state values.
const CODEC: &[u8] = b"postcard 1, sized";
/// Questions of one pass, and passes of one type: more only from types made to run away.
const QUESTIONS: usize = 10_000;
const PASSES: usize = 256;
/// Types inside types, far below what a stack bears.
const DEPTH: usize = 64;

/// The schema id of a state type: XXH3 of codec id, `VERSION` and structure. State with another id
/// is not decoded as this type.
///
/// ```
/// use sawmill::state::schema_id;
/// assert_eq!(schema_id::<(u8, String)>(), schema_id::<(u8, String)>());
/// assert_ne!(schema_id::<(u8, String)>(), schema_id::<(u16, String)>());
/// ```
#[must_use]
pub fn schema_id<S: State>() -> u64 {
    let mut trace = Trace::default();
    for _ in 0..PASSES {
        trace.begin();
        if S::deserialize(Probe(&mut trace)).is_err() {
            trace.note(b'!');
        }
        if trace.is_done() {
            break;
        }
    }
    let mut identity = CODEC.to_vec();
    identity.extend_from_slice(&S::VERSION.to_le_bytes());
    identity.extend_from_slice(&trace.notes);
    crate::checksum::xxh3(&identity)
}

/// What the type asked for.
#[derive(Default)]
struct Trace {
    notes: Vec<u8>,
    questions: usize,
    /// Names of the types that are being asked, outermost first.
    open: Vec<&'static str>,
    /// How many of them are inside one of the same name.
    again: usize,
    /// For each enum: how often it was met. Each time it shows its next variant.
    met: BTreeMap<(&'static str, &'static [&'static str]), usize>,
}

impl Trace {
    fn begin(&mut self) {
        self.questions = 0;
        self.open.clear();
        self.again = 0;
        self.note(b'>');
    }

    /// Whether every variant of every enum was seen.
    fn is_done(&self) -> bool {
        self.met.iter().all(|((_, variants), times)| *times >= variants.len())
    }

    fn note(&mut self, question: u8) {
        self.notes.push(question);
    }

    fn note_names(&mut self, names: &[&str]) {
        self.notes.extend_from_slice(&crate::ids::to_u64(names.len()).to_le_bytes());
        for name in names {
            self.notes.extend_from_slice(name.as_bytes());
            self.note(0);
        }
    }

    fn ask(&mut self, question: u8) -> Result<(), Refused> {
        self.note(question);
        self.questions += 1;
        if self.questions > QUESTIONS { Err(Refused) } else { Ok(()) }
    }

    /// Elements that a collection shows: none inside a repetition, which ends it.
    fn elements(&self) -> usize {
        usize::from(self.again == 0)
    }

    /// Asks within a named type.
    fn within<T>(
        &mut self,
        name: &'static str,
        body: impl FnOnce(&mut Trace) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        if self.open.len() >= DEPTH {
            return Err(Refused);
        }
        let again = usize::from(self.open.contains(&name));
        self.open.push(name);
        self.again += again;
        let result = body(self);
        self.again -= again;
        self.open.pop();
        result
    }
}

/// The probe, or the type, gave up.
#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the type refuses the probe's values")
    }
}

impl std::error::Error for Refused {}

impl serde::de::Error for Refused {
    fn custom<T: fmt::Display>(_message: T) -> Refused {
        Refused
    }
}

/// Answers every question with the simplest value.
struct Probe<'t>(&'t mut Trace);

macro_rules! plain {
    ($($question:ident $visit:ident $note:literal $value:expr;)*) => { $(
        fn $question<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            self.0.ask($note)?;
            visitor.$visit($value)
        }
    )* };
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Refused;

    plain! {
        deserialize_bool visit_bool b'b' false;
        deserialize_i8 visit_i8 b'1' 1;
        deserialize_i16 visit_i16 b'2' 1;
        deserialize_i32 visit_i32 b'3' 1;
        deserialize_i64 visit_i64 b'4' 1;
        deserialize_i128 visit_i128 b'5' 1;
        deserialize_u8 visit_u8 b'6' 1;
        deserialize_u16 visit_u16 b'7' 1;
        deserialize_u32 visit_u32 b'8' 1;
        deserialize_u64 visit_u64 b'9' 1;
        deserialize_u128 visit_u128 b'0' 1;
        deserialize_f32 visit_f32 b'f' 1.0;
        deserialize_f64 visit_f64 b'd' 1.0;
        deserialize_char visit_char b'c' 'a';
        deserialize_str visit_str b's' "";
        deserialize_string visit_str b's' "";
        deserialize_bytes visit_bytes b'y' &[];
        deserialize_byte_buf visit_bytes b'y' &[];
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Refused> {
        self.0.ask(b'a')?;
        Err(Refused)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_any(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.0.ask(b'o')?;
        if self.0.elements() == 0 { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.0.ask(b'u')?;
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.0.ask(b'n')?;
        self.0.within(name, |trace| visitor.visit_newtype_struct(Probe(trace)))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.0.ask(b'l')?;
        let left = self.0.elements();
        visitor.visit_seq(Parts { trace: self.0, left })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        left: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.0.ask(b't')?;
        self.0.notes.extend_from_slice(&crate::ids::to_u64(left).to_le_bytes());
        visitor.visit_seq(Parts { trace: self.0, left })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        left: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.0.within(name, |trace| Probe(trace).deserialize_tuple(left, visitor))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.0.ask(b'm')?;
        let left = self.0.elements();
        visitor.visit_map(Parts { trace: self.0, left })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.0.ask(b'r')?;
        self.0.note_names(fields);
        let left = fields.len();
        self.0.within(name, |trace| visitor.visit_seq(Parts { trace, left }))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.0.ask(b'e')?;
        self.0.note_names(variants);
        let times = self.0.met.entry((name, variants)).or_default();
        let variant = times.checked_rem(variants.len()).ok_or(Refused)?;
        *times += 1;
        let variant = u32::try_from(variant).map_err(Refused::custom)?;
        self.0.notes.extend_from_slice(&variant.to_le_bytes());
        self.0.within(name, |trace| visitor.visit_enum(Variant { trace, variant }))
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The elements of a collection, or the fields of a type.
struct Parts<'t> {
    trace: &'t mut Trace,
    left: usize,
}

impl<'de> SeqAccess<'de> for Parts<'_> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Refused> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(Probe(self.trace)).map(Some)
    }
}

impl<'de> MapAccess<'de> for Parts<'_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refused> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        seed.deserialize(Probe(self.trace))
    }
}

/// One variant of an enum.
struct Variant<'t> {
    trace: &'t mut Trace,
    variant: u32,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Refused;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Refused> {
        let ordinal: U32Deserializer<Refused> = self.variant.into_deserializer();
        Ok((seed.deserialize(ordinal)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        self.trace.ask(b'U')
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refused> {
        self.trace.ask(b'N')?;
        seed.deserialize(Probe(self.trace))
    }

    fn tuple_variant<V: Visitor<'de>>(self, left: usize, visitor: V) -> Result<V::Value, Refused> {
        Probe(self.trace).deserialize_tuple(left, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.trace.ask(b'R')?;
        self.trace.note_names(fields);
        visitor.visit_seq(Parts { trace: self.trace, left: fields.len() })
    }
}
