//! Fuzz target: any bytes as frames, through the forwarder and through a whole worker.
//!
//! An input is a byte that chooses the settings and then frames, each with a byte of [`Control`], a
//! VIP number for its tag or its destination, two bytes (most significant first) of which three bits say
//! how often the services change before it and the others its length, and its bytes. A plain test run
//! replays `__fuzz__/frames` and some random inputs; `cargo xtask fuzz frames` looks for new ones, guided
//! by the code that they reach.

mod common;
mod worker_rig;

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use common::{
    V4_REALS, V6_REALS, no_outcome,
    services::{every_kind_of_vip, gue},
    settings, vip,
};
use conntrack::{AnyKey, SharedFlow};
use dataplane::{
    counters::WorkerCounters,
    forward::{BURST, Forwarder, ForwarderConfig, Outcome, Packet, Selection, Verdict},
    port::memory::{MemoryConfig, pair},
    service::{
        Encapsulation, MAX_REALS, Protocol, Publisher, RealId, ServerIdSpec, ServerIds,
        ServiceControl, ServiceSpec, ServiceTable, Settings, SourceRouteSpec, SourceRoutes, Vip,
        VipFlags, VipSpec,
    },
    worker::{Engine, WorkerConfig},
};
use etherparse::SlicedPacket;
use worker_rig::{Kernel, assert_accounted};
use xdp_layout::Tag;

/// Bytes of a chunk behind the head room that the kernel keeps.
const CHUNK: usize = 2048 - 256;
/// Frames of one input that are looked at.
const FRAMES: usize = 32;
/// Room in front of a frame.
const ROOMS: [u8; 8] = [8, 20, 28, 40, 48, 64, 9, 255];

/// Every flag and every way to choose a real.
fn services(settings: Settings) -> ServiceSpec {
    let mut spec = every_kind_of_vip(Settings {
        tcp_server_id: true,
        // Low, so that inputs reach it.
        connection_rate_cap: 12,
        global_table_capacity: 512,
        ..settings
    });
    let mut leaving = vip(
        "203.0.113.44",
        443,
        Protocol::Udp,
        VipFlags::UDP_FLOW_MIGRATION,
        V4_REALS,
    );
    leaving.reals[0].down = true;
    spec.vips.push(leaving);
    let server_ids = VipFlags::QUIC.union(VipFlags::UDP_STABLE_ROUTING);
    for flags in [VipFlags::QUIC, VipFlags::UDP_STABLE_ROUTING, server_ids] {
        let last = 50 + flags.bits() % 200;
        let v4 = format!("203.0.113.{last}");
        let v6 = format!("2001:db8:a::{last}");
        spec.vips
            .push(vip(&v4, 443, Protocol::Udp, flags, V4_REALS));
        spec.vips
            .push(vip(&v6, 443, Protocol::Udp, flags, V6_REALS));
    }
    let routed = VipFlags::SRC_ROUTING;
    for (address, reals) in [("203.0.113.45", V4_REALS), ("2001:db8:a::45", V6_REALS)] {
        spec.vips
            .push(vip(address, 443, Protocol::Udp, routed, reals));
    }
    spec.vips.extend(several_detours());
    let route = |prefix: &str, prefix_len, real: &str| SourceRouteSpec {
        prefix: prefix.parse().expect("an address"),
        prefix_len,
        real: real.parse().expect("an address"),
    };
    spec.source_routes = SourceRoutes::new([
        route("0.0.0.0", 1, V4_REALS[0]),
        route("192.0.2.0", 24, V4_REALS[1]),
        route("192.0.2.10", 32, V6_REALS[1]),
        route("2001:db8::", 32, V6_REALS[2]),
        route("2001:db8:c::1", 128, V6_REALS[0]),
    ])
    .expect("valid routes");
    let reals = V4_REALS.iter().chain(V6_REALS);
    let ids = reals.enumerate().map(|(number, real)| ServerIdSpec {
        id: 0x1001 + number as u32,
        real: real.parse().expect("an address"),
        valid: true,
    });
    spec.server_ids = ServerIds::new(ids.collect()).expect("valid ids");
    spec
}

