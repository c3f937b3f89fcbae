//! `set` and `unset`.

use dataplane::service::Encapsulation;
use katran_xsk::admin::server::Limits;
use serde_json::json;

use crate::{clients::Served, rig::Rig};

const CONFIG: &str = r#"
[interface]
name = "test0"
queues = "0"
next_hop_mac = "02:00:00:00:cc:03"

[[vip]]
address = "203.0.113.10"
port = 80
protocol = "tcp"
reals = [{ address = "198.51.100.11" }]
"#;

#[test]
fn settings_change_while_packets_flow() {
    let served = Served::with(Rig::with_config(CONFIG, 1), Limits::default());
    let mut client = served.connect();
    let in_force = |key: &str| {
        let config = served.connect().result("show config");
        config["balancer"][key].clone()
    };
    // As with no file at all, from which nothing of this could be reloaded.
    for (command, key, value) in [
        ("set balancer.max_frame 1400", "max_frame", json!(1400)),
        (
            "set balancer.icmp_too_big true",
            "icmp_too_big",
            json!(true),
        ),
        (
            "set balancer.source_v4 192.0.2.1",
            "source_v4",
            json!("192.0.2.1"),
        ),
        (
            "set balancer.encapsulation gue",
            "encapsulation",
            json!("gue"),
        ),
        ("unset balancer.max_frame", "max_frame", json!(1514)),
    ] {
        let changed = client.result(command);
        let names = json!([format!("balancer.{key}")]);
        assert_eq!(changed["settings"]["names"], names, "{command}: {changed}");
        assert_eq!(in_force(key), value, "{command}");
    }
    let control = served.rig.control.lock().unwrap();
    let table = control.view().table;
    assert!(matches!(
        table.settings().encapsulation,
        Encapsulation::Gue { .. }
    ));
    assert_eq!(table.vips().count(), 1, "the VIP is still there");
}

#[test]
fn what_cannot_be_set_is_refused_and_named() {
    let served = Served::with(Rig::with_config(CONFIG, 1), Limits::default());
    let mut client = served.connect();
    let before = client.result("dump");
    for (command, field, problem) in [
        (
            "set balancer.max_frme 1400",
            "key",
            "`balancer.max_frme` is no setting",
        ),
        (
            "set interface.frames 128",
            "key",
            "`interface.frames` is no setting",
        ),
        (
            "set balancer.max_frame large",
            "balancer.max_frame",
            "large",
        ),
        (
            "set balancer.max_frame 100000",
            "balancer.max_frame",
            "100000",
        ),
        // No chunk of the sockets' memory holds them.
        (
            "set balancer.max_frame 2000",
            "balancer.max_frame",
            "does not fit the memory",
        ),
        // GUE needs a source.
        (
            "set balancer.encapsulation gue",
            "balancer.encapsulation",
            "needs an outer source",
        ),
        ("set balancer.icmp_too_big", "value", "missing"),
        ("unset balancer", "key", "`balancer` is no setting"),
    ] {
        let error = client.error(command);
        let of = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(of("field"), field, "{command}: {error}");
        assert!(of("problem").contains(problem), "{command}: {error}");
        assert!(!of("remedy").is_empty(), "{command}: {error}");
    }
    let remedy = client.error("set encapsulation gue")["remedy"].clone();
    assert_eq!(remedy, "write it with its section: balancer.encapsulation");
    assert_eq!(client.result("dump"), before);
}
