//! Health checks of a running balancer: commands, reloads, and what the program at the egress is told.

use std::collections::BTreeMap;

use dataplane::service::MacAddress;
use katran_xsk::{
    admin::{
        Engine,
        command::parse_words,
        report::{Answer, HealthCheckList, HealthCheckRow, Traffic},
    },
    control::{Changes, lock},
};

use crate::rig::{CONFIG, Rig};

const SOURCES: &str = "source_v4 = \"192.0.2.2\"\nsource_v6 = \"2001:db8::2\"\n";

/// [`CONFIG`] with outer sources, and with this after it.
fn config(rest: &str) -> String {
    CONFIG.replace("[balancer]\n", &format!("[balancer]\n{SOURCES}")) + rest
}

fn check(mark: u32, real: &str) -> String {
    format!("\n[[health_check]]\nmark = {mark}\nreal = \"{real}\"\n")
}

fn rig() -> Rig {
    Rig::with_config(&config(""), 1)
}

fn ask(rig: &Rig, line: &str) -> Result<Answer, String> {
    let words: Vec<&str> = line.split(' ').collect();
    let command = parse_words(&words)
        .and_then(|arguments| arguments.command())
        .expect("a command");
    Engine::new(rig.control.clone())
        .execute(command)
        .map_err(|error| error.to_string())
}

fn change(rig: &Rig, line: &str) -> Changes {
    match ask(rig, line) {
        Ok(Answer::Changes(changes)) => *changes,
        other => panic!("{line}: {other:?}"),
    }
}

fn list(rig: &Rig, line: &str) -> HealthCheckList {
    match ask(rig, line) {
        Ok(Answer::HealthChecks(list)) => list,
        other => panic!("{line}: {other:?}"),
    }
}

/// The marks in force, each with its real.
fn in_force(rig: &Rig) -> Vec<(u32, String)> {
    let reals = rig.health_checks.path().reals;
    reals
        .iter()
        .map(|(mark, real)| (*mark, real.to_string()))
        .collect()
}

fn pairs(expected: &[(u32, &str)]) -> Vec<(u32, String)> {
    let pairs = expected.iter();
    pairs
        .map(|(mark, real)| (*mark, (*real).to_owned()))
        .collect()
}

#[test]
fn marks_are_added_changed_and_removed() {
    let rig = rig();
    let nothing = list(&rig, "hc list");
    assert_eq!((nothing.interface, nothing.total), (None, 0));
    let changes = change(&rig, "hc add 7 198.51.100.99");
    assert_eq!(changes.health_checks_added.names, ["mark 7"]);
    change(&rig, "hc add 0x8 2001:db8:f::1");
    assert_eq!(
        in_force(&rig),
        pairs(&[(7, "198.51.100.99"), (8, "2001:db8:f::1")])
    );
    let changes = change(&rig, "hc add 7 198.51.100.12");
    assert_eq!(changes.health_checks_changed.names, ["mark 7"]);
    assert!(change(&rig, "hc add 7 198.51.100.12").is_empty());

    let row = |mark, real: &str| HealthCheckRow {
        mark,
        real: real.parse().expect("an address"),
        traffic: Traffic {
            packets: 3,
            bytes: 162,
        },
    };
    assert_eq!(
        list(&rig, "hc list"),
        HealthCheckList {
            interface: Some("test0".into()),
            hook: Some("tcx".into()),
            counters: BTreeMap::from([("processed".into(), 3)]),
            total: 2,
            offset: 0,
            health_checks: vec![row(7, "198.51.100.12"), row(8, "2001:db8:f::1")],
        }
    );
    let second = list(&rig, "hc list offset=1 limit=1");
    assert_eq!((second.total, second.offset), (2, 1));
    assert_eq!(second.health_checks, [row(8, "2001:db8:f::1")]);

    let changes = change(&rig, "hc del 7 8");
    assert_eq!(changes.health_checks_removed.count, 2);
    assert_eq!(in_force(&rig), []);
}

