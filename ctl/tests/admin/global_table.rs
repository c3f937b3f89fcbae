//! A flow that moves between two running workers.

use katran_xsk::admin::server::Limits;
use serde_json::{Value, json};

use crate::{
    clients::Served,
    rig::{CONFIG, Rig, wait_until},
};

const WEB: &str = "203.0.113.10:80/tcp";
const DESTINATION: &str = "203.0.113.10:80";
const FLOW: &str = "192.0.2.7:4000 203.0.113.10:80 tcp";

/// The usual VIP with the flag.
fn served() -> Served {
    let config = CONFIG.replace(
        "port = 80\nprotocol = \"tcp\"",
        "port = 80\nprotocol = \"tcp\"\nflags = [\"global-lru\"]",
    );
    Served::with(Rig::with_config(&config, 2), Limits::default())
}

/// Gives all new flows to a real that has none yet, and waits until the workers know.
fn change_weights(served: &Served) {
    let mut admin = served.connect();
    admin.result(&format!("real add {WEB} 198.51.100.99"));
    for real in ["198.51.100.11", "198.51.100.12"] {
        admin.result(&format!("real weight {WEB} {real} 0"));
    }
    let generation = admin.result("show config")["generation"].as_u64();
    for handle in &served.rig.handles {
        wait_until("the worker takes the table", || {
            Some(handle.counters().generation.get()) == generation
        });
    }
}

#[test]
fn a_flow_keeps_its_real_on_another_queue() {
    let served = served();
    let real = |queue: usize, n: u32| {
        let real = served
            .rig
            .real_of(queue, &format!("192.0.2.7:{}", 4000 + n), DESTINATION);
        real.expect("it is transmitted")
    };
    let before: Vec<_> = (0..50).map(|n| real(0, n)).collect();
    change_weights(&served);
    let after: Vec<_> = (0..50).map(|n| real(1, n)).collect();
    assert_eq!(before, after);
    assert_eq!(
        real(1, 1000).to_string(),
        "198.51.100.99",
        "a flow that is new"
    );
    let stats = served.connect().result("show stats");
    assert_eq!(stats["counters"]["global-table-hits"], 50);
}

#[test]
fn without_the_flag_it_does_not() {
    let served = Served::new();
    let first = served.rig.real_of(0, "192.0.2.7:4000", DESTINATION);
    change_weights(&served);
    let second = served.rig.real_of(1, "192.0.2.7:4000", DESTINATION);
    assert_ne!(first, second);
    let memory = served.connect().result("show memory");
    assert!(!memory.to_string().contains("global"), "{memory}");
    assert_eq!(served.connect().result("flow count")["global"], Value::Null);
}

