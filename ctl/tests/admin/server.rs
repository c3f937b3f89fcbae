//! What the admin socket answers.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt as _,
};

use serde_json::{Value, json};

use crate::{
    clients::Served,
    rig::{CONFIG, Rig, wait_until},
};

const WEB: &str = "203.0.113.10:80/tcp";

#[test]
fn json_and_words_are_answered_in_order() {
    let served = Served::new();
    let mut client = served.connect();
    assert!(client.send(
        b"version\n\r\n   \n{\"version\":1,\"id\":{\"n\":7},\"command\":\"version\"}\r\nnonsense\nhelp vip add"
    ));
    client.end();
    let first = client.receive().expect("an answer");
    assert_eq!(
        (&first["id"], &first["result"]["protocol"]),
        (&Value::Null, &json!(1))
    );
    assert_eq!(client.receive().expect("an answer")["id"], json!({"n": 7}));
    assert_eq!(
        client.receive().expect("an answer")["error"]["field"],
        "command"
    );
    // The last line needs no end.
    assert_eq!(
        client.receive().expect("an answer")["result"]["commands"][0]["command"],
        "vip add"
    );
    assert_eq!(client.receive(), None);
}

#[test]
fn vips_and_reals_are_managed() {
    let served = Served::new();
    let mut client = served.connect();
    let changes = client.result(
        r#"{"version":1,"command":"vip add","args":{"vip":"203.0.113.20:443/tcp","hash":"maglev-v1",
            "flags":["lru-bypass"],"real":["198.51.100.21@3","198.51.100.22"]}}"#
            .replace('\n', " ")
            .as_str(),
    );
    assert_eq!(
        changes["vips_added"],
        json!({"count": 1, "names": ["203.0.113.20:443/tcp"], "values": [[
            {"field": "hash", "old": null, "new": "maglev-v1"},
            {"field": "flags", "old": null, "new": ["lru-bypass"]},
            {"field": "reals", "old": null, "new": 2},
        ]]})
    );
    let row = &client.result("vip list 203.0.113.20:443/tcp")["vips"][0];
    assert_eq!(
        *row,
        json!({"vip": "203.0.113.20:443/tcp", "number": 2, "hash": "maglev-v1",
               "flags": ["lru-bypass"], "reals": 2, "weight": 4})
    );
    client.result("vip set 203.0.113.20:443/tcp flags=no-src-port hash=maglev-v2");
    client.result("vip unset 203.0.113.20:443/tcp flags=lru-bypass");
    let row = &client.result("vip list vip=203.0.113.20:443/tcp")["vips"][0];
    assert_eq!(
        (&row["hash"], &row["flags"]),
        (&json!("maglev-v2"), &json!(["no-src-port"]))
    );

    client.result("real add 203.0.113.20:443/tcp 198.51.100.23@4,198.51.100.24");
    client.result("real weight 203.0.113.20:443/tcp 198.51.100.21 0");
    client.result("real del 203.0.113.20:443/tcp 198.51.100.22 198.51.100.24");
    let reals = client.result("real list 203.0.113.20:443/tcp")["reals"].clone();
    let rows: Vec<_> = reals
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| {
            (
                row["real"].as_str().expect("an address"),
                row["weight"].as_u64().expect("a number"),
                row["share"].as_f64().expect("a number"),
            )
        })
        .collect();
    assert_eq!(
        rows,
        [("198.51.100.21", 0, 0.0), ("198.51.100.23", 4, 100.0)]
    );

    let page = client.result("real list limit=2 offset=1");
    assert_eq!((&page["total"], &page["offset"]), (&json!(5), &json!(1)));
    let names: Vec<_> = page["reals"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| &row["real"])
        .collect();
    assert_eq!(names, ["198.51.100.12", "2001:db8::5"]);

    client.result("vip del 203.0.113.20:443/tcp");
    assert_eq!(
        client.error("vip list 203.0.113.20:443/tcp")["field"],
        "vip"
    );
    assert_eq!(client.error("vip del 203.0.113.20:443/tcp")["field"], "vip");
    let error = client.error("vip add [2001:db8::1]:80/tcp real=198.51.100.1");
    let field = error["field"].as_str().expect("text");
    assert!(
        field.contains("[2001:db8::1]:80/tcp") && field.contains("reals[0]"),
        "{error}"
    );
}

