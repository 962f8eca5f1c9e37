//! State tables against a model that is plainly right: a map, and a list for the order.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use sawmill::state::{OperatorState, Overlay, State, StateTable, hash_key, schema_id};
use sawmill::{BatchId, ErrorKind};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug)]
enum Change {
    Set(u8, u64),
    Remove(u8),
    /// A batch of changes, which completes or not.
    Batch(Vec<(u8, Option<u64>)>, bool),
    Restore,
}

fn key(number: u8) -> Vec<u8> {
    // Keys of many lengths, the empty one among them.
    vec![b'a' + number % 26; usize::from(number) % 40]
}

/// Values and first-seen order.
#[derive(Debug, Default)]
struct Model {
    values: BTreeMap<Vec<u8>, u64>,
    order: Vec<Vec<u8>>,
}

impl Model {
    fn set(&mut self, key: Vec<u8>, value: Option<u64>) {
        match value {
            Some(value) => {
                if self.values.insert(key.clone(), value).is_none() {
                    self.order.push(key);
                }
            }
            None => {
                self.values.remove(&key);
                self.order.retain(|other| *other != key);
            }
        }
    }

    fn rows(&self) -> Vec<(Vec<u8>, u64)> {
        self.order.iter().map(|key| (key.clone(), self.values[key])).collect()
    }
}

fn rows(table: &StateTable<u64>) -> Vec<(Vec<u8>, u64)> {
    table.iter().map(|(key, value)| (key.to_vec(), *value)).collect()
}

fn change() -> impl Strategy<Value = Change> {
    let batch = prop::collection::vec((any::<u8>(), any::<Option<u64>>()), 0..30);
    prop_oneof![
        6 => (any::<u8>(), any::<u64>()).prop_map(|(key, value)| Change::Set(key, value)),
        6 => any::<u8>().prop_map(Change::Remove),
        2 => (batch, any::<bool>()).prop_map(|(changes, done)| Change::Batch(changes, done)),
        1 => Just(Change::Restore),
    ]
}

