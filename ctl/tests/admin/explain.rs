//! `explain`, and questions about flows that not every worker answers.

use katran_xsk::admin::server::Limits;
use serde_json::{Value, json};

use crate::{
    clients::Served,
    commands::ctl,
    rig::{CONFIG, Rig},
};

const WEB: &str = "203.0.113.10:80/tcp";
const CLIENT: &str = "192.0.2.1:4000";
const FLOW: &str = "192.0.2.1:4000 203.0.113.10:80 tcp";

/// VIPs that read server ids, each in its own way, and some that do not.
const SERVER_IDS: &str = r#"
[interface]
name = "test0"
queues = "0"
next_hop_mac = "02:00:00:00:cc:03"

[balancer]
flow_table_capacity = 1000

[[server_id]]
id = 7
real = "198.51.100.77"

[[server_id]]
id = 8
real = "198.51.100.78"
valid = false

[[vip]]
address = "203.0.113.10"
port = 443
protocol = "udp"
flags = ["quic"]
reals = [{ address = "198.51.100.11" }]

[[vip]]
address = "203.0.113.10"
port = 444
protocol = "udp"
flags = ["udp-stable-routing"]
reals = [{ address = "198.51.100.11" }]

[[vip]]
address = "203.0.113.10"
port = 445
protocol = "udp"
reals = [{ address = "198.51.100.11" }]

[[vip]]
address = "203.0.113.10"
port = 446
protocol = "tcp"
flags = ["udp-stable-routing"]
reals = [{ address = "198.51.100.11" }]

[[vip]]
address = "2001:db8::1"
port = 443
protocol = "udp"
flags = ["quic", "udp-stable-routing"]
reals = [{ address = "2001:db8::5" }]
"#;

fn stdout(served: &Served, words: &str) -> String {
    let output = ctl(&served.path, &[words]);
    assert_eq!(output.status.code(), Some(0), "{words}");
    String::from_utf8(output.stdout).expect("text")
}

/// Three workers; the flow is with one real in the table of the first, with another in that of the
/// second, and unknown to the third.
fn at_odds() -> (Served, [Value; 2]) {
    let served = Served::with(Rig::with_config(CONFIG, 3), Limits::default());
    let real_of = |queue| {
        let real = served.rig.real_of(queue, CLIENT, "203.0.113.10:80");
        real.expect("it leaves").to_string()
    };
    let first = real_of(0);
    let drain = format!("real weight {WEB} {first} 0");
    served.connect().result(&drain);
    let second = real_of(1);
    assert_ne!(first, second);
    (served, [first.into(), second.into()])
}

