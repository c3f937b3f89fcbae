//! The short way of most packets decides, counts and writes what the long way does.

mod common;

use std::net::SocketAddr;

use common::{
    Bench, NotSent, V4_REALS, V6_REALS,
    frames::{self, Segment},
    services::gue,
    settings, vip,
};
use dataplane::{
    forward::{BURST, Outcome, Packet},
    service::{
        Encapsulation,
        Protocol::{self, Tcp, Udp},
        ServiceSpec, Settings, VipFlags,
    },
};
use proptest::prelude::*;
use xdp_layout::Tag;

const ROOM_V4: u8 = 20;
const ROOM_V6: u8 = 40;

/// VIPs by single address and port. `SRC_DST_PORT` changes nothing for them, but VIPs with a flag go
/// the long way.
///
/// Those in `flagged` have one in any case.
fn services(
    flags: VipFlags,
    flagged: [bool; 7],
    encapsulation: Encapsulation,
    next_hop: bool,
) -> ServiceSpec {
    let mut spec = ServiceSpec {
        settings: Settings {
            encapsulation,
            ..settings()
        },
        vips: vec![
            vip("203.0.113.10", 80, Tcp, flags, V4_REALS),
            vip("203.0.113.10", 53, Udp, flags, V4_REALS),
            vip("203.0.113.20", 80, Tcp, flags, V6_REALS),
            vip("203.0.113.20", 53, Udp, flags, &[V4_REALS[0], V6_REALS[0]]),
            vip("2001:db8:a::10", 80, Tcp, flags, V6_REALS),
            vip("2001:db8:a::10", 53, Udp, flags, V6_REALS),
            vip("203.0.113.40", 80, Tcp, flags, &[]),
        ],
        ..ServiceSpec::default()
    };
    if !next_hop {
        spec.settings.next_hop_mac = None;
    }
    for (vip, flagged) in spec.vips.iter_mut().zip(flagged) {
        vip.flags
            .set(VipFlags::SRC_DST_PORT, flagged || !flags.is_empty());
    }
    spec
}

/// One packet of a sequence.
#[derive(Clone, Debug)]
struct Arrival {
    vip: usize,
    flow: u16,
    tcp_flags: u8,
    payload: usize,
    /// A byte of the frame to change, and to what.
    change: Option<(usize, u8)>,
    /// Bytes to cut off the end.
    cut: usize,
    /// The tag's generation is another.
    stale: bool,
    room: u8,
    /// Seconds since the packet before.
    pause: u64,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let rarely = |often: u32| prop_oneof![often => Just(false), 1 => Just(true)];
    (
        0..7_usize,
        0..12_u16,
        prop::sample::select(vec![0x02_u8, 0x10, 0x10, 0x10, 0x14, 0x12, 0x18]),
        prop_oneof![4 => 0..40_usize, 1 => 1400..1500_usize],
        prop::option::weighted(0.2, (0..90_usize, any::<u8>())),
        prop_oneof![8 => Just(0_usize), 1 => 1..60_usize],
        rarely(20),
        prop::sample::select(vec![ROOM_V4, ROOM_V4, ROOM_V6, ROOM_V6, 28, 48]),
        prop_oneof![8 => 0..2_u64, 1 => 29..33_u64],
    )
        .prop_map(
            |(vip, flow, tcp_flags, payload, change, cut, stale, room, pause)| Arrival {
                vip,
                flow,
                tcp_flags,
                payload,
                change,
                cut,
                stale,
                room,
                pause,
            },
        )
}

impl Arrival {
    fn frame(&self, spec: &ServiceSpec) -> Vec<u8> {
        let key = spec.vips[self.vip].key;
        let client = if key.address.is_ipv4() {
            format!("192.0.2.{}:{}", self.flow % 5, 40_000 + self.flow)
        } else {
            format!("[2001:db8:c::{}]:{}", self.flow % 5, 40_000 + self.flow)
        };
        let destination = SocketAddr::new(key.address, key.port).to_string();
        let mut frame = match key.protocol {
            Protocol::Tcp => frames::tcp(&client, &destination, Segment::Ack),
            Protocol::Udp => frames::udp(&client, &destination, b""),
        };
        if key.protocol == Protocol::Tcp {
            let flags_at = frame.len() - 20 + 13;
            frame[flags_at] = self.tcp_flags;
        }
        frame.resize(frame.len() + self.payload, 0x5a);
        if let Some((at, value)) = self.change
            && let Some(byte) = frame.get_mut(at)
        {
            *byte = value;
        }
        frame.truncate(frame.len() - self.cut.min(frame.len()));
        frame
    }

    fn send(&self, bench: &mut Bench, frame: &[u8]) -> Option<Result<Vec<u8>, NotSent>> {
        bench.now_ns += self.pause * 1_000_000_000;
        let mut buffer = self.buffer(bench, frame);
        bench.send_tagged(&mut buffer, usize::from(self.room) + frame.len())
    }

    /// The frame as the XDP program hands it over.
    fn buffer(&self, bench: &Bench, frame: &[u8]) -> Vec<u8> {
        let vip = bench.forwarder.table().vips().nth(self.vip).unwrap();
        let tag = Tag {
            generation: vip.generation + u32::from(self.stale),
            vip: vip.number,
            room: self.room,
            zero: 0,
        };
        let room = usize::from(self.room);
        let mut buffer = vec![0xa5; room + frame.len() + 64];
        buffer[..Tag::SIZE].copy_from_slice(&tag.to_bytes());
        buffer[room..room + frame.len()].copy_from_slice(frame);
        buffer
    }
}

/// What became of one packet of a burst.
#[derive(Debug, PartialEq)]
struct Decided {
    outcome: Outcome,
    buffer: Vec<u8>,
    lru_miss: bool,
    too_big: bool,
}

