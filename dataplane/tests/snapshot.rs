//! A forwarder that holds the flows of another table answers as that table would.

mod common;

use common::{
    Bench,
    frames::{Segment, tcp},
    services,
};
use dataplane::{
    forward::{Explanation, FlowId, Forwarder, Selection},
    service::Protocol,
};

#[test]
fn it_answers_as_the_table_it_was_made_from() {
    let mut bench = Bench::new(&services::every_kind_of_vip(common::settings()));
    bench
        .send(&tcp("192.0.2.10:40000", "203.0.113.33:443", Segment::Syn))
        .expect("it is sent");
    let mut flows = Vec::new();
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        cursor = bench.forwarder.scan_flows(at, 1000, &mut |record| {
            flows.push((record.id, record.real, record.last_use_ns));
        });
    }
    assert_eq!(flows.len(), 1);
    let table = bench.control.table();
    let mut copy = Forwarder::of_flows([5, 6, 7, 8], table.clone(), &flows).expect("a table");

    // The VIP leaves the client's port out.
    let id = |port| {
        FlowId::new(
            ([192, 0, 2, 10], port).into(),
            ([203, 0, 113, 33], 443).into(),
            Protocol::Tcp,
        )
        .expect("one family")
    };
    assert_eq!(table.flow_key(&id(40_001)), Some(flows[0].0));
    assert_eq!(
        copy.flow(&id(40_001)),
        bench.forwarder.flow(&id(40_001)),
        "the same entry"
    );
    let explained = copy.explain(&id(40_002), bench.now_ns);
    assert_eq!(
        explained,
        bench.forwarder.explain(&id(40_002), bench.now_ns)
    );
    assert!(matches!(
        explained,
        Explanation::Selected {
            by: Selection::Table,
            ..
        }
    ));
    assert!(copy.remove_flow(&id(1)));
    assert_eq!((copy.flow_count(), bench.forwarder.flow_count()), (0, 1));
    let stray = FlowId::new(
        ([192, 0, 2, 10], 1).into(),
        ([192, 0, 2, 99], 2).into(),
        Protocol::Tcp,
    );
    assert_eq!(table.flow_key(&stray.expect("one family")), None);
}