/// VIPs whose packets need more than one thing besides table and ring.
fn several_detours() -> Vec<VipSpec> {
    const GLOBAL: VipFlags = VipFlags::GLOBAL_LRU;
    const MIGRATING: VipFlags = VipFlags::UDP_FLOW_MIGRATION;
    const ROUTED: VipFlags = VipFlags::SRC_ROUTING;
    const LOCAL: VipFlags = VipFlags::LOCAL_VIP;
    const IDS: VipFlags = VipFlags::QUIC.union(VipFlags::UDP_STABLE_ROUTING);
    let combinations = [
        GLOBAL.union(MIGRATING),
        GLOBAL.union(ROUTED),
        ROUTED.union(VipFlags::DPORT_ONLY),
        ROUTED.union(LOCAL),
        ROUTED.union(MIGRATING),
        ROUTED.union(VipFlags::LRU_BYPASS),
        GLOBAL
            .union(MIGRATING)
            .union(ROUTED)
            .union(LOCAL)
            .union(IDS),
    ];
    let mut vips = Vec::new();
    for (last, flags) in (60..).zip(combinations) {
        let (v4, v6) = (format!("203.0.113.{last}"), format!("2001:db8:a::{last}"));
        for (address, reals, here) in [
            (v4, V4_REALS, "192.0.2.254"),
            (v6, V6_REALS, "2001:db8:ba::fe"),
        ] {
            let mut vip = vip(&address, 443, Protocol::Udp, flags, reals);
            vip.reals[0].down = true;
            if flags.contains(LOCAL) {
                vip.reals.push(common::real(here, 1));
                vip.reals[3].local = true;
            }
            vips.push(vip);
        }
    }
    vips
}

/// Everything that can happen to services while packets pass, one after the other.
fn changes(settings: Settings) -> Vec<ServiceSpec> {
    let all = services(settings);
    // Other reals are down, what was local is somewhere else, half of the ids are withdrawn, routes lead
    // elsewhere, and every other VIP is drained.
    let mut turned = all.clone();
    for (number, vip) in turned.vips.iter_mut().enumerate() {
        for (place, real) in vip.reals.iter_mut().enumerate() {
            real.down = !real.down && place < 2;
            real.local = false;
            real.weight = u32::from(number % 2 == 0);
        }
    }
    let withdrawn = turned
        .server_ids
        .iter()
        .step_by(2)
        .map(|one| one.id)
        .collect();
    turned.server_ids = turned.server_ids.with_valid(&withdrawn, false);
    let elsewhere = turned.source_routes.iter().map(|mut route| {
        let of_family = if route.prefix.is_ipv4() {
            V4_REALS
        } else {
            V6_REALS
        };
        route.real = of_family[usize::from(route.prefix_len) % 2]
            .parse()
            .expect("an address");
        route
    });
    turned.source_routes = SourceRoutes::new(elsewhere).expect("valid routes");
    // VIPs leave, reals leave, nobody names a real.
    let mut left = all.clone();
    left.vips.retain({
        let mut number = 0;
        move |vip| {
            number += 1;
            number % 3 != 0 || vip.flags.contains(VipFlags::GLOBAL_LRU)
        }
    });
    for vip in &mut left.vips {
        vip.reals.truncate(1);
    }
    left.server_ids = ServerIds::default();
    left.source_routes = SourceRoutes::default();
    left.decap.clear();
    // Every number of a real that is free goes to another one.
    let mut crowded = left.clone();
    let members = left.vips.iter().flat_map(|vip| &vip.reals);
    let in_use: HashSet<IpAddr> = members.map(|real| real.address).collect();
    let ids = (1..(MAX_REALS - in_use.len()) as u32).map(|id| ServerIdSpec {
        id,
        real: Ipv4Addr::from_bits(0x0a00_0000 + id).into(),
        valid: true,
    });
    crowded.server_ids = ServerIds::new(ids.collect()).expect("valid ids");
    // All come back with other numbers and as another kind of VIP each. Which flows the workers share
    // stays the same: they leave some of them for each other by the clock, and a worker has its own.
    let mut returned = all;
    returned.vips.reverse();
    for vip in &mut returned.vips {
        vip.reals.reverse();
        let toggled = VipFlags::SRC_ROUTING | VipFlags::LOCAL_VIP | VipFlags::NO_SRC_PORT;
        vip.flags.toggle(toggled);
    }
    let mut other_settings = returned.clone();
    other_settings.settings = Settings {
        tcp_server_id: false,
        max_frame: 1_400,
        next_hop_mac: common::settings().next_hop_mac,
        encapsulation: match settings.encapsulation {
            Encapsulation::Ipip => gue().encapsulation,
            Encapsulation::Gue { .. } => Encapsulation::Ipip,
        },
        ..returned.settings
    };
    // References are taken before others are given back, so there must be numbers first.
    vec![
        turned,
        left.clone(),
        crowded,
        left,
        returned,
        other_settings,
    ]
}

