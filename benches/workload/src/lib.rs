//! A forwarder with a full flow table and bursts of packets for it: what `forward` is measured with.
//!
//! Everything is seeded: the same calls make the same packets and the same table, on every machine.
#![forbid(unsafe_code)]

pub mod routes;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use dataplane::{
    capture::{Decided, Monitor},
    counters::WorkerCounters,
    forward::{BURST, Forwarder, ForwarderConfig, Outcome, Packet, Selection, Verdict},
    service::{
        Encapsulation, HashFunction, MacAddress, Protocol, RealId, RealSpec, ServiceControl,
        ServiceSpec, Settings, SourceRoutes, VipFlags, VipKey, VipSpec,
    },
};
use xdp_layout::Tag;

/// Reals of the VIP.
pub const REALS: u8 = 100;
/// Frames lie in chunks of this size, as in a socket's memory.
const CHUNK: usize = 2048;
/// Where the kernel puts the Ethernet header.
const FRAME_AT: usize = 256;
/// Ethernet, IP and TCP.
const HEADERS_V4: usize = 14 + 20 + 20;
const HEADERS_V6: usize = 14 + 40 + 20;
const PORT: u16 = 443;
/// Chunks that take turns.
const CHUNKS: usize = 4 * BURST;

/// IP version of the packets and of their outer headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4 in IPv4.
    V4,
    /// IPv6 in IPv6.
    V6,
}

impl IpVersion {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Name in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    const fn headers(self) -> usize {
        match self {
            Self::V4 => HEADERS_V4,
            Self::V6 => HEADERS_V6,
        }
    }

    /// A real of the VIP; any number stands for one.
    pub const fn real(self, number: u16) -> IpAddr {
        self.address(101, 1 + (number % REALS as u16) as u8)
    }

    /// Host `host` of a network of documentation addresses that its purpose has for itself.
    const fn address(self, network: u8, host: u8) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(198, 51, network, host)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(
                0x2001,
                0xdb8,
                network as u16,
                0,
                0,
                0,
                0,
                host as u16,
            )),
        }
    }
}

/// What the VIP has besides reals, and how its packets are sent on.
#[derive(Clone, Debug)]
pub struct Services {
    /// Of the VIP and of the packets.
    pub protocol: Protocol,
    /// IP version of the reals, where it is not that of the packets.
    pub reals: Option<IpVersion>,
    /// Outer headers.
    pub encapsulation: Encapsulation,
    /// Its flags.
    pub flags: VipFlags,
    /// Source routes.
    pub routes: SourceRoutes,
    /// Clients of the flows, in turn; without any, flows have addresses of their own.
    pub clients: Arc<[IpAddr]>,
}

impl Default for Services {
    fn default() -> Self {
        Self {
            protocol: Protocol::Tcp,
            reals: None,
            encapsulation: Encapsulation::Ipip,
            flags: VipFlags::empty(),
            routes: SourceRoutes::default(),
            clients: Arc::default(),
        }
    }
}

/// A forwarder, the flows it knows and a memory of frames.
pub struct Workload {
    version: IpVersion,
    /// Bytes of the outer headers.
    room: usize,
    forwarder: Forwarder,
    counters: Arc<WorkerCounters>,
    memory: Box<[u8]>,
    /// A chunk's bytes from its room to the end of the headers, before the flow is filled in.
    template: Vec<u8>,
    next_chunk: usize,
    clients: Arc<[IpAddr]>,
    outcomes: [Outcome; BURST],
    now_ns: u64,
}

/// Frames that wait to be decided.
#[derive(Debug)]
pub struct Burst {
    first_chunk: usize,
    packets: usize,
}

impl Workload {
    /// A forwarder whose flow table is made for `capacity` flows, with a hundred reals and one TCP VIP.
    ///
    /// # Panics
    /// The table does not fit into memory.
    pub fn new(version: IpVersion, capacity: usize) -> Self {
        Self::with_services(version, capacity, Services::default())
    }

