//! Flows whose packets reach another worker than before, while the ring is another one too.
//!
//! The router's interface to the balancer has a TX queue for each RX queue of the balancer. With fewer
//! of them its packets arrive on fewer queues: so a flow changes its queue.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use benches::balancer::{Balancer, Vip};
use benches::lab::{Lab, LabOptions, plan};
use benches::traffic::{HeldConnections, HeldReport, Server};
use etherparse::{Icmpv4Type, PacketBuilder, icmpv4::DestUnreachableHeader};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use super::conversation::Conversation;
use super::path_mtu::{too_big_messages, turn_away};
use super::support::{
    FAMILIES, PORT, TIMEOUT, assert_nothing_dropped, exchanges, real_address, require, servers,
    start, stat, vip, wait_until,
};

const QUEUES: u32 = 4;
const REALS: u8 = 3;
const CONNECTIONS: usize = 100;
/// Routers that complain. All of their messages on one queue: once in 4¹⁵ runs.
const ROUTERS: u8 = 16;

struct Setup {
    lab: Lab,
    vips: [Vip; 2],
    balancer: Balancer,
    _servers: Vec<Server>,
}

impl Setup {
    /// Flows keep their real across queues if `global` says so.
    fn new(global: bool) -> Result<Self> {
        let lab = Lab::new(LabOptions {
            reals: REALS,
            queues: QUEUES,
            ..LabOptions::default()
        })?;
        let servers = servers(&lab, 0..REALS)?;
        let vips = FAMILIES.map(|v6| vip(0, v6, PORT, "tcp", 0..REALS));
        let balancer = start(&lab, &vips)?;
        if global {
            for vip in &vips {
                balancer.ctl(["vip", "set", &vip.name(), "flags=global-lru"])?;
            }
        }
        Ok(Self {
            lab,
            vips,
            balancer,
            _servers: servers,
        })
    }

    /// Has everything arrive on the first so many queues.
    fn use_queues(&self, count: u32) -> Result<()> {
        let to_balancer = self.lab.balancer().name();
        self.lab.router().set_queues(to_balancer, count)
    }

    /// Packets that each worker has had.
    fn received(&self) -> Result<Vec<u64>> {
        let stats = self.balancer.stats()?;
        Ok(stats
            .workers
            .iter()
            .map(|(_, frames)| frames.received)
            .collect())
    }
}

/// Connections of each family to two reals, as they are before and after all of them move to the first
/// queue and all new flows to the third real.
fn move_connections(global: bool) -> Result<Vec<(HeldReport, HeldReport)>> {
    let setup = Setup::new(global)?;
    for (vip, v6) in setup.vips.iter().zip(FAMILIES) {
        turn_away(&setup.balancer, vip, 2, v6)?;
    }
    let open = |vip: &Vip| {
        let plan = exchanges(vip, CONNECTIONS, 2_000);
        HeldConnections::open(setup.lab.client(0), &plan, Duration::from_millis(50))
    };
    let held = setup.vips.iter().map(open).collect::<Result<Vec<_>>>()?;
    let before: Vec<_> = held.iter().map(HeldConnections::verify).collect();
    let on_queues = setup.received()?;
    ensure!(
        on_queues.iter().filter(|packets| **packets > 0).count() > 1,
        "all flows came by one queue: {on_queues:?}"
    );
    for (vip, v6) in setup.vips.iter().zip(FAMILIES) {
        for (real, weight) in [(2, 1), (0, 0), (1, 0)] {
            setup
                .balancer
                .set_weight(vip, real_address(real, v6), weight)?;
        }
    }
    setup.use_queues(1)?;
    let after: Vec<_> = held.iter().map(HeldConnections::verify).collect();
    if global {
        ensure!(stat(&setup.balancer, "global-table-hits")? > 0, "no hits");
        assert_nothing_dropped(&setup.balancer)?;
    }
    Ok(before.into_iter().zip(after).collect())
}

