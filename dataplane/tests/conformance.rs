//! The flow hashes of the conformance data kept beside the repository, where it is present
//! (katran-compat section 2).

mod common;

use std::{
    fs,
    io::{self, ErrorKind, Write as _},
    net::{IpAddr, SocketAddr},
};

use common::{Bench, V4_REALS, V6_REALS, settings, vip};
use dataplane::{
    forward::{Explanation, FlowId},
    service::{Protocol, ServiceSpec, VipFlags},
};
use serde_json::Value;

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../shared/conformance/vectors.json"
);

fn number<T: TryFrom<u64>>(vector: &Value, key: &str) -> T {
    vector[key]
        .as_u64()
        .and_then(|number| number.try_into().ok())
        .unwrap_or_else(|| panic!("{key} is no such number in {vector}"))
}

#[test]
fn flow_hashes() {
    let text = match fs::read_to_string(FILE) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let line = "SKIPPED flow_hashes: no conformance data beside the repository\n";
            // Past the harness, which keeps to itself what `eprintln!` writes.
            let _ = io::stderr().write_all(line.as_bytes());
            return;
        }
        Err(error) => panic!("{FILE}: {error}"),
    };
    let vectors: Value = serde_json::from_str(&text).expect("JSON");
    let vectors = vectors["flow_hashes"].as_array().expect("a list");
    assert!(!vectors.is_empty());
    for vector in vectors {
        let source: IpAddr = vector["source"].as_str().unwrap().parse().unwrap();
        let (address, reals) = match source {
            IpAddr::V4(_) => ("203.0.113.10", V4_REALS),
            IpAddr::V6(_) => ("2001:db8:a::10", V6_REALS),
        };
        let port = number(vector, "destination_port");
        let served = if vector["wildcard_match"] == true {
            0
        } else {
            port
        };
        let flags = VipFlags::from_bits(number(vector, "vip_flags")).expect("known flags");
        let bench = Bench::new(&ServiceSpec {
            settings: settings(),
            vips: vec![vip(address, served, Protocol::Tcp, flags, reals)],
            ..ServiceSpec::default()
        });
        let flow = FlowId::new(
            SocketAddr::new(source, number(vector, "source_port")),
            SocketAddr::new(address.parse().unwrap(), port),
            Protocol::Tcp,
        );
        let explanation = bench.forwarder.explain(&flow.expect("one family"), 0);
        let Explanation::Selected {
            hash, ring_index, ..
        } = explanation
        else {
            panic!("{vector}: {explanation:?}");
        };
        let expected = (number(vector, "hash"), number(vector, "ring_index"));
        assert_eq!((hash, ring_index), expected, "{vector}");
    }
}
