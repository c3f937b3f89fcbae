//! Changes of a running balancer: all or nothing, and nothing moves that need not.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
};

use dataplane::service::{HashFunction, MacAddress, RealSpec, VipFlags, VipKey};
use katran_xsk::{
    admin::command::parse_vip,
    config::{Config, ConfigError, Problem},
    control::{View, lock, reload},
};

use crate::rig::{CONFIG, Rig, parse, wait_until};

const WEB: &str = "203.0.113.10:80/tcp";
const DNS: &str = "[2001:db8:a::/96]:53/udp";

fn key(text: &str) -> VipKey {
    parse_vip(text).expect("a VIP")
}

fn real(address: &str, weight: u32) -> RealSpec {
    RealSpec {
        address: address.parse().expect("an address"),
        weight,
        local: false,
        down: false,
    }
}

fn view(rig: &Rig) -> View {
    lock(&rig.control).view()
}

fn config(rig: &Rig) -> Config {
    lock(&rig.control).config().clone()
}

/// Every worker uses the newest table.
fn workers_follow(rig: &Rig) {
    let generation = u64::from(view(rig).table.generation());
    for handle in &rig.handles {
        wait_until("the worker takes the table", || {
            handle.counters().generation.get() == generation
        });
    }
}

#[test]
fn a_change_reaches_workers_and_maps() {
    let rig = Rig::new();
    assert_eq!(rig.send(0, "192.0.2.1:4000", "203.0.113.99:443"), None);
    let changes = lock(&rig.control)
        .add_vip(
            key("203.0.113.99:443/tcp"),
            None,
            VipFlags::empty(),
            vec![real("198.51.100.44", 1)],
        )
        .expect("a valid VIP");
    assert_eq!(changes.vips_added.names, ["203.0.113.99:443/tcp"]);
    assert!(
        rig.program
            .vips()
            .contains(&"203.0.113.99:443/tcp".to_owned())
    );
    workers_follow(&rig);
    let address: IpAddr = rig
        .real_of(1, "192.0.2.1:4000", "203.0.113.99:443")
        .expect("it is transmitted")
        .into();
    assert_eq!(address, real("198.51.100.44", 1).address);

    lock(&rig.control)
        .delete_vip(&key("203.0.113.99:443/tcp"))
        .expect("it is there");
    assert!(
        !rig.program
            .vips()
            .contains(&"203.0.113.99:443/tcp".to_owned())
    );
    workers_follow(&rig);
    assert_eq!(rig.send(0, "192.0.2.1:4000", "203.0.113.99:443"), None);
}

#[test]
fn maps_that_fail_leave_the_old_configuration_running() {
    let rig = Rig::new();
    let (before, maps, old) = (config(&rig), rig.program.vips(), view(&rig).table);
    rig.program.fail(1);
    let error = lock(&rig.control)
        .add_vip(
            key("203.0.113.99:443/tcp"),
            None,
            VipFlags::empty(),
            vec![real("198.51.100.44", 1)],
        )
        .expect_err("the maps fail");
    assert_eq!(error.field, "xdp");
    assert!(
        error.problem.contains("no space left in the map"),
        "{error}"
    );

    assert_eq!(config(&rig), before);
    assert_eq!(rig.program.vips(), maps);
    let now = view(&rig).table;
    assert!(now.find(&key("203.0.113.99:443/tcp")).is_none());
    for vip in old.vips() {
        let same = now.vip(vip.number).expect("the number is still the VIP's");
        assert_eq!((same.key, same.generation), (vip.key, vip.generation));
        assert!(
            Arc::ptr_eq(&same.ring, &vip.ring),
            "the ring was built again"
        );
    }
    // A worker that slept through all of it must notice: the withdrawn table's generation is spent.
    assert!(now.generation() > old.generation() + 1);
    workers_follow(&rig);
    assert!(rig.send(0, "192.0.2.1:4000", "203.0.113.10:80").is_some());
    assert_eq!(rig.send(0, "192.0.2.1:4000", "203.0.113.99:443"), None);

    lock(&rig.control)
        .add_vip(
            key("203.0.113.99:443/tcp"),
            None,
            VipFlags::empty(),
            Vec::new(),
        )
        .expect("the next change works");
    assert!(view(&rig).table.generation() > now.generation());
}

