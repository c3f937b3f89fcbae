//! The configuration read again at SIGHUP, and a next hop that changes.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::balancer::{Balancer, configuration};
use benches::lab::{Lab, LabOptions};
use benches::traffic::{HeldConnections, run_connections};
use nix::sys::signal::Signal;

use super::support::{
    FAMILIES, FLOWS, PORT, TIMEOUT, assert_nothing_dropped, exchanges, launch, output, program,
    require, servers, vip, wait_until,
};

const CONNECTIONS: usize = 200;

/// Sends SIGHUP and waits until the balancer has said `answer` once more; gives all it said since.
fn hang_up(balancer: &Balancer, answer: &str) -> Result<String> {
    let before = balancer.log().len();
    balancer.signal(Signal::SIGHUP)?;
    let said = || balancer.log().split_off(before);
    wait_until(answer, TIMEOUT, || Ok(said().contains(answer)))?;
    Ok(said())
}

fn assert_all_live(held: &[HeldConnections], after: &str) -> Result<()> {
    for held in held {
        let report = held.verify();
        ensure!(
            report.broken == 0 && report.alive() == CONNECTIONS as u64,
            "after {after}: {report:?}"
        );
    }
    Ok(())
}

#[test]
fn a_file_that_was_edited_is_applied_at_sighup() -> Result<()> {
    require!(a_file_that_was_edited_is_applied_at_sighup);
    let lab = Lab::new(LabOptions {
        reals: 4,
        ..LabOptions::default()
    })?;
    let _servers = servers(&lab, 0..4)?;
    let vips = FAMILIES.map(|v6| vip(0, v6, PORT, "tcp", 0..3));
    let launch = launch(&lab, &vips)?;
    let file = launch.config.clone().context("there is a file")?;
    let balancer = launch.start(&lab)?;
    let held = vips
        .iter()
        .map(|vip| {
            let plan = exchanges(vip, CONNECTIONS, 2_000);
            HeldConnections::open(lab.client(0), &plan, Duration::from_millis(100))
        })
        .collect::<Result<Vec<_>>>()?;
    assert_all_live(&held, "opening")?;

    // The fourth real instead of the first.
    let edited = FAMILIES.map(|v6| vip(0, v6, PORT, "tcp", 1..4));
    fs::write(&file, configuration(&edited, FLOWS))?;
    let said = hang_up(&balancer, "configuration read again")?;
    for word in ["reals added", "reals removed"] {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
    assert_all_live(&held, "the first reload")?;
    for vip in &vips {
        let new = run_connections(lab.client(0), &exchanges(vip, 200, 100), |_| ())?;
        assert_eq!((new.of_server(0), new.failed), (0, 0), "{new:?}");
        assert!(new.of_server(3) > 0, "nothing to the new real: {new:?}");
    }

    // A file that is wrong, and one that changes what cannot be changed.
    let good = fs::read_to_string(&file)?;
    let state = || balancer.ctl(["dump"]);
    let before = state()?;
    for (bad, word) in [
        (good.replace("\"tcp\"", "\"icmp\""), "protocol"),
        (
            good.replace("flow_table_capacity = ", "flow_table_capacity = 1"),
            "flow_table_capacity",
        ),
    ] {
        assert_ne!(bad, good);
        fs::write(&file, bad)?;
        let said = hang_up(&balancer, "configuration was not read again")?;
        assert!(said.contains(word), "no `{word}` in: {said}");
        assert_eq!(state()?, before);
    }
    // Commands too leave in the log what was before.
    let real = edited[0].reals[0].0.to_string();
    balancer.ctl(["real", "weight", &edited[0].name(), &real, "7"])?;
    wait_until("the change in the log", TIMEOUT, || {
        Ok(balancer.log().contains("weight 1 -> 7 by=\"user 0\""))
    })?;

    // A bad file, by command.
    let said = balancer.log().len();
    assert!(balancer.ctl(["reload"]).is_err(), "a bad file is refused");
    let log = balancer.log().split_off(said);
    for word in [
        "ERROR the configuration was not read again",
        "flow_table_capacity",
        "by=\"user 0\"",
    ] {
        assert!(log.contains(word), "no `{word}` in: {log}");
    }
    fs::remove_file(&file)?;
    hang_up(&balancer, "configuration was not read again")?;
    assert_all_live(&held, "bad files")?;
    assert_nothing_dropped(&balancer)
}

#[test]
fn the_next_hop_is_followed_once_the_file_names_none() -> Result<()> {
    require!(the_next_hop_is_followed_once_the_file_names_none, "ip");
    let lab = Lab::new(LabOptions {
        reals: 1,
        ..LabOptions::default()
    })?;
    let _servers = servers(&lab, [0])?;
    let vips = FAMILIES.map(|v6| vip(0, v6, PORT, "tcp", [0]));
    let launch = launch(&lab, &vips)?;
    let file = launch.config.clone().context("there is a file")?;
    let without = fs::read_to_string(&file)?;
    let nobody = "02:00:00:00:00:99";
    let with = format!("[interface]\nnext_hop_mac = \"{nobody}\"\n\n{without}");
    fs::write(&file, with)?;
    let balancer = launch.start(&lab)?;
    let next_hop = || -> Result<String> {
        let config = balancer.ctl(["show", "config"])?;
        Ok(config["next_hop_mac"].as_str().unwrap_or("none").to_owned())
    };
    assert_eq!(next_hop()?, nobody);

    fs::write(&file, &without)?;
    hang_up(&balancer, "settings changed interface.next_hop_mac")?;
    wait_until("a resolved next hop", TIMEOUT, || Ok(next_hop()? != "none"))?;
    let resolved = next_hop()?;
    for vip in &vips {
        let tally = run_connections(lab.client(0), &exchanges(vip, 100, 100), |_| ())?;
        assert_eq!(tally.answered(), 100, "{tally:?}");
    }

    // The router gets another card.
    let other = "02:00:00:00:00:42";
    assert_ne!(resolved, other);
    let port = lab.balancer().name();
    output(program(lab.router(), "ip")?.args(["link", "set", "dev", port, "address", other]))?;
    wait_until("the new next hop", TIMEOUT, || Ok(next_hop()? == other))?;
    for vip in &vips {
        let tally = run_connections(lab.client(0), &exchanges(vip, 100, 100), |_| ())?;
        assert_eq!(tally.answered(), 100, "{tally:?}");
    }

    // Another default route, by a neighbour that nobody has to answer for.
    let lasting = "02:00:00:00:00:43";
    for words in [
        "neigh replace 192.0.2.252 lladdr 02:00:00:00:00:43 dev lb0 nud permanent",
        "route replace default via 192.0.2.252 dev lb0 onlink",
    ] {
        output(program(lab.balancer(), "ip")?.args(words.split(' ')))?;
    }
    wait_until("the other route's next hop", TIMEOUT, || {
        Ok(next_hop()? == lasting)
    })?;

    // It goes and comes back: the log says both, and `show config` what holds.
    for (words, said, state) in [
        ("route del default", "the next hop is lost", "lost"),
        (
            "route add default via 192.0.2.252 dev lb0 onlink",
            "the next hop is known",
            "resolved",
        ),
    ] {
        let before = balancer.log().len();
        output(program(lab.balancer(), "ip")?.args(words.split(' ')))?;
        wait_until(
            said,
            TIMEOUT,
            || Ok(balancer.log()[before..].contains(said)),
        )?;
        wait_until(state, TIMEOUT, || {
            let config = balancer.ctl(["show", "config"])?;
            let lost = config["next_hop_lost_ms"].is_u64();
            assert_eq!(config["next_hop_mac"], lasting);
            Ok(config["next_hop_state"] == state
                && config["gateway"] == "192.0.2.252"
                && lost == (state == "lost"))
        })?;
    }
    Ok(())
}
