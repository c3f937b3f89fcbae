//! The conformance data kept beside the repository, where it is present.

use std::io::{self, Write as _};
use std::path::Path;

use maglev::{DEFAULT_RING_SIZE, Endpoint, HashFunction, Permutation, Ring, endpoint_hash};
use serde_json::Value;

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../shared/conformance/vectors.json"
);

/// The file's content, or `None` when there is no such file, said aloud. It is no part of the
/// repository, so its absence is nowhere a failure.
fn vectors(test: &str) -> Option<Value> {
    if !Path::new(FILE).exists() {
        let line = format!("SKIPPED {test}: no conformance data beside the repository\n");
        // Past the harness, which keeps to itself what `eprintln!` writes.
        let _ = io::stderr().write_all(line.as_bytes());
        return None;
    }
    let text = std::fs::read_to_string(FILE).expect("the conformance vectors can be read");
    Some(serde_json::from_str(&text).expect("the conformance vectors are JSON"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    let list = value[key].as_array().map_or(&[] as &[_], Vec::as_slice);
    assert!(!list.is_empty(), "{key} is no list or empty in {value}");
    list
}

fn number(value: &Value, key: &str) -> u32 {
    value[key]
        .as_u64()
        .and_then(|n| n.try_into().ok())
        .unwrap_or_else(|| panic!("{key} is no 32-bit number in {value}"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} is no string in {value}"))
}

#[test]
fn endpoint_hashes() {
    let Some(vectors) = vectors("endpoint_hashes") else {
        return;
    };
    for vector in list(&vectors, "endpoint_hashes") {
        let hash = endpoint_hash(text(vector, "address").parse().unwrap());
        let expected = Permutation {
            offset: number(vector, "offset"),
            skip: number(vector, "skip"),
        };
        assert_eq!(hash.to_string(), text(vector, "hash"), "{vector}");
        assert_eq!(
            Permutation::of(hash, DEFAULT_RING_SIZE),
            expected,
            "{vector}"
        );
    }
}

#[test]
fn rings() {
    let Some(vectors) = vectors("rings") else {
        return;
    };
    for vector in list(&vectors, "rings") {
        let function = match number(vector, "version") {
            1 => HashFunction::MaglevV1,
            2 => HashFunction::MaglevV2,
            version => panic!("unknown hash function {version}"),
        };
        let endpoints: Vec<_> = (1..)
            .zip(list(vector, "reals"))
            .map(|(n, real)| {
                Endpoint::new(
                    n,
                    number(real, "weight"),
                    text(real, "address").parse().unwrap(),
                )
            })
            .collect();
        let ring = Ring::build(function, DEFAULT_RING_SIZE, &endpoints).unwrap();
        let first: Vec<_> = list(vector, "first").iter().map(Value::as_u64).collect();
        let slots: Vec<_> = ring.slots().iter().map(|&n| Some(u64::from(n))).collect();
        assert_eq!(slots[..first.len()], first, "{vector}");
        let bytes: Vec<_> = ring
            .slots()
            .iter()
            .flat_map(|&n| u32::from(n).to_le_bytes())
            .collect();
        assert_eq!(crc32fast::hash(&bytes), number(vector, "crc32"), "{vector}");
    }
}