#[test]
fn statistics_account_for_every_packet() {
    let served = Served::new();
    let mut client = served.connect();
    for port in 0..10 {
        let queue = port % 2;
        served.rig.send(
            queue,
            &format!("192.0.2.1:{}", 4000 + port),
            "203.0.113.10:80",
        );
    }
    // Not a VIP: passed, and refused by the missing way to the kernel.
    served.rig.send(0, "192.0.2.1:4000", "203.0.113.77:80");
    let stats = client.result("show stats");
    let packets = |value: &Value| value["packets"].as_u64().expect("a number");
    let frames = &stats["frames"];
    assert_eq!(packets(&frames["received"]), 11);
    assert_eq!(packets(&frames["transmitted"]), 10);
    assert_eq!(packets(&frames["dropped"]), 1);
    assert_eq!(frames["in_progress"], 0);
    let vip = &stats["vips"][0];
    assert_eq!(
        (&vip["vip"], &vip["packets"], &vip["bytes"]),
        (&json!(WEB), &json!(10), &json!(400))
    );
    let reals = stats["reals"].as_array().expect("a list");
    assert_eq!(reals.iter().map(packets).sum::<u64>(), 10);
    assert_eq!(stats["counters"]["flow-inserts"], 10);
    let of_workers = [0, 1].map(|at| stats["workers"][at]["counters"]["flow-inserts"].clone());
    assert_eq!(of_workers, [json!(5), json!(5)]);
    assert_eq!(vip["counters"]["ring-selections"], 10);
    let chosen = |real: &Value| {
        real["counters"]["ring-selections"]
            .as_u64()
            .expect("a number")
    };
    assert_eq!(reals.iter().map(chosen).sum::<u64>(), 10);
    assert_eq!(stats["xdp"]["redirected"], 0);
    assert_eq!(packets(&stats["workers"][0]["frames"]["received"]), 6);

    let one = client.result("show stats worker=1");
    assert_eq!(packets(&one["frames"]["received"]), 5);
    assert_eq!(one["vips"][0]["packets"], 5);
    assert_eq!(client.error("show stats worker=7")["field"], "worker");

    let drops = client.result("show drops")["drops"].clone();
    let failed = drops
        .as_array()
        .expect("a list")
        .iter()
        .find(|row| row["reason"] == "pass-failed");
    assert_eq!(
        failed.expect("the reason is listed")["workers"],
        json!([1, 0])
    );

    let workers = client.result("show workers");
    assert_eq!(workers["workers"][1]["running"], true);
    assert_eq!(workers["workers"][1]["flows"], 5);
    let memory = client.result("show memory")["parts"].clone();
    let flow_tables = memory
        .as_array()
        .expect("a list")
        .iter()
        .filter(|part| part["part"] == "flow tables");
    assert!(
        flow_tables.clone().count() == 2
            && flow_tables
                .clone()
                .all(|part| part["bytes"].as_u64() > Some(0))
    );
}

#[test]
fn a_vip_does_not_inherit_the_counts_of_its_number() {
    let served = Served::new();
    let mut client = served.connect();
    for port in 0..8 {
        served.rig.send(
            port % 2,
            &format!("192.0.2.1:{}", 4000 + port),
            "203.0.113.10:80",
        );
    }
    let number = client.result(&format!("vip list {WEB}"))["vips"][0]["number"].clone();
    // As many VIPs as there are numbers, so that every number is used again.
    let mut file = CONFIG
        .split("[[vip]]")
        .next()
        .expect("settings come first")
        .to_owned();
    for port in 1..=512 {
        let vip =
            format!("address = \"203.0.113.50\"\nport = {port}\nprotocol = \"tcp\"\nreals = []\n");
        file += "[[vip]]\n";
        file += &vip;
    }
    served.rig.write_file(file);
    client.result("reload");
    let list = client.result("vip list")["vips"].clone();
    let heir = list
        .as_array()
        .expect("a list")
        .iter()
        .find(|row| row["number"] == number);
    let heir = heir.expect("the number is in use")["vip"]
        .as_str()
        .expect("text")
        .to_owned();
    let of_heir = |stats: &Value| {
        let rows = stats["vips"].as_array().expect("a list");
        rows.iter()
            .find(|row| row["vip"] == heir.as_str())
            .expect("it is listed")["packets"]
            .clone()
    };
    assert_eq!(of_heir(&client.result("show stats")), 0);
    let generation =
        client.result(&format!("real add {heir} 198.51.100.11"))["generation"].as_u64();
    let counters = served.rig.handles[1].counters();
    wait_until("the worker follows", || {
        Some(counters.generation.get()) == generation
    });
    let destination = heir.trim_end_matches("/tcp");
    assert!(served.rig.send(1, "192.0.2.1:9", destination).is_some());
    assert_eq!(of_heir(&client.result("show stats")), 1);
}