#[test]
fn a_flow_that_changes_its_queue_keeps_its_real_with_global_lru() -> Result<()> {
    require!(a_flow_that_changes_its_queue_keeps_its_real_with_global_lru);
    for (before, after) in move_connections(true)? {
        ensure!(
            before.alive() == CONNECTIONS as u64 && before.of_server(2) == 0,
            "{before:?}"
        );
        ensure!(before == after, "{before:?}, then {after:?}");
    }
    Ok(())
}

#[test]
fn a_flow_that_changes_its_queue_follows_the_ring_without_global_lru() -> Result<()> {
    require!(a_flow_that_changes_its_queue_follows_the_ring_without_global_lru);
    for (before, after) in move_connections(false)? {
        ensure!(before.alive() == CONNECTIONS as u64, "{before:?}");
        // Those that were on the first queue stay; the third real knows none of the others.
        ensure!(after.broken > 0 && after.alive() > 0, "{after:?}");
    }
    Ok(())
}

/// Sends the VIP a router's word that the path of a flow's answers is too narrow.
fn complain(setup: &Setup, router: Ipv4Addr, client_port: u16) -> Result<()> {
    let (vip, client) = (plan::vip_v4(0), plan::client_v4(0));
    let mut quoted = Vec::new();
    PacketBuilder::ipv4(vip.octets(), client.octets(), 64)
        .tcp(PORT, client_port, 1, 1000)
        .write(&mut quoted, &[])?;
    let narrow = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    let mut packet = Vec::new();
    PacketBuilder::ipv4(router.octets(), vip.octets(), 64)
        .icmpv4(Icmpv4Type::DestinationUnreachable(narrow))
        .write(&mut packet, &quoted)?;
    setup.lab.client(0).run(|| -> Result<()> {
        let (raw, none) = (SockType::Raw, SockFlag::empty());
        let socket = socket(AddressFamily::Inet, raw, none, SockProtocol::Raw)?;
        let to = SockaddrIn::from(std::net::SocketAddrV4::new(vip, 0));
        sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty())?;
        Ok(())
    })?
}

/// How many messages about a flow of the first real each real gets, that come by any queue while the
/// flow came by the first.
fn complain_on_any_queue(global: bool) -> Result<Vec<u64>> {
    let setup = Setup::new(global)?;
    let [vip, _] = &setup.vips;
    setup.use_queues(1)?;
    let conversation = loop {
        let target = (vip.address, vip.port).into();
        let mut conversation = Conversation::open(setup.lab.client(0), target)?;
        if conversation.ask(100)? == 0 {
            break conversation;
        }
    };
    turn_away(&setup.balancer, vip, 0, false)?;
    setup.use_queues(QUEUES)?;
    let before = setup.received()?;
    ensure!(
        before[1..].iter().all(|packets| *packets == 0),
        "{before:?}"
    );
    for router in 0..ROUTERS {
        let router = Ipv4Addr::new(192, 0, 2, 100 + router);
        complain(&setup, router, conversation.source()?.port())?;
    }
    wait_until("every message has come", TIMEOUT, || {
        let messages: u64 = too_big_messages(&setup.lab, false)?.iter().sum();
        Ok(messages == u64::from(ROUTERS))
    })?;
    let after = setup.received()?;
    ensure!(
        after[1..].iter().any(|packets| *packets > 0),
        "all messages came by the flow's queue: {after:?}"
    );
    too_big_messages(&setup.lab, false)
}

#[test]
fn an_icmp_error_on_another_queue_reaches_the_flows_real_with_global_lru() -> Result<()> {
    require!(an_icmp_error_on_another_queue_reaches_the_flows_real_with_global_lru);
    let messages = complain_on_any_queue(true)?;
    assert_eq!(messages, [u64::from(ROUTERS), 0, 0]);
    Ok(())
}

#[test]
fn an_icmp_error_on_another_queue_follows_the_ring_without_global_lru() -> Result<()> {
    require!(an_icmp_error_on_another_queue_follows_the_ring_without_global_lru);
    let messages = complain_on_any_queue(false)?;
    ensure!(messages[1..].iter().sum::<u64>() > 0, "{messages:?}");
    Ok(())
}
