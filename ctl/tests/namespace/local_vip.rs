//! A real on the balancer's own host: its packets go up to the kernel, and a server on the VIP gets
//! them.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use benches::balancer::{Balancer, Launch, Vip};
use benches::lab::{Lab, LabOptions, plan};
use benches::traffic::{HeldConnections, Server, Tally, run_connections, run_datagrams};

use super::support::{
    FAMILIES, FLOWS, PORT, TIMEOUT, assert_nothing_dropped, binary, exchanges, real_address,
    require, servers, vip_address,
};

const EXCHANGES: usize = 300;
/// Number of the server on the balancer's host.
const HERE: u16 = 99;
/// VIPs by what reals they have.
const MIXED: u8 = 0;
const ONLY_LOCAL: u8 = 1;

fn here(v6: bool) -> IpAddr {
    if v6 {
        plan::BALANCER_V6.into()
    } else {
        plan::BALANCER_V4.into()
    }
}

fn vip(i: u8, v6: bool, protocol: &'static str) -> Vip {
    let remote = if i == MIXED { 0..3 } else { 0..0 };
    let reals = remote.map(|real| real_address(real, v6));
    Vip {
        address: vip_address(i, v6),
        port: PORT,
        protocol,
        reals: reals.chain([here(v6)]).map(|real| (real, 1)).collect(),
    }
}

fn every_vip() -> Vec<Vip> {
    let mut vips = Vec::new();
    for v6 in FAMILIES {
        for i in [MIXED, ONLY_LOCAL] {
            vips.extend(["tcp", "udp"].map(|protocol| vip(i, v6, protocol)));
        }
    }
    vips
}

fn configuration(vips: &[Vip]) -> String {
    let mut text = format!("[balancer]\nflow_table_capacity = {FLOWS}\n");
    for vip in vips {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n[[vip]]\naddress = \"{}\"\nport = {}\nprotocol = \"{}\"\nflags = [\"local-vip\"]\nreals = [\n",
            vip.address, vip.port, vip.protocol
        );
        for (real, weight) in &vip.reals {
            let local = FAMILIES.map(here).contains(real);
            let _ = writeln!(
                text,
                "    {{ address = \"{real}\", weight = {weight}, local = {local} }},"
            );
        }
        text.push_str("]\n");
    }
    text
}

fn run(lab: &Lab, vip: &Vip) -> Result<Tally> {
    let client = lab.client(0);
    if vip.protocol == "tcp" {
        // Segments of full size in both directions.
        run_connections(client, &exchanges(vip, EXCHANGES, 20_000), |_| ())
    } else {
        run_datagrams(client, &exchanges(vip, EXCHANGES, 1_000), |_| ())
    }
}

struct Setup {
    lab: Lab,
    balancer: Balancer,
    vips: Vec<Vip>,
    _servers: Vec<Server>,
}

impl Setup {
    fn new() -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let mut servers = servers(&lab, 0..3)?;
        let own = [MIXED, ONLY_LOCAL].map(|i| FAMILIES.map(|v6| vip_address(i, v6)));
        for address in own.concat() {
            let length = if address.is_ipv4() { 32 } else { 128 };
            lab.balancer_links().add_address("lo", address, length)?;
        }
        servers.push(Server::start(lab.balancer(), HERE, &own.concat(), PORT)?);
        let vips = every_vip();
        let config = lab.scratch().write("lb.toml", configuration(&vips))?;
        let balancer = Launch::new(binary(), config).start(&lab)?;
        Ok(Self {
            lab,
            balancer,
            vips,
            _servers: servers,
        })
    }
}

#[test]
fn a_server_on_the_balancers_host_answers_for_the_vip() -> Result<()> {
    require!(a_server_on_the_balancers_host_answers_for_the_vip);
    let setup = Setup::new()?;
    ensure!(
        !setup.balancer.log().contains("address of this host"),
        "{}",
        setup.balancer.log()
    );
    for vip in &setup.vips {
        let tally = run(&setup.lab, vip)?;
        let name = vip.name();
        assert_eq!(tally.answered(), EXCHANGES as u64, "{name}: {tally:?}");
        if vip.reals.len() == 1 {
            assert_eq!(tally.of_server(HERE), EXCHANGES as u64, "{name}: {tally:?}");
        } else {
            for server in [0, 1, 2, HERE] {
                assert!(tally.of_server(server) > 0, "{name}: {tally:?}");
            }
        }
    }
    assert_nothing_dropped(&setup.balancer)?;
    // What went up is what the local reals were chosen for, and it is counted there.
    let stats = setup.balancer.stats()?;
    let local: u64 = FAMILIES.iter().map(|&v6| stats.of_real(here(v6))).sum();
    assert!(local > 0);
    assert_eq!(stats.frames.passed, local);
    Ok(())
}

#[test]
fn connections_to_this_host_outlive_a_change_of_weights() -> Result<()> {
    require!(connections_to_this_host_outlive_a_change_of_weights);
    let setup = Setup::new()?;
    for v6 in FAMILIES {
        let mixed = vip(MIXED, v6, "tcp");
        let plan = exchanges(&mixed, 200, 2_000);
        let held = HeldConnections::open(setup.lab.client(0), &plan, TIMEOUT / 600)?;
        let before = held.verify();
        assert!(before.of_server(HERE) > 0, "{before:?}");
        setup.balancer.set_weight(&mixed, here(v6), 0)?;
        let after = held.verify();
        assert_eq!(after.broken, 0, "{after:?}");
        assert_eq!(after.of_server(HERE), before.of_server(HERE), "{after:?}");
        let tally = run(&setup.lab, &mixed)?;
        assert_eq!((tally.of_server(HERE), tally.failed), (0, 0), "{tally:?}");
    }
    assert_nothing_dropped(&setup.balancer)
}
