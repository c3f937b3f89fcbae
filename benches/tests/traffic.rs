//! Clients and servers talk straight to each other, without a balancer.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use benches::lab::{Lab, LabOptions, plan, requirements};
use benches::traffic::{HeldConnections, Plan, Server, ping, run_connections, run_datagrams};

const PORT: u16 = 7000;

fn lab() -> Result<Lab> {
    Lab::new(LabOptions {
        reals: 2,
        ..LabOptions::default()
    })
}

fn plan_to(address: impl Into<IpAddr>, count: usize, payload: usize) -> Plan {
    Plan {
        target: (address.into(), PORT).into(),
        count,
        concurrency: 20,
        payload,
        timeout: Duration::from_secs(20),
    }
}

#[test]
fn requests_are_answered_by_the_server_that_was_asked() -> Result<()> {
    if !requirements::met_or_skip("requests_are_answered_by_the_server_that_was_asked", &[]) {
        return Ok(());
    }
    let lab = lab()?;
    let mut servers = Vec::new();
    for real in 0..2 {
        let addresses: [IpAddr; 2] = [plan::real_v4(real).into(), plan::real_v6(real).into()];
        let number = 100 + u16::from(real);
        servers.push(Server::start(lab.real(real), number, &addresses, PORT)?);
    }
    let client = lab.client(0);
    let mut heard = 0;
    let tally = run_connections(client, &plan_to(plan::real_v4(0), 50, 50_000), |n| {
        heard = n;
    })?;
    assert_eq!((tally.of_server(100), tally.failed), (50, 0), "{tally:?}");
    assert_eq!(heard, 50);
    let tally = run_connections(client, &plan_to(plan::real_v6(1), 10, 0), |_| ())?;
    assert_eq!((tally.of_server(101), tally.failed), (10, 0), "{tally:?}");
    let tally = run_datagrams(client, &plan_to(plan::real_v6(0), 50, 1200), |_| ())?;
    assert_eq!((tally.of_server(100), tally.failed), (50, 0), "{tally:?}");
    assert_eq!((servers[0].accepted(), servers[1].accepted()), (50, 10));
    Ok(())
}

#[test]
fn a_client_without_server_fails() -> Result<()> {
    if !requirements::met_or_skip("a_client_without_server_fails", &[]) {
        return Ok(());
    }
    let lab = lab()?;
    let tally = run_connections(lab.client(0), &plan_to(plan::real_v4(0), 7, 1), |_| ())?;
    assert_eq!((tally.answered(), tally.failed), (0, 7));
    assert_eq!(tally.failures.len(), 5);
    Ok(())
}

#[test]
fn held_connections_notice_the_end_of_their_server() -> Result<()> {
    if !requirements::met_or_skip("held_connections_notice_the_end_of_their_server", &[]) {
        return Ok(());
    }
    let lab = lab()?;
    let server = Server::start(lab.real(0), 5, &[plan::real_v4(0).into()], PORT)?;
    let held = HeldConnections::open(
        lab.client(0),
        &plan_to(plan::real_v4(0), 100, 300),
        Duration::from_millis(50),
    )?;
    let report = held.verify();
    assert_eq!((report.of_server(5), report.broken), (100, 0), "{report:?}");
    held.wait_for_exchanges(200, Duration::from_secs(20))?;
    drop(server);
    let report = held.verify();
    assert_eq!((report.alive(), report.broken), (0, 100), "{report:?}");
    Ok(())
}

#[test]
fn a_server_needs_an_address_it_has() -> Result<()> {
    if !requirements::met_or_skip("a_server_needs_an_address_it_has", &[]) {
        return Ok(());
    }
    let lab = lab()?;
    let result = Server::start(lab.real(0), 1, &[plan::real_v4(1).into()], PORT);
    let error = format!("{:#}", result.expect_err("the address is another's"));
    assert!(
        error.contains("cannot listen on 198.51.100.12:7000"),
        "{error}"
    );
    Ok(())
}

#[test]
fn pings_come_back_only_from_who_is_there() -> Result<()> {
    if !requirements::met_or_skip("pings_come_back_only_from_who_is_there", &[]) {
        return Ok(());
    }
    let lab = lab()?;
    let client = lab.client(0);
    let patience = Duration::from_secs(10);
    for target in [
        plan::BALANCER_V4.into(),
        plan::BALANCER_V6.into(),
        IpAddr::from(plan::real_v4(1)),
    ] {
        assert_eq!(ping(client, target, 10, patience)?, 10, "{target}");
    }
    // Nobody balances here, and the balancer's host does not forward.
    let silent = ping(
        client,
        plan::vip_v4(0).into(),
        1,
        Duration::from_millis(200),
    )?;
    assert_eq!(silent, 0);
    Ok(())
}
