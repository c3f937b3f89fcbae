//! Source routes, by the admin socket.

use katran_xsk::config::Config;
use serde_json::json;

use crate::clients::{Connection, Served};

const WEB: &str = "203.0.113.10:80/tcp";
const REAL: &str = "198.51.100.20";

fn prefixes(admin: &mut Connection, arguments: &str) -> Vec<String> {
    let list = admin.result(&format!("src-route list {arguments}"));
    let rows = list["routes"].as_array().expect("a list");
    let prefix = |row: &serde_json::Value| row["prefix"].as_str().expect("text").to_owned();
    rows.iter().map(prefix).collect()
}

#[test]
fn routes_come_and_go() {
    let served = Served::new();
    let mut admin = served.connect();
    admin.result(&format!("vip set {WEB} flags=src-routing"));
    let changes = admin.result(&format!(
        "src-route add {REAL} 192.0.2.0/24 198.18.0.0/15 192.0.2.7"
    ));
    let values = json!([{"field": "real", "old": null, "new": REAL}]);
    assert_eq!(
        changes["source_routes_added"],
        json!({
            "count": 3,
            "names": [
                "source route 192.0.2.0/24",
                "source route 192.0.2.7/32",
                "source route 198.18.0.0/15",
            ],
            "values": [values, values, values],
        })
    );
    admin.result("src-route add 2001:db8::9 2001:db8:c::/48,192.0.2.64/26");
    let all = [
        "192.0.2.0/24",
        "192.0.2.7/32",
        "192.0.2.64/26",
        "198.18.0.0/15",
        "2001:db8:c::/48",
    ];
    assert_eq!(prefixes(&mut admin, ""), all);
    assert_eq!(prefixes(&mut admin, "limit=2 offset=1"), all[1..3]);
    assert_eq!(prefixes(&mut admin, "within=192.0.2.0/24"), all[..3]);
    assert_eq!(
        prefixes(&mut admin, "within=192.0.2.0/25 limit=1"),
        all[1..2]
    );
    assert_eq!(
        prefixes(&mut admin, &format!("real={REAL} offset=2")),
        all[3..4]
    );
    assert_eq!(admin.result("src-route list limit=1")["total"], 5);

    let route = |admin: &mut Connection, client: &str| {
        admin.result(&format!("src-route get {client}"))["route"].clone()
    };
    assert_eq!(
        route(&mut admin, "192.0.2.65"),
        json!({"prefix": "192.0.2.64/26", "real": "2001:db8::9"})
    );
    assert_eq!(route(&mut admin, "203.0.113.1"), json!(null));

    // Packets follow.
    let sent = served.rig.real_of(0, "192.0.2.1:4000", "203.0.113.10:80");
    assert_eq!(sent.expect("transmitted").to_string(), REAL);
    let explained = admin.result("explain 192.0.2.2:4000 203.0.113.10:80 tcp");
    assert_eq!(
        (&explained["by"], &explained["real"]),
        (&json!("source-route"), &json!(REAL))
    );

    // A prefix that is there gets the new real.
    let changes = admin.result("src-route add 198.51.100.21 192.0.2.0/24 192.0.3.0/24");
    assert_eq!(
        changes["source_routes_changed"]["names"],
        json!(["source route 192.0.2.0/24"])
    );
    assert_eq!(
        changes["source_routes_changed"]["values"],
        json!([[{"field": "real", "old": REAL, "new": "198.51.100.21"}]])
    );
    assert_eq!(
        changes["source_routes_added"]["names"],
        json!(["source route 192.0.3.0/24"])
    );
    admin.result("src-route del 192.0.3.0/24");
    assert_eq!(
        route(&mut admin, "192.0.2.1"),
        json!({"prefix": "192.0.2.0/24", "real": "198.51.100.21"})
    );
    admin.result("src-route del 192.0.2.0/24 2001:db8:c::/48");
    assert_eq!(prefixes(&mut admin, ""), all[1..4]);
    admin.result("src-route clear");
    assert_eq!(prefixes(&mut admin, ""), [""; 0]);
}

#[test]
fn wrong_changes_name_the_field_and_change_nothing() {
    let served = Served::new();
    let mut admin = served.connect();
    admin.result(&format!("src-route add {REAL} 192.0.2.0/24"));
    for (command, field, word) in [
        (
            format!("src-route add {REAL} 2001:db8::/32"),
            "real",
            "IPv6",
        ),
        (
            format!("src-route add {REAL} 198.18.0.0/15 198.18.0.0/15"),
            "prefix",
            "already",
        ),
        (
            "src-route add 224.0.0.1 198.18.0.0/15".to_owned(),
            "source_route",
            "multicast",
        ),
        (
            "src-route del 192.0.2.0/24 198.18.0.0/15".to_owned(),
            "prefix",
            "no source route",
        ),
    ] {
        let error = admin.error(&command);
        assert_eq!(error["field"], field, "{error}");
        assert!(
            error["problem"].as_str().expect("text").contains(word),
            "{error}"
        );
        assert_eq!(prefixes(&mut admin, ""), ["192.0.2.0/24"], "{command}");
    }
}

#[test]
fn routes_are_dumped_and_reload_takes_them_back() {
    let served = Served::new();
    let mut admin = served.connect();
    admin.result(&format!("src-route add {REAL} 192.0.2.0/24 198.18.0.0/15"));
    let dump = admin.result("dump");
    let config = Config::parse(dump["toml"].as_str().expect("text"), "dump").expect("a valid file");
    assert_eq!(config.source_routes.len(), 2);
    let changes = admin.result("reload");
    assert_eq!(changes["source_routes_removed"]["count"], 2);
    assert_eq!(prefixes(&mut admin, ""), [""; 0]);
}
