//! Decap destinations come and go while packets flow.

use std::net::IpAddr;

use serde_json::Value;

use crate::{
    clients::Served,
    commands::{done, refused},
    rig::{CONFIG, tcp_frame, wait_until},
};

const VIP: &str = "203.0.113.10:80";
const DECAP: &str = "198.18.5.1";

/// A TCP packet for the VIP in an IPIP tunnel to the decap destination.
fn tunnel() -> Vec<u8> {
    let inner = tcp_frame("192.0.2.1:4000", VIP);
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([198, 18, 9, 9], [198, 18, 5, 1], 64)
        .write(&mut frame, etherparse::IpNumber::IPV4, &inner[14..])
        .expect("the packet is valid");
    frame
}

/// Every worker uses the newest table.
fn workers_follow(served: &Served) {
    let view = katran_xsk::control::lock(&served.rig.control).view();
    for handle in &served.rig.handles {
        wait_until("the worker takes the table", || {
            handle.counters().generation.get() == u64::from(view.table.generation())
        });
    }
}

#[test]
fn destinations_come_and_go() {
    let served = Served::new();
    let direct = served
        .rig
        .send(0, "192.0.2.1:4000", VIP)
        .expect("it is balanced");
    assert_eq!(served.rig.send_frame(0, &tunnel()), None, "nobody's tunnel");
    assert_eq!(
        done(&served, "decap list"),
        "no decap destinations\nIPIP, and GUE to port 6080\n"
    );

    let added = done(&served, &format!("decap add {DECAP}"));
    assert!(added.starts_with("added decap 198.18.5.1\n"), "{added}");
    done(&served, "decap add 2001:db8:5::1 egress=true");
    assert_eq!(
        done(&served, "decap list"),
        "ADDRESS        EGRESS\n\
         198.18.5.1     -\n\
         2001:db8:5::1  yes\n\
         IPIP, and GUE to port 6080\n"
    );
    let json: Value = serde_json::from_str(&done(&served, "--json decap list")).expect("JSON");
    let egress = &json["result"]["destinations"][1]["egress"];
    assert_eq!(
        (&json["result"]["gue_port"], egress),
        (&6080.into(), &true.into())
    );

    // The program knows them, and with how much room; the worker balances what is inside.
    let maps = served.rig.program.tunnels();
    let addresses: [IpAddr; 2] = [DECAP, "2001:db8:5::1"].map(|one| one.parse().unwrap());
    assert_eq!(maps.destinations, addresses);
    assert_eq!((maps.gue_port, maps.room), (6080, 40), "a real is IPv6");
    workers_follow(&served);
    let sent = served.rig.send_frame(1, &tunnel()).expect("it is balanced");
    assert_eq!(sent[30..34], direct[30..34], "the same real");
    assert_eq!(sent.len(), direct.len(), "one outer header");

    let text = done(&served, "explain 198.18.9.9:5 198.18.5.1:6080 udp");
    assert!(text.contains("its inner packet is balanced"), "{text}");
    let text = done(
        &served,
        "explain [2001:db8:9::9]:5 [2001:db8:5::1]:6080 udp",
    );
    assert!(text.contains("its inner packet is sent out"), "{text}");
    let text = done(&served, "explain 198.18.9.9:5 198.18.5.1:6080 tcp");
    assert!(text.contains("passed to the kernel"), "{text}");

    let stats: Value = serde_json::from_str(&done(&served, "--json show stats")).expect("JSON");
    let count = |name: &str| stats["result"]["counters"][name].as_u64();
    assert_eq!(count("decap-packets"), Some(1));
    assert_eq!(count("decap-outer-v4"), Some(1));
    assert_eq!(count("decap-cross-pop-v4"), Some(1));

    let removed = done(&served, &format!("decap del {DECAP},2001:db8:5::1"));
    assert!(removed.contains("removed decap 198.18.5.1\n"), "{removed}");
    assert!(served.rig.program.tunnels().destinations.is_empty());
    workers_follow(&served);
    assert_eq!(served.rig.send_frame(1, &tunnel()), None);
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let served = Served::new();
    done(&served, &format!("decap add {DECAP}"));
    let before = done(&served, "dump");
    for (line, part) in [
        ("decap add 198.18.5.1", "is a decap destination already"),
        (
            "decap add 198.18.5.1 egress=true",
            "`decap del 198.18.5.1` first",
        ),
        ("decap add 224.0.0.1", "is a multicast address"),
        ("decap del 198.18.5.2", "198.18.5.2 is no decap destination"),
        (
            "decap del 198.18.5.1,198.18.5.2",
            "`decap list` names those there are",
        ),
    ] {
        let problem = refused(&served, line);
        assert!(problem.contains(part), "{line}: {problem}");
    }
    served.rig.program.fail(1);
    let problem = refused(&served, "decap add 198.18.5.3");
    assert!(problem.contains("no space left in the map"), "{problem}");
    assert_eq!(done(&served, "dump"), before);
    assert_eq!(served.rig.program.tunnels().destinations.len(), 1);
}

#[test]
fn a_reload_says_what_it_changes() {
    let served = Served::new();
    let section =
        |address: &str, egress| format!("[[decap]]\naddress = \"{address}\"\negress = {egress}\n");
    let first = [section("198.18.5.1", false), section("198.18.5.2", false)].concat();
    served.rig.write_file(format!("{CONFIG}{first}"));
    done(&served, "reload");
    let second = [section("198.18.5.2", true), section("198.18.5.3", false)].concat();
    served.rig.write_file(format!("{CONFIG}{second}"));
    let text = done(&served, "reload");
    let expected = "added decap 198.18.5.3\nremoved decap 198.18.5.1\nchanged decap 198.18.5.2 egress \
         false -> true\n";
    assert!(text.starts_with(expected), "{text}");
    assert!(done(&served, "reload").starts_with("nothing changed\n"));
    assert!(
        done(&served, "dump").ends_with(&format!("\n{}", second.replacen("\n[[", "\n\n[[", 1)))
    );
}