#[test]
fn the_table_is_shown_and_emptied() {
    let served = served();
    let mut admin = served.connect();
    let real = served.rig.real_of(0, "192.0.2.7:4000", DESTINATION);
    let real = real.expect("it is transmitted").to_string();
    served.rig.real_of(0, "192.0.2.7:4001", DESTINATION);
    let workers = |list: &Value| -> Vec<Value> {
        let flows = list["flows"].as_array().expect("a list").iter();
        flows
            .map(|flow| {
                assert_eq!(flow["idle_ms"], Value::Null, "{flow}");
                flow["worker"].clone()
            })
            .collect()
    };
    let got = admin.result(&format!("flow get {FLOW}"));
    assert_eq!(workers(&got), [json!(0), Value::Null]);
    assert_eq!(got["flows"][1]["real"], real.as_str());
    let list = admin.result(&format!("flow list {WEB}"));
    assert_eq!(
        workers(&list),
        [json!(0), json!(0), Value::Null, Value::Null]
    );
    let list = admin.result("flow list limit=3");
    assert_eq!((workers(&list).len(), &list["more"]), (3, &json!(true)));
    let list = admin.result("flow list limit=4");
    assert_eq!((workers(&list).len(), &list["more"]), (4, &json!(false)));
    assert_eq!(workers(&admin.result("flow list worker=0")).len(), 2);
    let counts = admin.result(&format!("flow count {WEB} real={real}"));
    assert_eq!(counts["total"], counts["global"], "{counts}");
    let memory = admin.result("show memory");
    assert!(memory.to_string().contains("global flow table"), "{memory}");

    change_weights(&served);
    let explained = admin.result(&format!("explain {FLOW}"));
    assert_eq!(explained["by"], "table", "{explained}");
    // Worker 0's tables alone; a packet at worker 0 finds it again.
    let removed = admin.result(&format!("flow purge {WEB} worker=1"));
    assert_eq!(
        (&removed["removed"], &removed["global"]),
        (&json!(0), &json!(0))
    );
    let removed = admin.result(&format!("flow del {FLOW}"));
    assert_eq!(removed["removed"], 1);
    assert_eq!(removed["global"], 1);
    assert_eq!(removed["workers"][0]["worker"], 0);
    assert_eq!(admin.result(&format!("explain {FLOW}"))["by"], "ring");
    let removed = admin.result(&format!("flow purge {WEB}"));
    assert_eq!(removed["removed"], 1);
    assert_eq!(admin.result("flow count")["global"], 0);
}

#[test]
fn explain_names_the_table_for_a_worker_that_does_not_have_the_flow() {
    let config = CONFIG
        .replace(
            "port = 80\nprotocol = \"tcp\"",
            "port = 80\nprotocol = \"tcp\"\nflags = [\"global-lru\"]",
        )
        // Some more flows take the place of this one in its worker's table.
        .replace("flow_table_capacity = 1000", "flow_table_capacity = 1");
    let served = Served::with(Rig::with_config(&config, 2), Limits::default());
    let real = served.rig.real_of(0, "192.0.2.7:4000", DESTINATION);
    for n in 1..100 {
        let client = format!("192.0.2.7:{}", 4000 + n);
        served.rig.real_of(0, &client, DESTINATION);
    }
    change_weights(&served);
    let explained = served.connect().result(&format!("explain {FLOW}"));
    assert_eq!(explained["by"], "global-table", "{explained}");
    assert_eq!(
        explained["real"],
        real.expect("sent").to_string(),
        "{explained}"
    );
    assert_eq!(explained["workers"], json!([]), "{explained}");
}

#[test]
fn the_capacity_can_change_and_the_file_has_it() {
    let served = served();
    let mut admin = served.connect();
    served.rig.real_of(0, "192.0.2.7:4000", DESTINATION);
    assert_eq!(admin.result("flow count")["global"], 1);
    let dump = admin.result("dump")["toml"]
        .as_str()
        .expect("text")
        .to_owned();
    assert!(
        !dump.contains("global_table_capacity"),
        "the default is not written"
    );
    served
        .rig
        .write_file(dump.replace("[balancer]\n", "[balancer]\nglobal_table_capacity = 800\n"));
    let changes = admin.result("reload");
    assert_eq!(
        changes["settings"]["names"],
        json!(["balancer.global_table_capacity"])
    );
    let warning = changes["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("starts empty"), "{warning}");
    assert_eq!(admin.result("flow count")["global"], 0, "it starts empty");
    assert_eq!(
        admin.result("show config")["balancer"]["global_table_capacity"],
        800
    );
    assert!(
        admin.result("dump")["toml"]
            .as_str()
            .expect("text")
            .contains("= 800\n")
    );
    let memory = admin.result("show memory");
    let parts = memory["parts"].as_array().expect("a list");
    let part = parts
        .iter()
        .find(|part| part["part"] == "global flow table");
    assert_eq!(part.expect("it is there")["bytes"], 800 * 64);
    // Nothing of the VIP's needs it any more.
    admin.result(&format!("vip unset {WEB} flags=global-lru"));
    assert_eq!(admin.result("flow count")["global"], Value::Null);
}