fn send_burst(bench: &mut Bench, arrivals: &[Arrival], frames: &[Vec<u8>]) -> Vec<Decided> {
    bench.now_ns += arrivals[0].pause * 1_000_000_000;
    let mut buffers: Vec<Vec<u8>> = arrivals
        .iter()
        .zip(frames)
        .map(|(arrival, frame)| arrival.buffer(bench, frame))
        .collect();
    let mut burst: Vec<Packet<'_>> = buffers
        .iter_mut()
        .zip(arrivals.iter().zip(frames))
        .map(|(buffer, (arrival, frame))| {
            let received = usize::from(arrival.room) + frame.len();
            Packet::tagged(buffer, received).expect("the room is there")
        })
        .collect();
    let mut outcomes = [common::no_outcome(); BURST];
    bench
        .forwarder
        .process(bench.now_ns, &mut burst, &mut outcomes);
    let events = bench.forwarder.events();
    buffers
        .into_iter()
        .zip(outcomes)
        .enumerate()
        .map(|(slot, (buffer, outcome))| Decided {
            outcome,
            buffer,
            lru_miss: events.is_lru_miss(slot),
            too_big: events.is_too_big(slot),
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_short_way_ends_where_the_long_one_does(
        arrivals in prop::collection::vec(arrival(), 1..200),
        encapsulation in prop::sample::select(vec![Encapsulation::Ipip, gue().encapsulation]),
        next_hop in prop_oneof![9 => Just(true), 1 => Just(false)],
    ) {
        let (short, long) = (
            services(VipFlags::empty(), [false; 7], encapsulation, next_hop),
            services(VipFlags::SRC_DST_PORT, [false; 7], encapsulation, next_hop),
        );
        let (mut by_short, mut by_long) = (Bench::new(&short), Bench::new(&long));
        for arrival in &arrivals {
            let frame = arrival.frame(&short);
            let outcomes = [&mut by_short, &mut by_long].map(|bench| {
                let sent = arrival.send(bench, &frame);
                (sent, bench.last)
            });
            prop_assert_eq!(&outcomes[0], &outcomes[1], "{:?}", arrival);
        }
        let [short, long] = [&by_short, &by_long].map(|bench| format!("{:?}", bench.counters));
        prop_assert!(short == long, "counters differ: {}", first_difference(&short, &long));
    }

    /// Packets of both ways and both IP versions in one burst, and bursts of every size one after another.
    /// The long way decides them in the same bursts.
    #[test]
    fn the_ways_of_a_burst_do_not_disturb_each_other(
        arrivals in prop::collection::vec(arrival(), 64..400),
        sizes in prop::collection::vec(prop_oneof![1..=BURST, Just(BURST)], 1..12),
        flagged: [bool; 7],
        encapsulation in prop::sample::select(vec![Encapsulation::Ipip, gue().encapsulation]),
    ) {
        let (short, long) = (
            services(VipFlags::empty(), flagged, encapsulation, true),
            services(VipFlags::SRC_DST_PORT, flagged, encapsulation, true),
        );
        let (mut by_short, mut by_long) = (Bench::new(&short), Bench::new(&long));
        let mut rest = &arrivals[..];
        for size in sizes.into_iter().cycle() {
            let (burst, others) = rest.split_at(size.min(rest.len()));
            rest = others;
            if burst.is_empty() {
                break;
            }
            let frames: Vec<Vec<u8>> = burst.iter().map(|arrival| arrival.frame(&short)).collect();
            let by_short = send_burst(&mut by_short, burst, &frames);
            let by_long = send_burst(&mut by_long, burst, &frames);
            for (slot, (short, long)) in by_short.iter().zip(&by_long).enumerate() {
                prop_assert_eq!(short, long, "{} of {}: {:?}", slot, burst.len(), burst[slot]);
            }
        }
        let [short, long] = [&by_short, &by_long].map(|bench| format!("{:?}", bench.counters));
        prop_assert!(short == long, "counters differ: {}", first_difference(&short, &long));
    }

    /// Where packets do not know of each other, a burst decides as its packets would one by one: with
    /// one packet of each flow.
    #[test]
    fn a_burst_decides_as_its_packets_would_one_by_one(
        arrivals in prop::collection::vec(arrival(), 1..=BURST),
        flagged: [bool; 7],
        encapsulation in prop::sample::select(vec![Encapsulation::Ipip, gue().encapsulation]),
    ) {
        let spec = services(VipFlags::empty(), flagged, encapsulation, true);
        let (mut at_once, mut by_ones) = (Bench::new(&spec), Bench::new(&spec));
        let arrivals: Vec<Arrival> = (0..)
            .zip(arrivals)
            .map(|(flow, arrival)| Arrival { flow, pause: 0, ..arrival })
            .collect();
        let frames: Vec<Vec<u8>> = arrivals.iter().map(|arrival| arrival.frame(&spec)).collect();
        // The second time the table has the flows.
        for _ in 0..2 {
            let together = send_burst(&mut at_once, &arrivals, &frames);
            for (slot, together) in together.iter().enumerate() {
                let alone = send_burst(&mut by_ones, &arrivals[slot..=slot], &frames[slot..=slot]);
                prop_assert_eq!(together, &alone[0], "{}: {:?}", slot, arrivals[slot]);
            }
        }
        let [together, alone] = [&at_once, &by_ones].map(|bench| format!("{:?}", bench.counters));
        prop_assert!(together == alone, "counters differ: {}", first_difference(&together, &alone));
    }
}

/// Where two texts part.
fn first_difference(a: &str, b: &str) -> String {
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let around = |text: &str| text[same.saturating_sub(40)..text.len().min(same + 40)].to_owned();
    format!("{:?} and {:?}", around(a), around(b))
}