    /// As [`Self::new`], with services of these.
    ///
    /// # Panics
    /// As [`Self::new`], or a route is for clients of a family without a real for it.
    pub fn with_services(version: IpVersion, capacity: usize, services: Services) -> Self {
        let Services {
            protocol,
            reals,
            encapsulation,
            flags,
            routes,
            clients,
        } = services;
        let vip = version.address(100, 10);
        let spec = ServiceSpec {
            settings: Settings {
                next_hop_mac: Some(MacAddress([2, 0, 0, 0, 0xcc, 3])),
                encapsulation,
                // Else a flood of new flows would be measured as what it costs not to store them.
                connection_rate_cap: u32::MAX,
                ..Settings::default()
            },
            vips: vec![VipSpec {
                key: VipKey::exact(vip, PORT, protocol),
                hash: HashFunction::MaglevV2,
                flags,
                reals: (0..REALS)
                    .map(|number| RealSpec {
                        address: reals.unwrap_or(version).real(number.into()),
                        weight: 1,
                        local: false,
                        down: false,
                    })
                    .collect(),
            }],
            source_routes: routes,
            ..ServiceSpec::default()
        };
        let table = ServiceControl::new()
            .apply(&spec)
            .expect("a valid specification");
        let vip = table.vips().next().expect("the VIP");
        let tag = Tag {
            generation: vip.generation,
            vip: vip.number,
            room: vip.room,
            zero: 0,
        };
        let template = template(version, tag, &vip.key);
        let counters = Arc::new(WorkerCounters::new());
        let config = ForwarderConfig {
            flow_table_capacity: capacity,
            seeds: [1, 2, 3, 4],
        };
        let forwarder =
            Forwarder::new(&config, table, Arc::clone(&counters)).expect("memory for the table");
        Self {
            version,
            room: tag.room.into(),
            forwarder,
            counters,
            memory: vec![0; CHUNKS * CHUNK].into_boxed_slice(),
            template,
            next_chunk: 0,
            clients,
            outcomes: [Outcome {
                verdict: Verdict::Pass,
                vip: 0,
                real: RealId::NONE,
                selection: Selection::None,
            }; BURST],
            now_ns: 1_000_000_000_000,
        }
    }

    /// Sends two packets of each flow from `0` to `flows`, so that all are established.
    pub fn establish(&mut self, flows: u64) {
        for _ in 0..2 {
            for first in (0..flows).step_by(BURST) {
                let burst = self.arrive(first..flows.min(first + BURST as u64));
                self.decide(&burst);
            }
        }
    }

    /// Lays a packet of each of these flows into the next chunks, as the card and the XDP program do.
    ///
    /// # Panics
    /// There are more than [`BURST`].
    pub fn arrive(&mut self, flows: impl IntoIterator<Item = u64>) -> Burst {
        let first_chunk = self.next_chunk;
        let mut packets = 0;
        for flow in flows {
            let start = (first_chunk + packets) * CHUNK + FRAME_AT - self.room;
            let bytes = &mut self.memory[start..start + self.template.len()];
            bytes.copy_from_slice(&self.template);
            let packet = &mut bytes[self.room + 14..];
            if self.clients.is_empty() {
                write_flow(self.version, packet, flow);
            } else {
                write_client(packet, &self.clients, flow);
            }
            packets += 1;
        }
        assert!(packets <= BURST, "a burst of {packets} packets");
        self.next_chunk = (first_chunk + BURST) % CHUNKS;
        Burst {
            first_chunk,
            packets,
        }
    }

    /// Has the forwarder decide the burst. This is what is measured; the packets' few words for the
    /// forwarder are made here as the worker's loop makes them.
    ///
    /// # Panics
    /// The burst is of another workload.
    #[inline]
    pub fn decide(&mut self, burst: &Burst) {
        let received = self.template.len();
        let start = FRAME_AT - self.room;
        let mut packets = arrayvec::ArrayVec::<Packet<'_>, BURST>::new();
        let chunks = self.memory.chunks_exact_mut(CHUNK);
        for chunk in chunks.skip(burst.first_chunk).take(burst.packets) {
            packets.push(Packet::tagged(&mut chunk[start..], received).expect("a tag"));
        }
        self.now_ns += 1000;
        self.forwarder
            .process(self.now_ns, &mut packets, &mut self.outcomes);
    }

    /// As [`Self::decide`], with a capture's monitor where the worker's loop has it.
    ///
    /// # Panics
    /// The burst is of another workload.
    #[inline]
    pub fn decide_watched(&mut self, burst: &Burst, monitor: &mut Monitor) {
        let received = self.template.len();
        let start = FRAME_AT - self.room;
        let chunks = self.memory.chunks_exact_mut(CHUNK);
        for chunk in chunks.skip(burst.first_chunk).take(burst.packets) {
            monitor.arrives(&mut chunk[start..], received);
        }
        self.decide(burst);
        monitor.decided(&Decided {
            now_ns: self.now_ns,
            forwarder: &self.forwarder,
            outcomes: &self.outcomes,
            stalled: 0,
        });
    }