#[test]
fn flows_are_found_counted_and_forgotten() {
    let served = Served::new();
    let mut client = served.connect();
    let reals: Vec<Ipv4Addr> = (0..30)
        .map(|n| {
            let client = format!("192.0.2.1:{}", 4000 + n);
            served
                .rig
                .real_of(n % 2, &client, "203.0.113.10:80")
                .expect("transmitted")
        })
        .collect();
    let first = Ipv4Addr::new(198, 51, 100, 11);
    let on_first = reals.iter().filter(|real| **real == first).count();
    assert!((1..30).contains(&on_first));

    assert_eq!(client.result("flow count")["total"], 30);
    assert_eq!(client.result("flow count worker=1")["total"], 15);
    assert_eq!(
        client.result(&format!("flow count {WEB} real={first}"))["total"],
        on_first
    );
    assert_eq!(
        client.result("flow count [2001:db8:a::/96]:53/udp")["total"],
        0
    );
    assert_eq!(client.error("flow count 203.0.113.1:1/tcp")["field"], "vip");

    let list = client.result("flow list limit=7");
    assert_eq!(
        (list["flows"].as_array().map(Vec::len), &list["more"]),
        (Some(7), &json!(true))
    );
    let list = client.result("flow list");
    assert_eq!(
        (list["flows"].as_array().map(Vec::len), &list["more"]),
        (Some(30), &json!(false))
    );

    let flow = "192.0.2.1:4003 203.0.113.10:80 tcp";
    let found = client.result(&format!("flow get {flow}"))["flows"].clone();
    assert_eq!(
        found,
        json!([{"worker": 1, "source": "192.0.2.1:4003", "destination": "203.0.113.10:80",
                "protocol": "tcp", "real": reals[3], "idle_ms": null}])
    );
    assert_eq!(client.result(&format!("flow del {flow}"))["removed"], 1);
    assert_eq!(client.result(&format!("flow del {flow}"))["removed"], 0);
    assert_eq!(client.error(&format!("flow get {flow}"))["field"], "flow");

    let gone = usize::from(reals[3] == first);
    let removed = client.result(&format!("flow purge {WEB} real={first}"));
    assert_eq!(removed["removed"], on_first - gone);
    assert_eq!(
        client.result(&format!("flow purge {WEB}"))["removed"],
        29 - (on_first - gone)
    );
    assert_eq!(client.result("flow count")["total"], 0);
}

#[test]
fn statistics_of_one_vip_or_worker_have_nothing_else() {
    let served = Served::new();
    let mut client = served.connect();
    let rows = |value: &Value, list: &str| value[list].as_array().map_or(0, Vec::len);
    let all = client.result("show stats");
    assert_eq!((rows(&all, "vips"), rows(&all, "reals")), (2, 3));
    assert_eq!(rows(&all, "workers"), 2);
    let one = client.result(&format!("show stats {WEB}"));
    assert_eq!((rows(&one, "vips"), rows(&one, "reals")), (1, 2));
    assert_eq!(rows(&one, "workers"), 0);
    assert_eq!((&one["counters"], &one["xdp"]), (&json!({}), &json!({})));
    let worker = client.result("show stats worker=1");
    assert_eq!(rows(&worker, "workers"), 1);
    assert_eq!(rows(&worker, "vips"), 2);
    assert_eq!(worker["xdp"], json!({}));
    assert_ne!(worker["counters"], json!({}));
    assert_eq!(client.error("show stats 203.0.113.1:1/tcp")["field"], "vip");
}