/// Tables one after the other, from that without services. The first one that workers see has a number
/// of its own.
type History = Vec<Arc<ServiceTable>>;
const FIRST: usize = 1;

/// The histories that inputs choose from: building one takes longer than many inputs do.
fn history(choice: u8) -> &'static History {
    const CHOICES: usize = 5;
    static HISTORIES: [OnceLock<History>; CHOICES] = [const { OnceLock::new() }; CHOICES];
    let choice = usize::from(choice) % CHOICES;
    HISTORIES[choice].get_or_init(|| {
        let too_big = |settings| Settings {
            icmp_too_big: true,
            keep_last_ring: true,
            ..settings
        };
        let unknown_next_hop = Settings {
            next_hop_mac: None,
            ..settings()
        };
        let settings = [
            settings(),
            gue(),
            too_big(settings()),
            too_big(gue()),
            unknown_next_hop,
        ];
        let mut control = ServiceControl::new();
        let mut history = vec![control.table()];
        for spec in [services(settings[choice])]
            .into_iter()
            .chain(changes(settings[choice]))
        {
            history.push(control.apply(&spec).expect("a valid specification"));
        }
        history
    })
}

/// How a frame arrives.
#[derive(Clone, Copy, Debug)]
struct Control {
    room: u8,
    /// The XDP program found this VIP.
    vip: Option<u8>,
    /// It found it among the services before the last change.
    stale: bool,
    /// Half a minute has passed, and more.
    later: bool,
    /// The next frame is of another burst.
    ends_burst: bool,
    /// The frame goes to this VIP, of those at the start: addresses are looked up by hash, so a fuzzer
    /// cannot find them.
    aims_at: Option<u8>,
}

impl Control {
    fn read(bits: u8, vip: u8) -> Self {
        Self {
            room: ROOMS[usize::from(bits & 7)],
            vip: (bits & 8 != 0).then_some(vip),
            stale: bits & 16 != 0,
            later: bits & 32 != 0,
            ends_burst: bits & 64 != 0,
            aims_at: (bits & 128 != 0).then_some(vip),
        }
    }
}

#[derive(Debug)]
struct Arrival {
    control: Control,
    frame: Vec<u8>,
    /// Place of the services in force, and of those before.
    services: usize,
    before: usize,
}

impl Arrival {
    /// Tag, room and frame, as the socket receives them.
    fn received(&self, history: &History) -> Vec<u8> {
        let Control {
            room, vip, stale, ..
        } = self.control;
        let number = vip.map_or(Tag::NO_VIP, u16::from);
        let seen = if stale { self.before } else { self.services };
        let tag = Tag {
            generation: history[seen].vip(number).map_or(0, |vip| vip.generation),
            vip: number,
            room,
            zero: 0,
        };
        let mut bytes = vec![0; usize::from(room)];
        bytes[..Tag::SIZE].copy_from_slice(&tag.to_bytes());
        bytes.extend_from_slice(&self.frame);
        bytes
    }
}