#[test]
fn what_a_withdrawn_change_numbered_stays_numbered() {
    let rig = Rig::new();
    let id_of = |address: &str| {
        let address: IpAddr = address.parse().expect("an address");
        let table = view(&rig).table;
        let mut reals = table.reals();
        reals
            .find(|real| real.address == address)
            .map(|real| real.id)
    };
    let kept = id_of("198.51.100.11");
    rig.program.fail(1);
    lock(&rig.control)
        .add_reals(&key(WEB), vec![real("198.51.100.44", 1)])
        .expect_err("the maps fail");
    // Workers may have stored flows to it meanwhile.
    let withdrawn = id_of("198.51.100.44").expect("the index still names the real");
    lock(&rig.control)
        .add_reals(&key(WEB), vec![real("198.51.100.55", 1)])
        .expect("a valid real");
    assert_ne!(id_of("198.51.100.55"), Some(withdrawn));
    assert_eq!(id_of("198.51.100.44"), Some(withdrawn));
    assert_eq!(id_of("198.51.100.11"), kept);
}

#[test]
fn a_reload_mends_maps_that_could_not_be_put_back() {
    let rig = Rig::new();
    // The VIP comes back under another number.
    let held = || {
        let mut vips = rig.program.vips();
        vips.sort_unstable();
        vips
    };
    let maps = held();
    rig.program.fail(2);
    let error = lock(&rig.control)
        .delete_vip(&key(WEB))
        .expect_err("the maps fail");
    assert!(error.problem.contains("nor could"), "{error}");
    assert_ne!(held(), maps);
    reload(&rig.control).expect("the file is as it was");
    assert_eq!(held(), maps);
    // After that there is nothing to do.
    let applied = rig.program.applied();
    reload(&rig.control).expect("the file is as it was");
    assert_eq!(rig.program.applied(), applied);
}

#[test]
fn a_vip_whose_removal_fails_still_forwards_and_counts() {
    let rig = Rig::new();
    let generation = view(&rig).table.generation();
    rig.program.fail(1);
    lock(&rig.control)
        .delete_vip(&key(WEB))
        .expect_err("the maps fail");
    let view = view(&rig);
    // One for the change, one for the way back.
    assert_eq!(view.table.generation(), generation + 2);
    workers_follow(&rig);
    let before = view.table.find(&key(WEB)).expect("it is back").number;
    assert!(rig.send(1, "192.0.2.1:4000", "203.0.113.10:80").is_some());
    let counter = rig.handles[1].counters().vips[usize::from(before)].get();
    assert_eq!(counter.0 - view.baselines.vip(before, 1)[0], 1);
}

#[test]
fn changes_warn_of_what_a_file_would_be_warned_of() {
    let rig = Rig::new();
    let weight = |address: &str, weight| {
        let real = address.parse().expect("an address");
        let changes = lock(&rig.control).set_weight(&key(WEB), &real, weight);
        changes.expect("a valid change").warnings.join("\n")
    };
    assert_eq!(weight("198.51.100.11", 0), "");
    let last = weight("198.51.100.12", 0);
    assert!(last.contains("all weights are 0"), "{last}");
    let reals = ["198.51.100.12".parse().expect("an address")];
    let changes = lock(&rig.control).set_down(&key(WEB), &reals, true);
    let [down] = &changes.expect("a valid change").warnings[..] else {
        panic!("one warning");
    };
    assert!(down.contains("udp-flow-migration"), "{down}");

    let quic = CONFIG.replace(
        "protocol = \"tcp\"",
        "protocol = \"tcp\"\nflags = [\"quic\"]",
    );
    rig.write_file(quic);
    let reload = || reload(&rig.control).expect("a valid file").warnings;
    let [warning] = &reload()[..] else {
        panic!("one warning");
    };
    assert!(warning.contains("QUIC is UDP"), "{warning}");
    assert!(reload().is_empty(), "told once");
}

