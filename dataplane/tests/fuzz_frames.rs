//! Fuzz target: any bytes as frames, through the forwarder and through a whole worker.
//!
//! An input is a byte that chooses the settings and then frames, each with a byte of [`Control`], a
//! VIP number for its tag or its destination, two bytes of length (most significant first) and its bytes. A plain test
//! run replays `__fuzz__/frames` and some random inputs; `cargo xtask fuzz frames` looks for new
//! ones, guided by the code that they reach.

mod common;
mod worker_rig;

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
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
        Encapsulation, Protocol, Publisher, RealId, ServerIdSpec, ServiceControl, ServiceSpec,
        ServiceTable, Settings, SourceRouteSpec, SourceRoutes, Vip, VipFlags,
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
    spec.server_ids = reals
        .enumerate()
        .map(|(number, real)| ServerIdSpec {
            id: 0x1001 + number as u32,
            real: real.parse().expect("an address"),
            valid: true,
        })
        .collect();
    spec
}

/// The tables that inputs choose from: building one takes longer than many inputs do.
fn table(choice: u8) -> Arc<ServiceTable> {
    static TABLES: OnceLock<Vec<Arc<ServiceTable>>> = OnceLock::new();
    let tables = TABLES.get_or_init(|| {
        let too_big = |settings| Settings {
            icmp_too_big: true,
            ..settings
        };
        let unknown_next_hop = Settings {
            next_hop_mac: None,
            ..settings()
        };
        [
            settings(),
            gue(),
            too_big(settings()),
            too_big(gue()),
            unknown_next_hop,
        ]
        .into_iter()
        .map(|settings| {
            ServiceControl::new()
                .apply(&services(settings))
                .expect("a valid specification")
        })
        .collect()
    });
    Arc::clone(&tables[usize::from(choice) % tables.len()])
}

/// How a frame arrives.
#[derive(Clone, Copy, Debug)]
struct Control {
    room: u8,
    /// The XDP program found this VIP.
    vip: Option<u8>,
    /// It found it in an older table.
    stale: bool,
    /// Half a minute has passed, and more.
    later: bool,
    /// The next frame is of another burst.
    ends_burst: bool,
    /// The frame goes to this VIP: addresses are looked up by hash, so a fuzzer cannot find them.
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

    /// Tag, room and frame, as the socket receives them.
    fn received(self, table: &ServiceTable, frame: &[u8]) -> Vec<u8> {
        let number = self.vip.map_or(Tag::NO_VIP, u16::from);
        let generation = table.vip(number).map_or(0, |vip| vip.generation);
        let tag = Tag {
            generation: generation + u32::from(self.stale),
            vip: number,
            room: self.room,
            zero: 0,
        };
        let mut bytes = vec![0; usize::from(self.room)];
        bytes[..Tag::SIZE].copy_from_slice(&tag.to_bytes());
        bytes.extend_from_slice(frame);
        bytes
    }
}

#[derive(Debug)]
struct Arrival {
    control: Control,
    frame: Vec<u8>,
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
fn arrivals(table: &ServiceTable, mut input: &[u8]) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    while let Some((head, rest)) = input.split_first_chunk::<4>()
        && arrivals.len() < FRAMES
    {
        let [bits, vip, high, low] = *head;
        let len = usize::from(u16::from_be_bytes([high, low]));
        let control = Control::read(bits, vip);
        let longest = CHUNK - usize::from(control.room);
        let (frame, rest) = rest.split_at(len.min(rest.len()).min(longest));
        let mut frame = frame.to_vec();
        if let Some(number) = control.aims_at {
            let count = table.vips().count();
            let vip = table.vips().nth(usize::from(number) % count);
            aim(&mut frame, vip.expect("it is one of them"));
        }
        arrivals.push(Arrival { control, frame });
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
        assert!(table.vip(outcome.vip).is_some(), "a real without a VIP");
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
    table: &Arc<ServiceTable>,
    arrivals: &[Arrival],
) -> (Vec<Vec<u8>>, Arc<WorkerCounters>) {
    let mut forwarder = forwarder(table);
    let mut now_ns = 1_000_000_000_000;
    let mut sent = Vec::new();
    for arrivals in arrivals.chunk_by(|one, _| !one.control.ends_burst) {
        if arrivals.iter().any(|one| one.control.later) {
            now_ns += 31_000_000_000;
        }
        let mut buffers: Vec<Vec<u8>> = arrivals
            .iter()
            .map(|one| {
                let mut bytes = one.control.received(table, &one.frame);
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
    }
    assert_accounted(forwarder.counters());
    (sent, Arc::clone(forwarder.counters()))
}

/// The same through the rings of a worker.
fn through_worker(
    table: &Arc<ServiceTable>,
    arrivals: &[Arrival],
) -> (Vec<Vec<u8>>, Arc<WorkerCounters>) {
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
    let forwarder = forwarder(table);
    let counters = Arc::clone(forwarder.counters());
    let kernel = Kernel::default();
    let publisher = Publisher::new(Arc::clone(table));
    let mut engine = Engine::new(
        &WorkerConfig::default(),
        port,
        forwarder,
        publisher.subscribe(),
        Box::new(kernel.clone()),
    );
    let mut sent = Vec::new();
    for arrivals in arrivals.chunk_by(|one, _| !one.control.ends_burst) {
        for one in arrivals {
            let bytes = one.control.received(table, &one.frame);
            nic.inject(&bytes).expect("there is room for it");
        }
        engine.round().expect("the queue is there");
        sent.extend(std::iter::from_fn(|| nic.take()));
    }
    assert_accounted(&counters);
    assert_eq!(engine.census().lost(0), 0, "chunks are lost");
    let passed = kernel.frames.lock().expect("no panic").len() as u64;
    assert_eq!(counters.passed.packets.get(), passed);
    assert_eq!(counters.transmitted.packets.get(), sent.len() as u64);
    (sent, counters)
}

/// Empties the table that all forwarders of a service table share, so that inputs do not depend on
/// those before them.
fn forget_shared_flows(table: &ServiceTable) {
    let shared = table.global().expect("a VIP wants it");
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
    let table = table(choice);
    let arrivals = arrivals(&table, rest);
    forget_shared_flows(&table);
    let (expected, counters) = through_forwarder(&table, &arrivals);
    forget_shared_flows(&table);
    let (sent, of_worker) = through_worker(&table, &arrivals);
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
    bolero::check!().with_max_len(4096).for_each(run);
}