/// The bursts of an input; the services stay the same during one.
fn bursts(arrivals: &[Arrival]) -> impl Iterator<Item = &[Arrival]> {
    arrivals.chunk_by(|one, next| !one.control.ends_burst && one.services == next.services)
}

/// Writes address and port of a VIP into a frame of its family that is long enough.
fn aim(frame: &mut [u8], vip: &Vip) {
    let (address, at): (Vec<u8>, usize) = match (vip.key.address, frame.get(12..14)) {
        (IpAddr::V4(address), Some([0x08, 0x00])) => (address.octets().to_vec(), 30),
        (IpAddr::V6(address), Some([0x86, 0xdd])) => (address.octets().to_vec(), 38),
        _ => return,
    };
    let port_at = at + address.len() + 2;
    if frame.len() < port_at + 2 {
        return;
    }
    frame[at..at + address.len()].copy_from_slice(&address);
    if vip.key.port != 0 {
        frame[port_at..port_at + 2].copy_from_slice(&vip.key.port.to_be_bytes());
    }
}

/// The frames of an input.
fn arrivals(history: &History, mut input: &[u8]) -> Vec<Arrival> {
    let first = &history[FIRST];
    let count = first.vips().count();
    let mut arrivals = Vec::new();
    let (mut before, mut services) = (FIRST - 1, FIRST);
    while let Some((head, rest)) = input.split_first_chunk::<4>()
        && arrivals.len() < FRAMES
    {
        let [bits, vip, high, low] = *head;
        // So many changes come before it. The worker sees the last of them only.
        let changes = high >> 5;
        let len = u16::from_be_bytes([high & 0x1f, low]);
        let control = Control::read(bits, vip);
        if changes > 0 && services + 1 < history.len() {
            before = services;
            services = (services + usize::from(changes)).min(history.len() - 1);
        }
        let longest = CHUNK - usize::from(control.room);
        let (frame, rest) = rest.split_at(usize::from(len).min(rest.len()).min(longest));
        let mut frame = frame.to_vec();
        if let Some(number) = control.aims_at {
            let vip = first.vips().nth(usize::from(number) % count);
            aim(&mut frame, vip.expect("it is one of them"));
        }
        arrivals.push(Arrival {
            control,
            frame,
            services,
            before,
        });
        input = rest;
    }
    arrivals
}

fn forwarder(table: &Arc<ServiceTable>) -> Forwarder {
    let config = ForwarderConfig {
        flow_table_capacity: 16,
        seeds: [1, 2, 3, 4],
    };
    Forwarder::new(&config, Arc::clone(table), Arc::new(WorkerCounters::new()))
        .expect("the capacity is valid")
}

/// Whether etherparse can read all of a frame.
fn is_valid(frame: &[u8]) -> bool {
    SlicedPacket::from_ethernet(frame).is_ok_and(|sliced| sliced.transport.is_some())
}

/// Bytes that the encapsulation puts between Ethernet header and packet.
fn overhead(table: &ServiceTable, outcome: &Outcome) -> usize {
    let real = table.real(outcome.real.index()).expect("it was chosen");
    table
        .settings()
        .encapsulation
        .overhead(real.address.is_ipv4())
}

/// The frame without the outer headers that were taken off; its ethertype is still theirs.
fn stripped(arriving: &[u8], packet: &Packet<'_>) -> Vec<u8> {
    let taken_off = packet.stripped_len();
    if taken_off == 0 {
        return arriving.to_vec();
    }
    [&arriving[..14], &arriving[14 + taken_off..]].concat()
}

/// Whether two packets are the same. Of one that came in a tunnel, TTL and header checksum differ; of
/// which IP version it is, the tunnel says, and not its first byte.
fn assert_same_packet(sent: &[u8], arrived: &[u8], from_tunnel: bool) {
    let mask = |packet: &[u8]| {
        let mut packet = packet.to_vec();
        if from_tunnel {
            for at in [7, 8, 10, 11] {
                packet[at] = 0;
            }
        }
        packet
    };
    assert_eq!(mask(sent), mask(arrived), "the packet changed");
}