#[test]
fn a_change_of_the_hash_function_warns_of_drained_reals_that_get_flows() {
    let rig = Rig::new();
    let web = "203.0.113.44:80/tcp";
    let mut control = lock(&rig.control);
    let reals = vec![real("198.51.100.44", 1), real("198.51.100.45", 0)];
    let (v1, v2) = (Some(HashFunction::MaglevV1), Some(HashFunction::MaglevV2));
    let none = VipFlags::empty();
    let changes = control.add_vip(key(web), v2, none, reals).expect("valid");
    assert!(changes.warnings.is_empty(), "{changes:?}");
    let changes = control
        .change_vip(&key(web), v1, none, none)
        .expect("valid");
    assert_eq!(
        changes.warnings,
        [
            "VIP 203.0.113.44:80/tcp: reals with weight 0 get new flows, as in Katran after a change of the \
             hash function alone; slots of 65537: 198.51.100.45 32768; the next change of the VIP's reals or \
             of a weight takes them out, as `real del` of such a real does"
        ]
    );
    let other: IpAddr = "198.51.100.44".parse().expect("an address");
    let changes = control.set_weight(&key(web), &other, 2).expect("valid");
    assert!(changes.warnings.is_empty(), "{changes:?}");
    let shares = control
        .view()
        .table
        .find(&key(web))
        .expect("it is there")
        .ring
        .shares();
    assert_eq!(shares.len(), 1);
    // With V2 a drained real gets nothing.
    let changes = control
        .change_vip(&key(web), v2, none, none)
        .expect("valid");
    assert!(changes.warnings.is_empty(), "{changes:?}");
}

#[test]
fn changes_are_held_to_the_mtu() {
    let rig = Rig::new();
    let v6 = || vec![real("2001:db8::44", 1)];
    lock(&rig.control)
        .delete_vip(&key(DNS))
        .expect("it is there");
    // IPv4 reals only: frames of 1500 bytes and an outer header of 20 fit.
    rig.mtu.store(1520, Ordering::Relaxed);
    let changes = lock(&rig.control)
        .add_reals(&key(WEB), vec![real("198.51.100.44", 1)])
        .expect("it fits");
    assert!(changes.warnings.is_empty(), "{changes:?}");

    let changes = lock(&rig.control)
        .add_reals(&key(WEB), v6())
        .expect("most packets fit");
    let [warning] = changes.warnings.as_slice() else {
        panic!("{changes:?}");
    };
    for part in ["MTU of 1520", "encapsulation adds 40", "dev test0 mtu 1540"] {
        assert!(warning.contains(part), "{warning}");
    }
    // Told once, until something about it changes.
    let set = |weight| lock(&rig.control).set_weight(&key(WEB), &v6()[0].address, weight);
    assert!(set(2).expect("no worse").warnings.is_empty());

    let remove = || lock(&rig.control).delete_reals(&key(WEB), &[v6()[0].address]);
    remove().expect("it is there");
    rig.mtu.store(1319, Ordering::Relaxed);
    let before = config(&rig);
    let error = lock(&rig.control)
        .add_reals(&key(WEB), v6())
        .expect_err("1280 bytes and 40 do not fit");
    assert_eq!(error.field, "interface test0");
    assert!(error.remedy.contains("mtu 1540"), "{error}");
    assert_eq!(config(&rig), before);
    // The remedy works without a restart.
    rig.mtu.store(1540, Ordering::Relaxed);
    let changes = lock(&rig.control).add_reals(&key(WEB), v6());
    assert!(changes.expect("it fits").warnings.is_empty());

    // An MTU that became too small keeps nobody from other changes, and from overlooking it.
    rig.mtu.store(500, Ordering::Relaxed);
    for weight in [3, 4] {
        let changes = set(weight).expect("no worse");
        let [warning] = changes.warnings.as_slice() else {
            panic!("{changes:?}");
        };
        for part in ["MTU of 500", "dev test0 mtu 1540", "would not start again"] {
            assert!(warning.contains(part), "{warning}");
        }
    }
}

#[test]
fn a_change_of_the_mtu_is_told() {
    let rig = Rig::new();
    let told = || {
        let control = lock(&rig.control);
        let (mtu, fit) = control.mtu().expect("there is an interface");
        (mtu, fit.map(|warning| warning.is_some()).ok())
    };
    let answer = || {
        let mut control = lock(&rig.control);
        let changes = control.set_weight(&key(WEB), &real("198.51.100.11", 1).address, 5);
        changes.expect("it is there").warnings
    };
    assert_eq!(told(), (9000, Some(false)));
    rig.mtu.store(1500, Ordering::Relaxed);
    assert_eq!(told(), (1500, Some(true)));
    let [warning] = &answer()[..] else {
        panic!("one warning");
    };
    assert!(warning.contains("MTU of 1500"), "{warning}");
    assert!(answer().is_empty(), "told once");

    // What the log has said, answers do not say again.
    rig.mtu.store(1400, Ordering::Relaxed);
    lock(&rig.control).watch_mtu();
    assert!(answer().is_empty());
    rig.mtu.store(1000, Ordering::Relaxed);
    lock(&rig.control).watch_mtu();
    assert_eq!(told(), (1000, None));
    rig.mtu.store(9000, Ordering::Relaxed);
    assert!(answer().is_empty());
}