#[test]
fn explain_agrees_with_what_happens_and_changes_nothing() {
    let served = Served::new();
    let mut client = served.connect();
    let flow = "192.0.2.1:4000 203.0.113.10:80 tcp";
    let by_ring = client.result(&format!("explain {flow}"));
    assert_eq!(
        (&by_ring["by"], &by_ring["workers"]),
        (&json!("ring"), &json!([]))
    );
    assert_eq!(
        client.result("flow count")["total"],
        0,
        "explain made a flow"
    );

    let real = served
        .rig
        .real_of(1, "192.0.2.1:4000", "203.0.113.10:80")
        .expect("transmitted");
    assert_eq!(by_ring["real"], json!(real));
    client.result(&format!("real weight {WEB} {real} 0"));
    let by_table = client.result(&format!("explain {flow}"));
    assert_eq!(
        (&by_table["by"], &by_table["real"], &by_table["workers"]),
        (&json!("table"), &json!(real), &json!([1]))
    );
    assert_eq!(by_table["verdict"], "transmit");
    client.result(&format!("flow del {flow}"));
    let elsewhere = client.result(&format!("explain {flow}"));
    assert!(elsewhere["by"] == "ring" && elsewhere["real"] != json!(real));

    let pass = client.result("explain 192.0.2.1:4000 203.0.113.77:80 tcp");
    assert_eq!(
        (&pass["verdict"], &pass["reason"]),
        (&json!("pass"), &json!("not-a-vip"))
    );
    client.result(&format!("real del {WEB} 198.51.100.11 198.51.100.12"));
    let drop = client.result(&format!("explain {flow}"));
    assert_eq!(
        (&drop["verdict"], &drop["vip"]),
        (&json!("drop"), &json!(WEB))
    );
}

#[test]
fn a_stopped_worker_is_reported_and_the_others_answer() {
    let served = Served::new();
    let mut client = served.connect();
    served
        .rig
        .real_of(1, "192.0.2.1:4000", "203.0.113.10:80")
        .expect("transmitted");
    served.rig.handles[0].stop();
    let workers = client.result("show workers");
    assert_eq!(workers["workers"][0]["running"], false);
    let explained = client.result("explain 192.0.2.1:4000 203.0.113.10:80 tcp");
    assert_eq!(explained["by"], "table");
    assert_eq!(explained["failed"][0]["worker"], 0);
    assert_eq!(client.result("flow list")["failed"][0]["worker"], 0);
    served.rig.handles[1].stop();
    let error = client.error("explain 192.0.2.1:4000 203.0.113.10:80 tcp");
    assert_eq!(error["field"], "worker");
}

#[test]
fn a_flooded_worker_says_so() {
    let served = Served::new();
    let mut client = served.connect();
    let cap = |cap| {
        let line = format!("flow_table_capacity = 1000\nconnection_rate_cap = {cap}");
        let file = CONFIG.replace("flow_table_capacity = 1000", &line);
        served.rig.file.lock().unwrap().clone_from(&file);
    };
    cap(1);
    let changes = client.result("reload");
    assert_eq!(
        changes["settings"]["names"],
        json!(["balancer.connection_rate_cap"])
    );
    // A window lasts a second; a busy machine may need more than one to get here.
    let mut clients = (4000..).map(|port| format!("192.0.2.1:{port}"));
    wait_until("the worker is flooded", || {
        for client in clients.by_ref().take(2) {
            let sent = served.rig.real_of(1, &client, "203.0.113.10:80");
            sent.expect("transmitted");
        }
        let workers = client.result("show workers")["workers"].clone();
        assert_eq!(workers[0]["flooded"], false);
        let events = workers[1]["connection_events"].as_u64().expect("a number");
        assert_eq!(workers[1]["flooded"], events > 1);
        events > 1
    });
    assert_eq!(
        client.result("show config")["balancer"]["connection_rate_cap"],
        1
    );
}