#[test]
fn explain_shows_every_real_with_its_workers() {
    let (served, [first, second]) = at_odds();
    let explained = served.connect().result(&format!("explain {FLOW}"));
    let (real, workers) = (&explained["real"], &explained["workers"]);
    assert_eq!((real, workers), (&first, &json!([0])), "{explained}");
    let other = |by: &str, workers: Value| json!({"verdict": "transmit", "reason": null, "real": second, "by": by, "passed_over": null, "workers": workers});
    assert_eq!(
        explained["others"],
        json!([other("table", json!([1])), other("ring", json!([2]))])
    );

    let text = stdout(&served, &format!("explain {FLOW}"));
    let (first, second) = (first.as_str().unwrap(), second.as_str().unwrap());
    for line in [
        format!("{WEB} sends it to {first}"),
        "by the flow table of the worker of queue 0".to_owned(),
        "the workers differ: it depends on the queue at which the packet arrives".to_owned(),
        format!("  queue 1: {second}, by the flow table"),
        format!("  queue 2: {second}, by the VIP's ring"),
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
}

#[test]
fn explain_says_nothing_of_workers_that_agree() {
    let served = Served::new();
    served.rig.send(0, CLIENT, "203.0.113.10:80");
    let explained = served.connect().result(&format!("explain {FLOW}"));
    assert_eq!(explained["by"], "table");
    assert_eq!(explained["others"], json!([]), "{explained}");
    let text = stdout(&served, &format!("explain {FLOW}"));
    assert!(!text.contains("differ"), "{text}");
}

#[test]
fn explain_says_that_nothing_leaves_without_a_next_hop() {
    let config = CONFIG.replace("next_hop_mac", "# next_hop_mac");
    let served = Served::with(Rig::with_config(&config, 1), Limits::default());
    let explained = served.connect().result(&format!("explain {FLOW}"));
    assert_eq!(explained["verdict"], "drop", "{explained}");
    assert_eq!(explained["reason"], "no-next-hop");
    assert!(explained["real"].is_string(), "{explained}");
    let text = stdout(&served, &format!("explain {FLOW}"));
    assert!(
        text.contains("the next hop is not known: dropped"),
        "{text}"
    );
}

#[test]
fn explain_says_what_a_server_id_does() {
    let served = Served::with(Rig::with_config(SERVER_IDS, 1), Limits::default());
    let check = |words: &str, by: &str, state: &str, line: &str| {
        let explained = served.connect().result(&format!("explain {words}"));
        assert_eq!(explained["by"], by, "{words}: {explained}");
        assert_eq!(
            explained["server_id"]["state"], state,
            "{words}: {explained}"
        );
        let text = stdout(&served, &format!("explain {words}"));
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    };
    let used = "by server id 7 in the packet's";
    for (port, protocol, by, state, line) in [
        (
            443,
            "udp",
            "server-id",
            "used",
            format!("{used} QUIC connection id: no table is asked"),
        ),
        (
            444,
            "udp",
            "server-id",
            "used",
            format!("{used} UDP payload: no table is asked"),
        ),
        (
            445,
            "udp",
            "ring",
            "not-read",
            "server id 7 is not read: the VIP has neither the flag quic nor udp-stable-routing"
                .to_owned(),
        ),
        (
            446,
            "tcp",
            "ring",
            "not-read",
            "server id 7 is not read: balancer.tcp_server_id is false".to_owned(),
        ),
    ] {
        let words = format!("{CLIENT} 203.0.113.10:{port} {protocol} sid=7");
        check(&words, by, state, &line);
    }
    for sid in [8, 9] {
        check(
            &format!("{CLIENT} 203.0.113.10:443 udp sid={sid}"),
            "ring",
            "unknown",
            &format!(
                "server id {sid} in the packet's QUIC connection id names no real, or is invalid: it decides nothing"
            ),
        );
    }
    check(
        "[2001:db8::9]:4000 [2001:db8::1]:443 udp sid=7",
        "ring",
        "wrong-family",
        "server id 7 in the packet's QUIC connection id or UDP payload names 198.51.100.77, to which \
         no IPv6 packet can go: it decides nothing",
    );

    served
        .rig
        .write_file(SERVER_IDS.replace("[balancer]", "[balancer]\ntcp_server_id = true"));
    served.connect().result("reload");
    check(
        &format!("{CLIENT} 203.0.113.10:446 tcp sid=7"),
        "server-id",
        "used",
        &format!("{used} TCP option: no table is asked"),
    );
    let explained = served
        .connect()
        .result(&format!("explain {CLIENT} 203.0.113.10:446 tcp"));
    assert_eq!(explained["server_id"], Value::Null, "{explained}");
}

#[test]
fn explain_says_why_a_table_does_not_decide() {
    let served = Served::new();
    served.rig.send(0, CLIENT, "203.0.113.10:80");
    let mut admin = served.connect();
    admin.result(&format!("vip set {WEB} flags=lru-bypass"));
    let explained = admin.result(&format!("explain {FLOW}"));
    assert_eq!(explained["passed_over"], "lru-bypass", "{explained}");
    let text = stdout(&served, &format!("explain {FLOW}"));
    let line = "by the VIP's ring: the VIP's flag lru-bypass leaves the flow table out";
    assert!(text.lines().any(|other| other == line), "{text}");
    admin.result(&format!("vip unset {WEB} flags=lru-bypass"));
    let explained = admin.result(&format!("explain {FLOW}"));
    assert_eq!(
        (&explained["by"], &explained["passed_over"]),
        (&"table".into(), &Value::Null)
    );
}

#[test]
fn explain_says_when_a_flow_leaves_a_real_that_is_down() {
    let served = Served::with(Rig::with_config(SERVER_IDS, 2), Limits::default());
    let mut admin = served.connect();
    let vip = "203.0.113.10:445/udp";
    admin.result(&format!("vip set {vip} flags=udp-flow-migration"));
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([192, 0, 2, 1], [203, 0, 113, 10], 64)
        .udp(4000, 445);
    let mut frame = Vec::new();
    builder
        .write(&mut frame, &[0; 8])
        .expect("the packet is valid");
    served.rig.send_frame(1, &frame).expect("it leaves");
    let words = format!("explain {CLIENT} 203.0.113.10:445 udp");
    assert_eq!(admin.result(&words)["by"], "table");
    admin.result(&format!("real down {vip} 198.51.100.11"));
    let explained = admin.result(&words);
    let (by, why) = (&explained["by"], &explained["passed_over"]);
    assert_eq!(
        (by, why),
        (&"ring".into(), &"real-down".into()),
        "{explained}"
    );
    let text = stdout(&served, &words);
    let line = "by the VIP's ring: the flow leaves the real in the flow table, which is down";
    assert!(text.lines().any(|other| other == line), "{text}");
}

#[test]
fn explain_is_asked_about_other_packets_than_data() {
    let served = Served::new();
    let mut admin = served.connect();
    let real = served
        .rig
        .real_of(0, CLIENT, "203.0.113.10:80")
        .expect("it leaves");
    admin.result(&format!("real weight {WEB} {real} 0"));
    let by = |explained: &Value| (explained["by"].clone(), explained["passed_over"].clone());
    let error = admin.result(&format!("explain {FLOW} error=true"));
    assert_eq!(by(&error), ("table".into(), Value::Null));
    let syn = admin.result(&format!("explain {FLOW} --syn"));
    assert_eq!(by(&syn), ("ring".into(), "syn".into()));
    assert_ne!(syn["real"], real.to_string());
    let text = stdout(&served, &format!("explain {FLOW} --syn"));
    assert!(
        text.contains("by the VIP's ring: a SYN asks no table"),
        "{text}"
    );

    let tunnel = format!("explain {FLOW} tunnel=198.18.5.1");
    let explained = admin.result(&tunnel);
    assert_eq!(
        explained["reason"], "not-a-decap-destination",
        "{explained}"
    );
    admin.result("decap add 198.18.5.1");
    let explained = admin.result(&tunnel);
    assert_eq!(
        (&explained["by"], &explained["tunnel"]),
        (&"table".into(), &"198.18.5.1".into())
    );
    let text = stdout(&served, &tunnel);
    let line = format!(
        "the tunnel's outer header is taken off; of the inner packet: {WEB} sends it to {real}"
    );
    assert!(text.lines().any(|other| other == line), "{text}");
}

#[test]
fn explain_says_when_the_worker_is_flooded() {
    let served = Served::new();
    let mut admin = served.connect();
    admin.result("set balancer.connection_rate_cap 1");
    let explained = admin.result(&format!("explain {FLOW}"));
    assert_eq!(explained["flooded"], Value::Null, "{explained}");
    // It lasts for the rest of a second, which may be over before the question comes.
    let flooded = (0..100).any(|round| {
        for port in 0..3 {
            let client = format!("192.0.2.1:{}", 5000 + 3 * round + port);
            served.rig.send(0, &client, "203.0.113.10:80");
        }
        admin.result(&format!("explain {FLOW}"))["flooded"] == true
    });
    assert!(flooded);
}

#[test]
fn an_answer_without_a_worker_is_incomplete() {
    let served = Served::new();
    served.rig.send(0, CLIENT, "203.0.113.10:80");
    served.rig.handles[1].stop();
    for words in [
        format!("explain {FLOW}"),
        format!("flow get {FLOW}"),
        "flow list".to_owned(),
        "flow count".to_owned(),
        "flow analyze".to_owned(),
        format!("flow del {FLOW}"),
        format!("flow purge {WEB}"),
    ] {
        for options in [&[][..], &["--json"]] {
            let output = ctl(&served.path, &[options, &[words.as_str()]].concat());
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                stderr,
                "katran-xsk: worker: the answer is incomplete: that of queue 1 is missing (the worker \
                 does not run any more); look at `show workers`\n",
                "{words}"
            );
            assert_eq!(output.status.code(), Some(1), "{words}");
            assert!(!output.stdout.is_empty(), "{words}");
        }
    }
}