#[test]
fn wrong_changes_name_the_field_and_change_nothing() {
    let rig = Rig::new();
    let (before, generation) = (config(&rig), view(&rig).table.generation());
    let mut control = lock(&rig.control);
    let none = VipFlags::empty();
    let unknown = key("203.0.113.1:1/tcp");
    let errors = [
        control
            .add_vip(key(WEB), None, none, Vec::new())
            .expect_err("it exists"),
        control.delete_vip(&unknown).expect_err("there is none"),
        control
            .change_vip(&unknown, None, none, none)
            .expect_err("there is none"),
        control
            .add_reals(&key(DNS), vec![real("198.51.100.1", 1)])
            .expect_err("an IPv4 real of an IPv6 VIP"),
        control
            .add_reals(&key(WEB), vec![real("198.51.100.11", 1)])
            .expect_err("it is a real already"),
        control
            .add_reals(
                &key(WEB),
                vec![real("198.51.100.1", 1), real("198.51.100.1", 2)],
            )
            .expect_err("twice"),
        control
            .delete_reals(&key(WEB), &[real("198.51.100.1", 1).address])
            .expect_err("no real of it"),
        control
            .set_weight(&key(WEB), &real("198.51.100.1", 1).address, 1)
            .expect_err("no real of it"),
    ];
    for error in errors {
        assert!(!error.field.is_empty(), "{error}");
        assert!(!error.remedy.is_empty(), "{error}");
    }
    assert_eq!(control.config(), &before);
    assert_eq!(control.view().table.generation(), generation);
    assert_eq!(rig.program.applied(), 1, "only the start wrote the maps");
}

#[test]
fn what_changes_nothing_makes_no_new_table() {
    let rig = Rig::new();
    let generation = view(&rig).table.generation();
    let same = real("198.51.100.11", 1).address;
    let changes = lock(&rig.control).set_weight(&key(WEB), &same, 1);
    let changes = changes.expect("a valid change");
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(changes.generation, generation);

    // The order of a file is kept for a dump, and means nothing.
    let (head, vips) = CONFIG.split_once("[[vip]]").expect("VIPs");
    let (first, second) = vips.split_once("[[vip]]").expect("two of them");
    rig.write_file(format!("{head}[[vip]]{second}[[vip]]{first}"));
    let changes = reload(&rig.control).expect("a valid file");
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(changes.generation, generation);
    assert_eq!(config(&rig).vips[0].key, key(DNS));
    assert_eq!(view(&rig).table.generation(), generation);
    assert_eq!(rig.program.applied(), 1, "only the start wrote the maps");
}

