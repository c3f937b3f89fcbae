//! Server ids, by the admin socket.

use std::net::IpAddr;

use katran_xsk::{config::Config, control::lock};
use serde_json::{Value, json};

use crate::clients::{Connection, Served};

const REAL: &str = "198.51.100.77";

fn list(admin: &mut Connection, words: &str) -> Vec<(u64, String, bool)> {
    let list = admin.result(words);
    let rows = list["server_ids"].as_array().expect("a list");
    let row = |row: &Value| {
        (
            row["id"].as_u64().expect("a number"),
            row["real"].as_str().expect("text").to_owned(),
            row["valid"].as_bool().expect("a truth value"),
        )
    };
    rows.iter().map(row).collect()
}

/// The real that workers take an id for.
fn known(served: &Served, id: u32) -> Option<IpAddr> {
    let table = lock(&served.rig.control).view().table;
    table.real_of_server_id(id).map(|real| real.address)
}

fn row(id: u64, real: &str, valid: bool) -> (u64, String, bool) {
    (id, real.to_owned(), valid)
}

#[test]
fn ids_come_change_and_go() {
    let served = Served::new();
    let mut admin = served.connect();
    assert_eq!(list(&mut admin, "sid list"), []);
    let changes = admin.result(&format!("sid add {REAL} 4097"));
    assert_eq!(
        changes["server_ids_added"]["names"],
        json!(["server id 4097"])
    );
    assert_eq!(
        changes["warnings"],
        json!([
            "server_id: no VIP reads server ids, so they name no packet's real; give a VIP the flag \
             quic or udp-stable-routing, or set tcp_server_id in [balancer]"
        ])
    );
    let changes = admin.result("sid add 2001:db8::5 7");
    assert_eq!(changes["warnings"], Value::Null, "once is enough");
    assert_eq!(
        list(&mut admin, "sid list"),
        [row(7, "2001:db8::5", true), row(4097, REAL, true)]
    );
    assert_eq!(list(&mut admin, "sid list offset=1").len(), 1);
    assert_eq!(list(&mut admin, "sid list real=2001:db8::5").len(), 1);
    assert_eq!(known(&served, 4097), REAL.parse().ok());

    let changes = admin.result("sid add 198.51.100.78 4097");
    assert_eq!(
        changes["warnings"],
        json!([format!("server id 4097 named {REAL} before")])
    );
    assert_eq!(changes["server_ids_changed"]["count"], 1);
    assert_eq!(known(&served, 4097), "198.51.100.78".parse().ok());

    let error = admin.error("sid del 7 8");
    assert_eq!(error["field"], "id", "{error}");
    assert!(known(&served, 7).is_some(), "nothing has changed");
    let changes = admin.result("sid del 7 4097");
    assert_eq!(changes["server_ids_removed"]["count"], 2);
    assert_eq!((known(&served, 7), known(&served, 4097)), (None, None));
    assert_eq!(list(&mut admin, "sid list"), []);
}

#[test]
fn what_is_invalid_is_listed_and_used_by_nobody() {
    let served = Served::new();
    let mut admin = served.connect();
    for id in [1, 2, 3] {
        admin.result(&format!("sid add {REAL} {id}"));
    }
    admin.result("sid add 198.51.100.78 4");
    let changes = admin.result("sid invalidate 1 4");
    assert_eq!(changes["server_ids_changed"]["count"], 2);
    assert_eq!((known(&served, 1), known(&served, 4)), (None, None));
    assert!(known(&served, 2).is_some());
    let changes = admin.result(&format!("sid invalidate real={REAL}"));
    assert_eq!(changes["server_ids_changed"]["count"], 2, "one was already");
    let all = |valid: [bool; 4]| -> Vec<_> {
        let reals = [REAL, REAL, REAL, "198.51.100.78"];
        let rows = (1..).zip(reals).zip(valid);
        rows.map(|((id, real), valid)| row(id, real, valid))
            .collect()
    };
    assert_eq!(list(&mut admin, "sid list"), all([false; 4]));
    admin.result(&format!("sid revalidate real={REAL}"));
    assert_eq!(list(&mut admin, "sid list"), all([true, true, true, false]));
    assert_eq!(known(&served, 3), REAL.parse().ok());
    // Adding it again is another way.
    admin.result("sid add 198.51.100.78 4");
    assert!(known(&served, 4).is_some());
    assert_eq!(admin.error("sid invalidate 9")["field"], "id");
    assert_eq!(
        admin.error("sid invalidate real=198.51.100.99")["field"],
        "real"
    );
}

#[test]
fn dump_and_reload_keep_what_is_invalid() {
    let served = Served::new();
    let mut admin = served.connect();
    admin.result(&format!("sid add {REAL} 1"));
    admin.result(&format!("sid add {REAL} 2"));
    admin.result("sid invalidate 2");
    let dump = admin.result("dump")["toml"]
        .as_str()
        .expect("text")
        .to_owned();
    let config = Config::parse(&dump, "dump").expect("valid");
    let valid: Vec<bool> = config.server_ids.iter().map(|id| id.valid).collect();
    assert_eq!(valid, [true, false]);
    served.rig.write_file(dump);
    let changes = admin.result("reload");
    assert_eq!(changes["server_ids_changed"], Value::Null, "{changes}");
    admin.result("sid revalidate 2");
    admin.result("sid del 1");
    admin.result("reload");
    assert_eq!(
        list(&mut admin, "sid list"),
        [row(1, REAL, true), row(2, REAL, false)]
    );
    assert_eq!(known(&served, 2), None);
}

#[test]
fn many_ids_come_in_one_command_and_other_changes_share_them() {
    let served = Served::new();
    let mut admin = served.connect();
    let changes = admin.result(&format!("sid add {REAL} 1-60000 70000"));
    assert_eq!(changes["server_ids_added"]["count"], 60_001);
    assert_eq!(known(&served, 60_000), REAL.parse().ok());
    assert_eq!(
        (known(&served, 60_001), known(&served, 70_000)),
        (None, REAL.parse().ok())
    );
    let server_ids = || lock(&served.rig.control).config().server_ids.clone();
    let before = server_ids();
    admin.result("real weight 203.0.113.10:80/tcp 198.51.100.11 7");
    let table = lock(&served.rig.control).view().table;
    assert!(before.shares(&server_ids()) && before.shares(table.server_ids()));

    let changes = admin.result("sid add 198.51.100.78 2-4 70001");
    assert_eq!(changes["server_ids_changed"]["count"], 3);
    assert_eq!(changes["server_ids_added"]["count"], 1);
    assert_eq!(
        changes["warnings"],
        json!([format!(
            "server id 2 named {REAL} before, and 2 more named other reals"
        )])
    );
    let changes = admin.result("sid del 1-60000");
    assert_eq!(changes["server_ids_removed"]["count"], 60_000);
    assert_eq!(
        list(&mut admin, "sid list"),
        [row(70_000, REAL, true), row(70_001, "198.51.100.78", true)]
    );
}