#[test]
fn flows_of_what_there_is_not_are_errors() {
    let served = Served::new();
    let mut admin = served.connect();
    for words in ["flow list", "flow count", "flow purge"] {
        let error = admin.error(&format!("{words} {WEB} real=198.51.100.99"));
        assert_eq!(error["field"], "real", "{words}: {error}");
        let problem = error["problem"].as_str().unwrap();
        assert!(problem.contains("198.51.100.99"), "{words}: {error}");
    }
    for words in ["flow del", "flow get"] {
        let error = admin.error(&format!("{words} {CLIENT} 203.0.113.10:81 tcp"));
        assert_eq!(error["field"], "destination", "{words}: {error}");
        let problem = error["problem"].as_str().unwrap();
        assert!(problem.contains("203.0.113.10:81/tcp"), "{words}: {error}");
    }
    assert_eq!(
        stdout(&served, &format!("flow del {FLOW}")),
        "removed 0 flows\n"
    );
    let purge = format!("flow purge {WEB} real=198.51.100.11");
    assert_eq!(stdout(&served, &purge), "removed 0 flows\n");

    // A removed real is known for as long as flows may be with it.
    let real = served
        .rig
        .real_of(0, CLIENT, "203.0.113.10:80")
        .expect("it leaves");
    admin.result(&format!("real del {WEB} {real}"));
    let purge = format!("flow purge {WEB} real={real}");
    assert_eq!(stdout(&served, &purge), "removed 1 flow: 1 of queue 0\n");
}
