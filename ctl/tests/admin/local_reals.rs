//! A real that is this host, by the admin socket.

use katran_xsk::{admin::server::Limits, config::Config};
use serde_json::{Value, json};

use crate::{
    clients::{Connection, Served},
    rig::{CONFIG, Rig},
};

const WEB: &str = "203.0.113.10:80/tcp";
const OTHER: &str = "203.0.113.11:80/tcp";
const HERE: &str = "192.0.2.254";

fn locals(admin: &mut Connection) -> Vec<(String, bool)> {
    let list = admin.result("real list");
    let rows = list["reals"].as_array().expect("a list");
    let of_here = rows.iter().filter(|row| row["real"] == HERE);
    of_here
        .map(|row| {
            let vip = row["vip"].as_str().expect("a name").to_owned();
            (vip, row["local"] == true)
        })
        .collect()
}

/// A balancer with [`HERE`] in two VIPs.
fn served() -> Served {
    let served = Served::with(Rig::with_config(CONFIG, 2), Limits::default());
    let mut admin = served.connect();
    admin.result(&format!("vip set {WEB} flags=local-vip"));
    admin.result(&format!("real add {WEB} {HERE}@1000000 local=true"));
    admin.result(&format!("vip add {OTHER}"));
    served
}

#[test]
fn a_flag_of_a_real_holds_in_every_vip() {
    let served = served();
    let mut admin = served.connect();
    let error = admin.error(&format!("real add {OTHER} {HERE}"));
    assert!(
        error["problem"].as_str().expect("words").contains("local"),
        "{error}"
    );
    admin.result(&format!("real add {OTHER} {HERE} local=true"));
    let both = |local| vec![(WEB.to_owned(), local), (OTHER.to_owned(), local)];
    assert_eq!(locals(&mut admin), both(true));
    let changes = admin.result(&format!("real unset {HERE} local"));
    assert_eq!(changes["reals_changed"]["count"], 2, "{changes}");
    assert_eq!(locals(&mut admin), both(false));
    let changes = admin.result(&format!("real unset {HERE} local"));
    assert_eq!(changes["reals_changed"]["count"], 0, "{changes}");
    let error = admin.error("real set 198.51.100.99 local");
    assert_eq!(error["field"], "real", "{error}");
}

#[test]
fn dump_has_it_and_reload_takes_it_back() {
    let served = served();
    let mut admin = served.connect();
    let dump = admin.result("dump")["toml"].clone();
    let config = Config::parse(dump.as_str().expect("text"), "dump").expect("valid");
    let real = config.vips[0].reals.iter().find(|real| real.local);
    assert_eq!(real.expect("a local one").address.to_string(), HERE);

    served.rig.write_file(dump.as_str().expect("text"));
    admin.result(&format!("real unset {HERE} local"));
    let changes = admin.result("reload");
    assert_eq!(
        changes["reals_changed"]["names"],
        json!([format!("{WEB} real {HERE}")])
    );
    assert_eq!(locals(&mut admin), [(WEB.to_owned(), true)]);
}

#[test]
fn explain_says_that_the_kernel_gets_it() {
    let served = served();
    let mut admin = served.connect();
    let mut explain = || -> Value { admin.result("explain 192.0.2.7:4000 203.0.113.10:80 tcp") };
    let explained = explain();
    assert_eq!(explained["verdict"], "pass", "{explained}");
    assert_eq!(explained["reason"], "local-real", "{explained}");
    assert_eq!(explained["real"], HERE, "{explained}");
    assert_eq!(explained["by"], "ring", "{explained}");
    assert_eq!(explained["outer_source"], Value::Null, "{explained}");
    served
        .connect()
        .result(&format!("vip unset {WEB} flags=local-vip"));
    let explained = explain();
    assert_eq!(explained["verdict"], "transmit", "{explained}");
    assert_eq!(explained["real"], HERE, "{explained}");
}