/// Everything that holds for one frame and its outcome.
fn check(table: &ServiceTable, arriving: &[u8], outcome: &Outcome, packet: &Packet<'_>) {
    let has_real = outcome.real != RealId::NONE;
    let from_tunnel = packet.stripped_len() > 0;
    assert_eq!(packet.frame_len(), arriving.len());
    let arriving = stripped(arriving, packet);
    if has_real {
        assert_ne!(outcome.selection, Selection::None);
        let vip = table.vip(outcome.vip).expect("a real without a VIP");
        let real = table.real(outcome.real.index()).expect("it was chosen");
        assert_eq!(real.id, outcome.real, "its number is another real's");
        let is_local = real.local && vip.flags.contains(VipFlags::LOCAL_VIP);
        assert_eq!(outcome.verdict == Verdict::Pass, is_local);
    }
    match outcome.verdict {
        Verdict::Pass => {
            assert_eq!(packet.frame().len(), arriving.len());
            assert_same_packet(
                packet.frame().get(14..).unwrap_or_default(),
                arriving.get(14..).unwrap_or_default(),
                from_tunnel,
            );
        }
        Verdict::Drop(reason) => assert!(!reason.name().is_empty()),
        Verdict::Transmit { len } => {
            let sent = packet
                .buffer()
                .get(..usize::from(len))
                .expect("the frame lies in its buffer");
            if has_real {
                let overhead = overhead(table, outcome);
                assert_eq!(sent.len(), arriving.len() + overhead);
                assert_same_packet(&sent[14 + overhead..], &arriving[14..], from_tunnel);
            }
            if !from_tunnel && is_valid(&arriving) {
                check_sent(table, sent);
            }
        }
    }
}

/// What is sent for a valid frame is valid.
fn check_sent(table: &ServiceTable, sent: &[u8]) {
    let read = match SlicedPacket::from_ethernet(sent) {
        Ok(read) => read,
        Err(error) => panic!("etherparse cannot read what is sent: {error}"),
    };
    if let Some(etherparse::NetSlice::Ipv4(ip)) = &read.net {
        // Over the bytes: etherparse's own sum leaves the reserved flag out.
        let words = ip.header().slice().chunks_exact(2);
        let sum: u32 = words
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "header checksum");
    }
    if let Encapsulation::Gue { port, .. } = table.settings().encapsulation
        && let Some(etherparse::TransportSlice::Udp(udp)) = &read.transport
    {
        assert_eq!(udp.destination_port(), port);
    }
}

/// What leaves, and the counters, when the frames go through a forwarder in these bursts.
fn through_forwarder(
    history: &History,
    arrivals: &[Arrival],
) -> (Vec<Vec<u8>>, Arc<WorkerCounters>) {
    let mut forwarder = forwarder(&history[FIRST]);
    let mut now_ns = 1_000_000_000_000;
    let mut sent = Vec::new();
    for arrivals in bursts(arrivals) {
        let table = &history[arrivals[0].services];
        forwarder.set_table(Arc::clone(table));
        if arrivals.iter().any(|one| one.control.later) {
            now_ns += 31_000_000_000;
        }
        let mut buffers: Vec<Vec<u8>> = arrivals
            .iter()
            .map(|one| {
                let mut bytes = one.received(history);
                bytes.resize(CHUNK, 0xa5);
                bytes
            })
            .collect();
        let mut burst: Vec<Packet<'_>> = buffers
            .iter_mut()
            .zip(arrivals)
            .map(|(buffer, one)| {
                let received = usize::from(one.control.room) + one.frame.len();
                Packet::tagged(buffer, received).expect("the tag makes sense")
            })
            .collect();
        let mut outcomes = [no_outcome(); BURST];
        forwarder.process(now_ns, &mut burst, &mut outcomes);
        for ((packet, outcome), one) in burst.iter().zip(&outcomes).zip(arrivals) {
            check(table, &one.frame, outcome, packet);
            let bytes = one.frame.len() as u64;
            match outcome.verdict {
                Verdict::Transmit { len } => {
                    forwarder.counters().transmitted.count(bytes);
                    sent.push(packet.buffer()[..usize::from(len)].to_vec());
                }
                Verdict::Pass => forwarder.counters().passed.count(bytes),
                Verdict::Drop(_) => {}
            }
        }
        assert_accounted(forwarder.counters());
    }
    (sent, Arc::clone(forwarder.counters()))
}