#[test]
fn configuration_is_shown_dumped_and_reloaded() {
    let served = Served::new();
    let mut client = served.connect();
    let shown = client.result("show config");
    assert_eq!(shown["interface"], "test0");
    assert_eq!(shown["queues"], json!([0, 1]));
    assert_eq!(shown["next_hop_mac"], "02:00:00:00:cc:03");
    assert_eq!(shown["balancer"]["flow_table_capacity"], 1000);
    client.result("vip add 203.0.113.20:443/tcp real=198.51.100.21");
    let dump = client.result("dump")["toml"]
        .as_str()
        .expect("text")
        .to_owned();
    client.result("vip del 203.0.113.20:443/tcp");
    served.rig.write_file(dump);
    let changes = client.result("reload");
    assert_eq!(
        changes["vips_added"]["names"],
        json!(["203.0.113.20:443/tcp"])
    );
    served.rig.write_file("nonsense");
    assert!(
        client.error("reload")["field"]
            .as_str()
            .expect("text")
            .starts_with("lb.toml")
    );
}

#[test]
fn commands_from_the_socket_reach_the_packets() {
    let served = Served::new();
    let mut client = served.connect();
    client.result("vip add 203.0.113.30:80/tcp real=198.51.100.31");
    let generation = client.result("show config")["generation"]
        .as_u64()
        .expect("a number");
    let counters = served.rig.handles[0].counters();
    wait_until("the worker follows", || {
        counters.generation.get() == generation
    });
    let real = served.rig.real_of(0, "192.0.2.1:4000", "203.0.113.30:80");
    assert_eq!(real.map(IpAddr::from), "198.51.100.31".parse().ok());
}

#[test]
fn the_socket_has_its_permissions_and_goes_with_the_server() {
    let mut served = Served::new();
    let metadata = fs::symlink_metadata(&served.path).expect("the socket is there");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o660);
    let mut client = served.connect();
    client.result("version");
    served.stop();
    assert!(!served.path.exists());
    assert!(client.is_closed());
}

#[test]
fn large_answers_become_errors() {
    let limits = katran_xsk::admin::server::Limits {
        answer: 2000,
        ..Default::default()
    };
    let served = Served::with(Rig::new(), limits);
    let mut client = served.connect();
    let error = client.error("help");
    assert!(
        error["problem"].as_str().expect("text").contains("2000"),
        "{error}"
    );
    served.rig.write_file(many_reals(100));
    client.result("reload");
    let error = client.error("dump");
    assert!(
        error["remedy"]
            .as_str()
            .expect("text")
            .contains("real list"),
        "{error}"
    );
    client.result("version");
    let long = "x".repeat(3000);
    let answer = client.ask(&format!(
        r#"{{"version":1,"id":"{long}","command":"version"}}"#
    ));
    assert_eq!(
        (&answer["id"], &answer["ok"]),
        (&Value::Null, &json!(false))
    );
}

/// [`CONFIG`] with a VIP of this many reals.
fn many_reals(count: usize) -> String {
    let reals = (0..count).map(|real| {
        let address = Ipv4Addr::from_bits(0x0a00_0000 + real as u32);
        format!("{{ address = \"{address}\", weight = 1 }},\n")
    });
    let reals: String = reals.collect();
    format!(
        "{CONFIG}\n[[vip]]\naddress = \"203.0.113.30\"\nport = 80\nprotocol = \"tcp\"\nreals = [\n{reals}]\n"
    )
}

#[test]
fn large_answers_wait_for_each_other() {
    // There is room for one of them, and one command at a time.
    let limits = katran_xsk::admin::server::Limits {
        commands: 1,
        pending: 80 << 10,
        ..Default::default()
    };
    let served = Served::with(Rig::new(), limits);
    served.rig.write_file(many_reals(2000));
    served.connect().result("reload");
    let mut clients: Vec<_> = (0..8).map(|_| served.connect()).collect();
    for client in &mut clients {
        assert!(client.send(b"dump\nversion\n"));
    }
    for client in &mut clients {
        let dump = client.receive().expect("an answer");
        let length = dump["result"]["toml"].as_str().map(str::len);
        assert!(length > Some(80 << 10), "{length:?}");
        assert_eq!(client.receive().expect("an answer")["ok"], true);
    }
}