#[test]
fn a_refused_change_changes_nothing() {
    let rig = rig();
    change(&rig, "hc add 7 198.51.100.11");
    let before = (in_force(&rig), lock(&rig.control).dump());
    for (line, part) in [
        ("hc add 8 ff02::1", "is a multicast address"),
        ("hc del 7 9", "mark: 9 names no real"),
        ("hc del 7 7", "mark: 7 names no real"),
    ] {
        let error = ask(&rig, line).expect_err(line);
        assert!(error.contains(part), "{line}: {error}");
    }
    let without = Rig::new();
    let error = ask(&without, "hc add 7 198.51.100.11").expect_err("no source");
    assert!(error.contains("give source_v4 in [balancer]"), "{error}");
    assert_eq!(in_force(&without), []);

    rig.health_checks.fail_once();
    let error = ask(&rig, "hc add 8 198.51.100.12").expect_err("the program fails");
    assert!(error.contains("the interface is gone"), "{error}");
    // What is broken already does not hold other changes up.
    rig.health_checks.fail_once();
    let changes = change(&rig, "real weight 203.0.113.10:80/tcp 198.51.100.11 5");
    assert_eq!(changes.warnings, ["health checks: the interface is gone"]);
    change(&rig, "real weight 203.0.113.10:80/tcp 198.51.100.11 1");
    // Another part of the change fails.
    rig.program.fail(1);
    let more = config(&(check(7, "198.51.100.12") + &check(9, "198.51.100.13")));
    rig.write_file(more);
    ask(&rig, "reload").expect_err("the maps fail");
    assert_eq!((in_force(&rig), lock(&rig.control).dump()), before);
}

#[test]
fn a_reload_follows_the_file_and_a_dump_has_all_of_it() {
    let rig = rig();
    let path = "\n[health_check_path]\ninterface = \"hc0\"\nmax_frame = 1480\n";
    let file = config(&(path.to_owned() + &check(7, "198.51.100.11") + &check(8, "198.51.100.12")));
    rig.write_file(file);
    let changes = change(&rig, "reload");
    assert_eq!(changes.health_checks_added.count, 2);
    assert_eq!(
        changes.settings.names,
        ["health_check_path.interface", "health_check_path.max_frame"]
    );
    let told = rig.health_checks.path();
    assert_eq!(told.interface.as_deref(), Some("hc0"));
    assert_eq!(told.max_frame, Some(1480));
    assert_eq!(told.gue_port, None);
    assert_eq!(told.source_v4, Some("192.0.2.2".parse().expect("IPv4")));
    assert_eq!(told.source_v6, Some("2001:db8::2".parse().expect("IPv6")));

    let dump = lock(&rig.control).dump();
    let dumped = crate::rig::parse(&dump).expect("valid");
    assert_eq!(dumped, *lock(&rig.control).config());
    assert_eq!(dumped.health_checks.len(), 2);

    let gue = format!("[balancer]\nencapsulation = \"gue\"\ngue_port = 9886\n{SOURCES}");
    rig.write_file(CONFIG.replace("[balancer]\n", &gue) + &check(8, "198.51.100.13"));
    let changes = change(&rig, "reload");
    assert_eq!(changes.health_checks_removed.names, ["mark 7"]);
    assert_eq!(changes.health_checks_changed.names, ["mark 8"]);
    let told = rig.health_checks.path();
    assert_eq!((told.interface, told.gue_port), (None, Some(9886)));
    assert_eq!(in_force(&rig), pairs(&[(8, "198.51.100.13")]));
}

#[test]
fn probes_follow_the_next_hop() {
    let text = config(&check(7, "198.51.100.11"));
    let configured = MacAddress([2, 0, 0, 0, 0xcc, 3]);
    let rig = Rig::with_config(&text, 1);
    assert_eq!(rig.health_checks.path().next_hop, Some(configured));

    let text = text.replace("next_hop_mac = \"02:00:00:00:cc:03\"\n", "");
    let rig = Rig::with_config(&text, 1);
    assert_eq!(rig.health_checks.path().next_hop, None);
    let resolved = MacAddress([2, 0, 0, 0, 0xcc, 4]);
    lock(&rig.control)
        .set_next_hop(Some(resolved))
        .expect("taken");
    assert_eq!(rig.health_checks.path().next_hop, Some(resolved));
    assert_eq!(in_force(&rig), pairs(&[(7, "198.51.100.11")]));
}

#[test]
fn a_next_hop_that_probes_did_not_take_is_tried_again() {
    let text = config(&check(7, "198.51.100.11"));
    let rig = Rig::with_config(
        &text.replace("next_hop_mac = \"02:00:00:00:cc:03\"\n", ""),
        1,
    );
    let set = || {
        let next_hop = Some(MacAddress([2, 0, 0, 0, 0xcc, 4]));
        lock(&rig.control).set_next_hop(next_hop)
    };
    for _ in 0..2 {
        rig.health_checks.fail_once();
        let error = set().expect_err("the program fails").to_string();
        assert!(error.contains("the interface is gone"), "{error}");
    }
    set().expect("taken");
    // They have it: nobody is asked, so nothing fails.
    rig.health_checks.fail_once();
    set().expect("nothing to do");
}