#[test]
fn a_reload_applies_the_difference() {
    let rig = Rig::new();
    let old = view(&rig).table;
    let index = |address: &str| {
        let address: IpAddr = address.parse().expect("an address");
        move |real: &&dataplane::service::Real| real.address == address
    };
    let kept_real = old
        .reals()
        .find(index("198.51.100.11"))
        .expect("it is there")
        .id;
    rig.write_file(
        CONFIG
            .replace(
                "\"198.51.100.12\", weight = 1",
                "\"198.51.100.13\", weight = 1",
            )
            .replace(
                "\"198.51.100.11\", weight = 1",
                "\"198.51.100.11\", weight = 5",
            )
            .replace(
                "flow_table_capacity",
                "max_frame = 1400\nflow_table_capacity",
            )
            + r#"
[[vip]]
address = "203.0.113.20"
port = 0
protocol = "udp"
hash = "maglev-v1"
reals = []
"#,
    );
    let changes = reload(&rig.control).expect("a valid file");
    assert_eq!(changes.settings.names, ["balancer.max_frame"]);
    assert_eq!(changes.vips_added.names, ["203.0.113.20:0/udp"]);
    assert_eq!(
        changes.reals_added.names,
        ["203.0.113.10:80/tcp real 198.51.100.13"]
    );
    assert_eq!(
        changes.reals_removed.names,
        ["203.0.113.10:80/tcp real 198.51.100.12"]
    );
    assert_eq!(
        changes.reals_changed.names,
        ["203.0.113.10:80/tcp real 198.51.100.11"]
    );
    assert!(changes.vips_removed.is_empty() && changes.vips_changed.is_empty());

    let new = view(&rig).table;
    for vip in [WEB, DNS] {
        let (before, after) = (old.find(&key(vip)), new.find(&key(vip)));
        let (before, after) = (before.expect("was there"), after.expect("is there"));
        assert_eq!(
            (before.number, before.generation),
            (after.number, after.generation)
        );
        assert_eq!(Arc::ptr_eq(&before.ring, &after.ring), vip == DNS, "{vip}");
    }
    assert_eq!(
        new.reals()
            .find(index("198.51.100.11"))
            .expect("it is there")
            .id,
        kept_real
    );
    assert_eq!(new.settings().max_frame, 1400);

    rig.write_file(CONFIG);
    let changes = reload(&rig.control).expect("the old file");
    assert_eq!(changes.vips_removed.names, ["203.0.113.20:0/udp"]);
    let changes = reload(&rig.control).expect("the same file");
    assert!(changes.is_empty());
}

#[test]
fn flows_survive_a_reload() {
    let rig = Rig::new();
    let clients: Vec<String> = (1..=40)
        .map(|port| format!("192.0.2.1:{}", 4000 + port))
        .collect();
    let reals = |rig: &Rig| -> Vec<_> {
        let real = |client: &String| {
            rig.real_of(0, client, "203.0.113.10:80")
                .expect("transmitted")
        };
        clients.iter().map(real).collect()
    };
    let before = reals(&rig);
    rig.write_file(CONFIG.replace(
        "\"198.51.100.11\", weight = 1",
        "\"198.51.100.11\", weight = 0 }, { address = \"198.51.100.13\", weight = 9",
    ));
    reload(&rig.control).expect("a valid file");
    workers_follow(&rig);
    assert_eq!(reals(&rig), before, "a flow moved");
}

#[test]
fn a_bad_file_changes_nothing() {
    let rig = Rig::new();
    let (before, generation) = (config(&rig), view(&rig).table.generation());
    for (file, field) in [
        ("[[vip]]\naddress = \"nonsense\"\n".to_owned(), "lb.toml:"),
        (
            CONFIG.replace("\"2001:db8::5\"", "\"198.51.100.11\""),
            "lb.toml:",
        ),
        (CONFIG.replace("port = 80", "prot = 80"), "lb.toml:"),
        (CONFIG.replace("\"test0\"", "\"test1\""), "interface.name"),
        (CONFIG.replace("\"0-1\"", "\"0\""), "interface.queues"),
        (
            CONFIG.replace("capacity = 1000", "capacity = 1001"),
            "balancer.flow_table_capacity",
        ),
        (
            CONFIG.replace("[balancer]", "[balancer]\nmax_frame = 3000"),
            "balancer.max_frame",
        ),
    ] {
        rig.write_file(file);
        let error = reload(&rig.control).expect_err(field);
        assert!(error.field.starts_with(field), "{error}");
        assert!(!error.remedy.is_empty(), "{error}");
    }
    assert_eq!(config(&rig), before);
    assert_eq!(view(&rig).table.generation(), generation);
}

#[test]
fn a_running_configuration_can_be_dumped_and_read_back() {
    let rig = Rig::new();
    lock(&rig.control)
        .add_vip(
            key("[2001:db8::99]:0/udp"),
            None,
            VipFlags::NO_SRC_PORT | VipFlags::LRU_BYPASS,
            vec![real("2001:db8::6", 7), real("2001:db8::7", 0)],
        )
        .expect("a valid VIP");
    let toml = lock(&rig.control).dump();
    assert_eq!(parse(&toml).expect("the dump is valid"), config(&rig));
    rig.write_file(toml);
    assert!(reload(&rig.control).expect("the dump is valid").is_empty());
}

