//! Reals that are down, by the admin socket.

use katran_xsk::config::Config;
use serde_json::{Value, json};

use crate::clients::{Connection, Served};

const DNS: &str = "203.0.113.53:53/udp";
const REALS: [&str; 2] = ["198.51.100.21", "198.51.100.22"];

fn served() -> Served {
    let served = Served::new();
    let [one, two] = REALS;
    served.connect().result(&format!(
        "vip add {DNS} flags=udp-flow-migration real={one},{two}"
    ));
    served
}

fn down(admin: &mut Connection) -> Vec<Value> {
    let list = admin.result(&format!("real list {DNS}"));
    let rows = list["reals"].as_array().expect("a list");
    rows.iter().map(|row| row["down"].clone()).collect()
}

#[test]
fn reals_go_down_and_come_up() {
    let served = served();
    let mut admin = served.connect();
    let [one, two] = REALS;
    assert_eq!(down(&mut admin), [json!(false), json!(false)]);
    let changes = admin.result(&format!("real down {DNS} {one} {two}"));
    assert_eq!(changes["reals_changed"]["count"], 2, "{changes}");
    admin.result(&format!("real up {DNS} {one}"));
    assert_eq!(down(&mut admin), [json!(false), json!(true)]);
    let changes = admin.result(&format!("real up {DNS} {one}"));
    assert_eq!(changes["reals_changed"]["count"], 0, "{changes}");
    let error = admin.error(&format!("real down {DNS} 198.51.100.99"));
    assert_eq!(error["field"], "real", "{error}");
    assert_eq!(down(&mut admin), [json!(false), json!(true)]);
}

#[test]
fn a_real_that_only_a_route_names_goes_down_as_the_refusal_says() {
    let served = served();
    let mut admin = served.connect();
    let routed = "198.51.100.99";
    admin.result(&format!("vip set {DNS} flags=src-routing"));
    admin.result(&format!("src-route add {routed} 192.0.2.0/24"));
    for command in [
        format!("real down {DNS} {routed}"),
        format!("real set {routed} local"),
    ] {
        let error = admin.error(&command);
        let remedy = error["remedy"].as_str().expect("text");
        assert!(remedy.contains(&format!("{routed}@0")), "{error}");
    }
    let shares = |admin: &mut Connection| -> Vec<Value> {
        let list = admin.result(&format!("real list {DNS}"));
        let rows = list["reals"].as_array().expect("a list");
        rows.iter().map(|row| row["share"].clone()).collect()
    };
    let before = shares(&mut admin);
    admin.result(&format!("real add {DNS} {routed}@0"));
    admin.result(&format!("real down {DNS} {routed}"));
    assert_eq!(down(&mut admin), [json!(false), json!(false), json!(true)]);
    let after = shares(&mut admin);
    assert_eq!(after[..2], before, "the ring is the same");
    assert_eq!(after[2], json!(0.0));
}

#[test]
fn the_mark_is_dumped_and_warned_of() {
    let served = served();
    let mut admin = served.connect();
    let [one, _] = REALS;
    admin.result(&format!("real down {DNS} {one}"));
    let toml = admin.result("dump")["toml"]
        .as_str()
        .expect("text")
        .to_owned();
    let config = Config::parse(&toml, "dump").expect("a valid file");
    let dns = config.vips.iter().find(|vip| vip.key.to_string() == DNS);
    let marks: Vec<bool> = dns
        .expect("the VIP")
        .reals
        .iter()
        .map(|real| real.down)
        .collect();
    assert_eq!(marks, [true, false]);

    let warnings = |toml: &str| -> Vec<String> {
        let warnings = Config::parse(toml, "dump")
            .expect("a valid file")
            .warnings();
        warnings.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        warnings(&toml),
        [
            "vip[2] (203.0.113.53:53/udp).reals[0].weight: the real is down and still has a share of the \
          ring: flows come back to it; give it weight 0 as well"
        ]
    );
    admin.result(&format!("real weight {DNS} {one} 0"));
    admin.result(&format!("vip unset {DNS} flags=udp-flow-migration"));
    let toml = admin.result("dump")["toml"]
        .as_str()
        .expect("text")
        .to_owned();
    assert_eq!(
        warnings(&toml),
        [
            "vip[2] (203.0.113.53:53/udp).reals[0].down: the VIP does not have the flag \
          udp-flow-migration: flows stay with this real; add the flag, or remove down = true"
        ]
    );
}
