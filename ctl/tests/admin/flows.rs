//! Walks over flow tables that are full.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    thread,
};

use katran_xsk::admin::server::Limits;
use serde_json::json;

use crate::{
    clients::Served,
    rig::{CONFIG, Rig},
};

const WEB: &str = "203.0.113.10:80/tcp";
const FLOWS: u32 = 50_000;

/// One client for each flow.
fn client(number: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from_bits(0x0a00_0000 + number), 4000)
}

/// A worker whose IPv4 table has as many flows as it is made for.
fn full() -> Served {
    let config = CONFIG
        .replace("capacity = 1000", &format!("capacity = {FLOWS}"))
        .replace("\"0-1\"", "\"0\"");
    let rig = Rig::with_config(&config, 1);
    rig.open_flows(0, (0..FLOWS).map(client), "203.0.113.10:80");
    Served::with(rig, Limits::default())
}

#[test]
fn walks_see_every_flow_of_a_full_table() {
    let served = full();
    let mut admin = served.connect();
    let total = admin.result("flow count")["total"].clone();
    // One flow in ten thousand finds both of its buckets full.
    assert!(
        total.as_u64() > Some(u64::from(FLOWS - FLOWS / 1000)),
        "{total}"
    );
    assert_eq!(admin.result(&format!("flow count {WEB}"))["total"], total);
    for limit in [1, 255, 256, 257, 10_000] {
        let list = admin.result(&format!("flow list limit={limit}"));
        let flows = list["flows"].as_array().expect("a list");
        assert_eq!((flows.len(), &list["more"]), (limit, &json!(true)));
    }
    let removed = admin.result(&format!("flow purge {WEB}"));
    assert_eq!(removed["removed"], total);
    assert_eq!(admin.result("flow count")["total"], 0);
}

#[test]
fn packets_go_on_while_a_full_table_is_walked() {
    let served = Arc::new(full());
    let walker = {
        let served = Arc::clone(&served);
        thread::spawn(move || {
            let mut admin = served.connect();
            // A real that has no flows.
            admin.result(&format!("real add {WEB} 198.51.100.99@0"));
            for _ in 0..5 {
                let list = admin.result("flow list limit=10000");
                assert_eq!(list["flows"].as_array().map(Vec::len), Some(10_000));
                // Nothing matches, so every slot is visited.
                let walk = format!("{WEB} real=198.51.100.99");
                assert_eq!(admin.result(&format!("flow count {walk}"))["total"], 0);
                assert_eq!(admin.result(&format!("flow purge {walk}"))["removed"], 0);
            }
        })
    };
    let mut sent = 0;
    while !walker.is_finished() || sent < 200 {
        let source = client(sent % FLOWS).to_string();
        let real = served.rig.real_of(0, &source, "203.0.113.10:80");
        assert!(real.is_some(), "packet {sent} was lost");
        sent += 1;
    }
    walker.join().expect("every walk comes to its end");
    let counters = served.rig.handles[0].counters();
    assert_eq!(counters.unaccounted(), 0);
    assert_eq!(
        counters.transmitted.packets.get(),
        u64::from(FLOWS + sent),
        "a packet was dropped"
    );
}

#[test]
fn flows_are_analyzed_by_vip() {
    let served = full();
    let mut admin = served.connect();
    let analysis = admin.result("flow analyze");
    let count = admin.result("flow count")["total"].clone();
    let expected = json!([{
        "vip": WEB, "flows": count, "stale_real": 0, "without_time": count,
        "under_30_s": 0, "from_30_to_60_s": 0, "over_60_s": 0,
    }]);
    assert_eq!(analysis["vips"], expected);
    assert_eq!(
        admin.result(&format!("flow analyze {WEB} worker=0"))["vips"],
        expected
    );
    let other = admin.result("flow analyze [2001:db8:a::/96]:53/udp");
    assert_eq!(other["vips"], json!([]));
    assert_eq!(admin.error("flow analyze worker=7")["field"], "worker");
    // Flows outlive their VIP.
    admin.result(&format!("vip del {WEB}"));
    assert_eq!(admin.result("flow analyze")["vips"][0]["vip"], json!(null));
    assert_eq!(admin.error(&format!("flow analyze {WEB}"))["field"], "vip");
}