    /// Key of the VIP.
    pub fn vip(&self) -> VipKey {
        VipKey::exact(self.version.address(100, 10), PORT, Protocol::Tcp)
    }

    /// How many packets of the last burst got their real this way.
    ///
    /// # Panics
    /// A packet was not sent.
    pub fn selected(&self, burst: &Burst, selection: Selection) -> u64 {
        let outcomes = &self.outcomes[..burst.packets];
        for outcome in outcomes {
            let is_sent = matches!(outcome.verdict, Verdict::Transmit { .. });
            assert!(is_sent, "{outcome:?}");
        }
        let selected = outcomes.iter().filter(|one| one.selection == selection);
        selected.count() as u64
    }

    /// What the forwarder counted.
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }
}

/// A frame as it arrives, without room: headers of a TCP segment.
pub fn frame(version: IpVersion) -> Vec<u8> {
    let mut bytes = vec![0; version.headers()];
    let vip = VipKey::exact(version.address(100, 10), PORT, Protocol::Tcp);
    write_headers(&mut bytes, &vip);
    bytes
}

/// Room with its tag, and headers of a packet without payload.
fn template(version: IpVersion, tag: Tag, vip: &VipKey) -> Vec<u8> {
    let room = usize::from(tag.room);
    let mut bytes = vec![0; room + version.headers()];
    bytes[..Tag::SIZE].copy_from_slice(&tag.to_bytes());
    write_headers(&mut bytes[room..], vip);
    bytes
}

/// Writes the headers of a TCP segment without payload, or of a datagram with a payload as long as the rest of
/// a TCP header; source address and port are 0.
fn write_headers(frame: &mut [u8], vip: &VipKey) {
    const ACK: u8 = 0x10;
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0xaa, 2, 2, 0, 0, 0, 0xbb, 1]);
    let protocol = vip.protocol.number();
    let transport = match vip.address {
        IpAddr::V4(vip) => {
            frame[12..14].copy_from_slice(&[8, 0]);
            frame[14..26].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0]);
            frame[30..34].copy_from_slice(&vip.octets());
            34
        }
        IpAddr::V6(vip) => {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 20, protocol, 64]);
            frame[22..30].copy_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 1, 0, 2]);
            frame[38..54].copy_from_slice(&vip.octets());
            54
        }
    };
    frame[transport + 2..transport + 4].copy_from_slice(&PORT.to_be_bytes());
    let (at, bytes) = match vip.protocol {
        Protocol::Tcp => (12, [0x50, ACK]),
        Protocol::Udp => (4, [0, 20]),
    };
    frame[transport + at..][..2].copy_from_slice(&bytes);
}

/// Makes source address and port of an IP packet those of a flow: 48 bits that differ from flow to
/// flow, scattered by a multiplication with an odd number.
fn write_flow(version: IpVersion, packet: &mut [u8], flow: u64) {
    let [_, _, source @ .., a, b] = flow.wrapping_mul(0x9e37_79b9_7f4b).to_be_bytes();
    let (address, port) = match version {
        IpVersion::V4 => (12, 20),
        IpVersion::V6 => (20, 40),
    };
    packet[address..address + 4].copy_from_slice(&source);
    packet[port..port + 2].copy_from_slice(&[a, b]);
}

/// Makes source address and port those of a flow of one of the clients: the next one has the next flow,
/// and in the next turn with another port.
fn write_client(packet: &mut [u8], clients: &[IpAddr], flow: u64) {
    let turn = flow / clients.len() as u64;
    let port = (turn as u16).wrapping_mul(0x9e37).to_be_bytes();
    match clients[(flow % clients.len() as u64) as usize] {
        IpAddr::V4(client) => {
            packet[12..16].copy_from_slice(&client.octets());
            packet[20..22].copy_from_slice(&port);
        }
        IpAddr::V6(client) => {
            packet[8..24].copy_from_slice(&client.octets());
            packet[40..42].copy_from_slice(&port);
        }
    }
}

/// Numbers of flows in random order, the same in every run.
pub struct RandomFlows {
    state: u64,
    flows: u64,
}

impl RandomFlows {
    /// Flows below `flows`.
    pub const fn below(flows: u64) -> Self {
        Self {
            state: 0x0139_408d_cbbf_7a44,
            flows,
        }
    }
}

impl Iterator for RandomFlows {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        // Xorshift64*.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let random = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        Some(((u128::from(random) * u128::from(self.flows)) >> 64) as u64)
    }
}