fn apply_batch(
    table: &mut StateTable<u64>,
    model: &mut Model,
    changes: &[(u8, Option<u64>)],
    completes: bool,
) {
    let before = rows(table);
    let mut overlay = Overlay::new();
    let mut seen = BTreeMap::new();
    let mut touched = Vec::new();
    for (number, value) in changes {
        let key = key(*number);
        let hash = hash_key(&key);
        let was = seen.get(&key).copied().unwrap_or_else(|| model.values.get(&key).copied());
        assert_eq!(overlay.get(table, hash, &key).copied(), was);
        // Both ways of changing: in place, and whole.
        if number % 2 == 0 {
            let state = overlay.state(table, hash, &key);
            assert_eq!(*state, was);
            *state = *value;
        } else {
            overlay.put(hash, &key, *value);
        }
        if seen.insert(key.clone(), *value).is_none() {
            touched.push(key);
        }
    }
    assert_eq!(overlay.len(), touched.len(), "undo costs the touched keys");
    assert_eq!(rows(table), before, "a batch changes nothing before it completes");
    if completes {
        table.merge(overlay);
        for key in touched {
            let value = seen[&key];
            model.set(key, value);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn tables_do_what_the_model_does(changes in prop::collection::vec(change(), 0..200)) {
        let mut table = StateTable::new();
        let mut model = Model::default();
        for change in &changes {
            match change {
                Change::Set(number, value) => {
                    let key = key(*number);
                    let before = table.insert(hash_key(&key), &key, *value);
                    prop_assert_eq!(before, model.values.get(&key).copied());
                    model.set(key, Some(*value));
                }
                Change::Remove(number) => {
                    let key = key(*number);
                    let before = table.remove(hash_key(&key), &key);
                    prop_assert_eq!(before, model.values.get(&key).copied());
                    model.set(key, None);
                }
                Change::Batch(batch, done) => apply_batch(&mut table, &mut model, batch, *done),
                Change::Restore => {
                    let mut bytes = Vec::new();
                    table.encode(&mut bytes).unwrap();
                    table = StateTable::decode(&bytes).unwrap();
                }
            }
            prop_assert_eq!(table.len(), model.values.len());
        }
        prop_assert_eq!(rows(&table), model.rows());
        for number in 0..=255 {
            let key = key(number);
            prop_assert_eq!(table.get(hash_key(&key), &key), model.values.get(&key));
        }
    }

    #[test]
    fn decoding_refuses_or_returns_what_encodes_the_same(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        if let Ok(table) = StateTable::<Vec<u8>>::decode(&bytes) {
            let again = StateTable::<Vec<u8>>::decode(&{
                let mut out = Vec::new();
                table.encode(&mut out).unwrap();
                out
            }).unwrap();
            prop_assert!(again.iter().eq(table.iter()));
        }
    }
}

#[test]
fn damaged_state_is_refused() {
    let mut table = StateTable::new();
    for number in 0..50_u8 {
        table.insert(hash_key(&[number]), &[number], u64::from(number));
    }
    let mut bytes = Vec::new();
    table.encode(&mut bytes).unwrap();
    for length in 0..bytes.len() {
        let error = StateTable::<u64>::decode(&bytes[..length]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{length}: {error}");
    }
    bytes.push(0);
    assert!(StateTable::<u64>::decode(&bytes).is_err(), "something follows");
    let lie = u64::MAX.to_le_bytes();
    assert!(StateTable::<u64>::decode(&lie).is_err(), "more keys than bytes");
    let twice = [&2_u64.to_le_bytes()[..], &[1, b'k', 1, 1, 1, b'k', 1, 2]].concat();
    assert!(StateTable::<u64>::decode(&twice).unwrap_err().to_string().contains("twice"));
}

#[test]
fn many_keys_keep_their_order_through_growth_and_removal() {
    let mut table = StateTable::new();
    let key = |number: u64| number.to_le_bytes();
    for number in 0..20_000_u64 {
        table.insert(hash_key(&key(number)), &key(number), number);
    }
    for number in (0..20_000).filter(|number| number % 3 != 0) {
        assert_eq!(table.remove(hash_key(&key(number)), &key(number)), Some(number));
    }
    let left: Vec<u64> = table.iter().map(|(_, value)| *value).collect();
    assert_eq!(left, (0..20_000).filter(|number| number % 3 == 0).collect::<Vec<_>>());
    assert!(left.iter().all(|number| table.contains(hash_key(&key(*number)), &key(*number))));
    for number in 0..20_000_u64 {
        table.remove(hash_key(&key(number)), &key(number));
    }
    assert!(table.is_empty());
}

#[test]
fn an_operator_shows_completed_batches_only() {
    let state = OperatorState::new::<u64>("counts", 2);
    let typed = state.typed::<u64>().unwrap();
    assert!(state.typed::<u32>().is_none());
    let mut overlay = Overlay::new();
    typed.read(1, |_, table| *overlay.state(table, hash_key(b"k"), b"k") = Some(5));
    assert_eq!(typed.get(1, b"k"), (BatchId::new(0), None));
    state.merge(1, BatchId::new(3), Box::new(overlay));
    assert_eq!(typed.get(1, b"k"), (BatchId::new(3), Some(5)));
    state.complete(BatchId::new(3));
    assert_eq!((state.completed(0), state.len(0), state.len(1)), (BatchId::new(3), 0, 1));

    let bytes = state.encode_partition(1).unwrap();
    let restored = OperatorState::new::<u64>("counts", 2);
    restored.decode_partition(1, BatchId::new(3), &bytes).unwrap();
    assert_eq!(restored.typed::<u64>().unwrap().get(1, b"k"), (BatchId::new(3), Some(5)));
    assert_eq!(restored.encode_partition(1).unwrap(), bytes);
    let error = restored.decode_partition(1, BatchId::new(4), &bytes[1..]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("counts"), "{error}");
    assert_eq!(restored.len(1), 1, "a refused restore changes nothing");
    restored.clear(1);
    assert!(restored.is_empty());
}

#[test]
#[should_panic(expected = "STATE-3")]
fn an_overlay_of_another_type_is_a_bug() {
    let state = OperatorState::new::<u64>("counts", 1);
    state.merge(0, BatchId::new(1), Box::new(Overlay::<u32>::new()));
}

mod shapes {
    use super::*;

    macro_rules! shape {
        ($name:ident, $($body:tt)*) => {
            #[derive(Clone, Debug, Serialize, Deserialize)]
            pub(super) struct $name { $($body)* }
            impl State for $name {}
        };
    }
    shape!(One, seen: u64, last: u64);
    shape!(Same, seen: u64, last: u64);
    shape!(Swapped, last: u64, seen: u64);
    shape!(Narrow, seen: u64, last: u32);
    shape!(More, seen: u64, last: u64, max: Option<u64>);
    shape!(Fewer, seen: u64);
    shape!(Listed, seen: u64, last: Vec<u64>);
    shape!(ListedNarrow, seen: u64, last: Vec<u32>);
    shape!(Mapped, seen: u64, last: BTreeMap<String, u8>);
    shape!(MappedOther, seen: u64, last: BTreeMap<String, i8>);

    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub(super) enum Door {
        Open,
        Shut(u8),
        Ajar { degrees: u16 },
    }
    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub(super) enum LaterDoor {
        Open,
        Shut(u8),
        Ajar { degrees: u32 },
    }
    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub(super) struct Tree {
        value: u8,
        children: Vec<Tree>,
    }
    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub(super) struct Versioned {
        seen: u64,
        last: u64,
    }
    impl State for Door {}
    impl State for LaterDoor {}
    impl State for Tree {}
    impl State for Versioned {
        const VERSION: u32 = 2;
    }
}

/// A schema id follows the structure and the version, never the type's name.
#[test]
fn schema_ids_tell_shapes_apart() {
    use shapes::*;
    assert_eq!(schema_id::<One>(), schema_id::<Same>());
    let ids = [
        ("One", schema_id::<One>()),
        ("Swapped", schema_id::<Swapped>()),
        ("Narrow", schema_id::<Narrow>()),
        ("More", schema_id::<More>()),
        ("Fewer", schema_id::<Fewer>()),
        ("Listed", schema_id::<Listed>()),
        ("ListedNarrow", schema_id::<ListedNarrow>()),
        ("Mapped", schema_id::<Mapped>()),
        ("MappedOther", schema_id::<MappedOther>()),
        ("Door", schema_id::<Door>()),
        ("LaterDoor", schema_id::<LaterDoor>()),
        ("Tree", schema_id::<Tree>()),
        ("Versioned", schema_id::<Versioned>()),
        ("u64", schema_id::<u64>()),
        ("i64", schema_id::<i64>()),
        ("String", schema_id::<String>()),
        ("Vec<u8>", schema_id::<Vec<u8>>()),
        ("Option<u8>", schema_id::<Option<u8>>()),
        ("(u8, u8)", schema_id::<(u8, u8)>()),
        ("(u8, u8, u8)", schema_id::<(u8, u8, u8)>()),
        ("Vec<Versioned>", schema_id::<Vec<Versioned>>()),
        ("Vec<One>", schema_id::<Vec<One>>()),
    ];
    for (place, (name, id)) in ids.iter().enumerate() {
        for (other, other_id) in &ids[..place] {
            assert_ne!(id, other_id, "{name} and {other}");
        }
    }
}