/// The same through the rings of a worker.
fn through_worker(history: &History, arrivals: &[Arrival]) -> (Vec<Vec<u8>>, Arc<WorkerCounters>) {
    let memory = MemoryConfig {
        frames: 2 * FRAMES,
        fill_ring: 2 * FRAMES,
        rx_ring: FRAMES,
        tx_ring: 8,
        completion_ring: FRAMES,
        kick_budget: 4,
        real_time: false,
        ..MemoryConfig::default()
    };
    let (port, nic) = pair(&memory).expect("an event descriptor");
    let forwarder = forwarder(&history[FIRST]);
    let counters = Arc::clone(forwarder.counters());
    let kernel = Kernel::default();
    let publisher = Publisher::new(Arc::clone(&history[FIRST]));
    let mut engine = Engine::new(
        &WorkerConfig::default(),
        port,
        forwarder,
        publisher.subscribe(),
        Box::new(kernel.clone()),
    );
    let mut sent = Vec::new();
    let mut injected = 0;
    for arrivals in bursts(arrivals) {
        let table = &history[arrivals[0].services];
        if table.generation() != publisher.current().generation() {
            publisher.publish(Arc::clone(table));
        }
        for one in arrivals {
            nic.inject(&one.received(history))
                .expect("there is room for it");
            injected += 1;
        }
        engine.round().expect("the queue is there");
        sent.extend(std::iter::from_fn(|| nic.take()));
        assert_eq!(counters.received.packets.get(), injected);
        assert_accounted(&counters);
        assert_eq!(engine.census().lost(0), 0, "chunks are lost");
        let passed = kernel.frames.lock().expect("no panic").len() as u64;
        assert_eq!(counters.passed.packets.get(), passed);
        assert_eq!(counters.transmitted.packets.get(), sent.len() as u64);
    }
    (sent, counters)
}

/// Empties the table that all forwarders of a history share, so that inputs do not depend on those
/// before them.
fn forget_shared_flows(history: &History) {
    let shared = history[FIRST].global().expect("a VIP wants it");
    let flows: Vec<SharedFlow> = shared.iter_slots(0..shared.slots()).collect();
    for flow in flows {
        match flow.key {
            AnyKey::V4(key) => shared.remove(&key),
            AnyKey::V6(key) => shared.remove(&key),
        };
    }
}

fn run(input: &[u8]) {
    let Some((&choice, rest)) = input.split_first() else {
        return;
    };
    let history = history(choice);
    let arrivals = arrivals(history, rest);
    forget_shared_flows(history);
    let (expected, counters) = through_forwarder(history, &arrivals);
    forget_shared_flows(history);
    let (sent, of_worker) = through_worker(history, &arrivals);
    // The worker's clock does not jump.
    if !arrivals.iter().any(|one| one.control.later) {
        assert_eq!(sent, expected, "the worker sends what the forwarder says");
        for row in WorkerCounters::ROWS {
            if row.name != "connection-window-ns" {
                let (one, other) = ((row.read)(&counters), (row.read)(&of_worker));
                assert_eq!(one, other, "{}", row.name);
            }
        }
    }
}

#[test]
fn frames() {
    bolero::check!()
        .with_max_len(4096)
        // Not by time: all committed inputs come before.
        .with_iterations(5_000)
        .with_test_time(Duration::MAX)
        .for_each(run);
}
