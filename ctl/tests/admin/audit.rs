//! Every change says what was and what is: in the answer as text and JSON, and so in the log.

use katran_xsk::admin::server::Limits;
use serde_json::json;

use crate::{
    clients::Served,
    commands::done,
    rig::{CONFIG, Rig},
};

const WEB: &str = "203.0.113.10:80/tcp";
const REAL: &str = "198.51.100.11";

#[test]
fn changes_have_the_values_before_and_after() {
    let served = Served::with(Rig::with_config(CONFIG, 1), Limits::default());
    let weight_and_more = format!("{WEB} real {REAL}");
    for (command, line) in [
        (
            format!("real weight {WEB} {REAL} 0"),
            format!("changed {weight_and_more} weight 1 -> 0"),
        ),
        (
            format!("real down {WEB} {REAL}"),
            format!("changed {weight_and_more} down false -> true"),
        ),
        (
            format!("real up {WEB} {REAL}"),
            format!("changed {weight_and_more} down true -> false"),
        ),
        (
            format!("real set {REAL} local"),
            format!("changed {weight_and_more} local false -> true"),
        ),
        (
            format!("real add {WEB} 198.51.100.13@7"),
            format!("added {WEB} real 198.51.100.13 weight 7"),
        ),
        (
            format!("real del {WEB} 198.51.100.13"),
            format!("removed {WEB} real 198.51.100.13 weight 7"),
        ),
        (
            format!("vip set {WEB} flags=global-lru,quic hash=maglev-v1"),
            format!("changed vip {WEB} hash maglev-v2 -> maglev-v1 flags none -> quic,global-lru"),
        ),
        (
            "vip add 203.0.113.20:53/udp flags=quic real=198.51.100.12".to_owned(),
            "added vip 203.0.113.20:53/udp hash maglev-v2 flags quic reals 1".to_owned(),
        ),
        (
            "vip del 203.0.113.20:53/udp".to_owned(),
            "removed vip 203.0.113.20:53/udp hash maglev-v2 flags quic reals 1".to_owned(),
        ),
        (
            "set balancer.connection_rate_cap 10".to_owned(),
            "changed balancer.connection_rate_cap 125000 -> 10".to_owned(),
        ),
        (
            "set balancer.source_v4 192.0.2.2".to_owned(),
            "changed balancer.source_v4 not set -> 192.0.2.2".to_owned(),
        ),
        (
            format!("src-route add {REAL} 192.0.2.0/24"),
            format!("added source route 192.0.2.0/24 real {REAL}"),
        ),
        (
            "src-route add 198.51.100.12 192.0.2.0/24".to_owned(),
            format!("changed source route 192.0.2.0/24 real {REAL} -> 198.51.100.12"),
        ),
        (
            format!("hc add 8 {REAL}"),
            format!("added mark 8 real {REAL}"),
        ),
        (
            "hc add 8 198.51.100.12".to_owned(),
            format!("changed mark 8 real {REAL} -> 198.51.100.12"),
        ),
        (
            format!("sid add {REAL} 103"),
            format!("added server id 103 real {REAL} valid true"),
        ),
        (
            "sid invalidate 103".to_owned(),
            "changed server id 103 valid true -> false".to_owned(),
        ),
    ] {
        let text = done(&served, &command);
        assert_eq!(text.lines().next(), Some(line.as_str()), "{command}");
    }
}

#[test]
fn a_reload_says_what_it_takes_back() {
    let served = Served::with(Rig::with_config(CONFIG, 1), Limits::default());
    let mut admin = served.connect();
    admin.result(&format!("real weight {WEB} {REAL} 9"));
    admin.result(&format!("real down {WEB} {REAL}"));
    let changes = admin.result("reload");
    assert_eq!(
        changes["reals_changed"],
        json!({
            "count": 1,
            "names": [format!("{WEB} real {REAL}")],
            "values": [[
                {"field": "weight", "old": 9, "new": 1},
                {"field": "down", "old": true, "new": false},
            ]],
        })
    );
}