#[test]
fn the_configured_next_hop_wins_over_the_resolved_one() {
    let [resolved, other] = [
        MacAddress([2, 0, 0, 0, 0, 9]),
        MacAddress([2, 0, 0, 0, 0, 10]),
    ];
    let rig = Rig::new();
    let configured = config(&rig).interface.next_hop_mac;
    lock(&rig.control)
        .set_next_hop(Some(resolved))
        .expect("it compiles");
    assert_eq!(view(&rig).table.next_hop_mac(), configured);

    rig.write_file(CONFIG.replace("next_hop_mac", "# next_hop_mac"));
    let changes = reload(&rig.control).expect("a valid file");
    assert_eq!(changes.settings.names, ["interface.next_hop_mac"]);
    assert_eq!(view(&rig).table.next_hop_mac(), Some(resolved));

    let applied = rig.program.applied();
    lock(&rig.control)
        .set_next_hop(Some(other))
        .expect("it compiles");
    workers_follow(&rig);
    let frame = rig
        .send(0, "192.0.2.1:4000", "203.0.113.10:80")
        .expect("transmitted");
    assert_eq!(frame[..6], other.0);
    assert_eq!(
        rig.program.applied(),
        applied,
        "the maps do not hold the next hop"
    );

    lock(&rig.control).set_next_hop(None).expect("it compiles");
    workers_follow(&rig);
    assert_eq!(rig.send(0, "192.0.2.1:4000", "203.0.113.10:80"), None);
    // Still unknown, so a change of VIPs must not bring it back.
    lock(&rig.control)
        .delete_vip(&key(DNS))
        .expect("it is there");
    assert_eq!(view(&rig).table.next_hop_mac(), None);
}

#[test]
fn a_problem_in_the_file_is_shown_with_its_line() {
    let rig = Rig::new();
    rig.write_file("[interface]\nname = \"test0\"\nunknown = 1\n");
    let error = reload(&rig.control).expect_err("an unknown key");
    assert!(error.field.starts_with("lb.toml:3"), "{error}");
    // All there are, as `check` has them.
    rig.write_file("[interface]\nname = \"test0\"\nunknown = 1\nqueues = 7\n");
    let error = reload(&rig.control).expect_err("two problems");
    let text = error.to_string();
    for line in ["lb.toml:3", "lb.toml:4: interface.queues"] {
        assert!(text.lines().any(|other| other.starts_with(line)), "{text}");
    }
    assert_eq!(error.others.len(), 1);
    let parsed: Result<Config, ConfigError> = parse("unknown = 1\n");
    let problems: Vec<Problem> = parsed.expect_err("an unknown key").problems;
    assert!(!problems.is_empty());
}

#[test]
fn others_have_the_control_while_a_file_is_read() {
    let rig = Rig::new();
    let (reading, begun) = mpsc::channel();
    let (finish, finished) = mpsc::channel::<()>();
    *rig.meanwhile.lock().unwrap() = Some(Box::new(move || {
        reading.send(()).expect("the test waits");
        finished.recv().expect("the test goes on");
    }));
    thread::scope(|scope| {
        let reloaded = scope.spawn(|| reload(&rig.control));
        begun.recv().expect("the file is read");
        // Neither a question nor a change waits.
        let control = rig.control.try_lock();
        control
            .expect("nobody holds the control")
            .add_vip(
                key("203.0.113.99:80/tcp"),
                None,
                VipFlags::empty(),
                Vec::new(),
            )
            .expect("a new VIP");
        finish.send(()).expect("the file is still being read");
        let changes = reloaded.join().expect("no panic").expect("a valid file");
        // The file has the last word.
        assert_eq!(changes.vips_removed.names.len(), 1);
    });
}

#[test]
fn who_is_told_of_a_reload_sees_what_was_read() {
    let rig = Rig::new();
    let (told, seen) = mpsc::channel();
    let control = Arc::clone(&rig.control);
    *rig.in_force.lock().unwrap() = Some(Box::new(move || {
        told.send(lock(&control).dump()).expect("the test waits");
    }));
    let more = "[[vip]]\naddress = \"203.0.113.98\"\nport = 80\nprotocol = \"tcp\"\nreals = []\n";
    rig.write_file(format!("{CONFIG}\n{more}"));
    reload(&rig.control).expect("a valid file");
    let dump = seen.recv().expect("somebody is told");
    assert!(dump.contains("203.0.113.98"), "{dump}");
}
