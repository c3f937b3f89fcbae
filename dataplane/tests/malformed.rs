//! Every truncation and every single-byte change of seed packets: one verdict each, never a panic,
//! nothing lost, and the verdict that the model gives.

mod common;

use common::{
    Bench, NotSent,
    frames::{Outer, Segment, echo, icmp_error, ip_packet, patched, resized, tcp, tunnel, udp},
    model::{self, Fate, Unwrapped},
    no_outcome,
    services::{DECAP, DECAP_AND_VIP, EGRESS, every_kind_of_vip, gue},
    settings,
};
use dataplane::{
    counters::DropReason,
    forward::{BURST, Outcome, Packet, Selection, Verdict},
    service::{RealId, ServiceSpec, Settings},
};
use xdp_layout::Tag;

/// Room in front of the frames, in turn: none, as the XDP program opens it, and more than needed.
const ROOMS: [usize; 6] = [0, 20, 28, 40, 48, 64];
/// Bytes of a UMEM chunk.
const CHUNK: usize = 4096;
/// Between frames, so that the cap on new connections is not reached.
const STEP_NS: u64 = 10_000;

struct Seed {
    name: &'static str,
    frame: Vec<u8>,
}

fn seed(name: &'static str, frame: Vec<u8>) -> Seed {
    Seed { name, frame }
}

const CLIENT: &str = "192.0.2.10:40000";
const CLIENT6: &str = "[2001:db8:c::1]:40000";
const ROUTER: &str = "198.18.0.1";
const ROUTER6: &str = "2001:db8:99::1";
const FAR: &str = "198.18.9.9";
const FAR6: &str = "2001:db8:9::9";
const GUE: Outer = Outer::Gue(6080);
const VIP: &str = "203.0.113.10";
const VIP6: &str = "2001:db8:a::10";

#[rustfmt::skip]
fn seeds() -> Vec<Seed> {
    let syn = tcp(CLIENT, "203.0.113.10:80", Segment::Syn);
    let syn6 = tcp(CLIENT6, "[2001:db8:a::10]:80", Segment::Syn);
    let quoted_tcp = tcp("203.0.113.10:80", CLIENT, Segment::Ack);
    let quoted_udp = udp("203.0.113.10:53", CLIENT, b"answer");
    let quoted_tcp6 = tcp("[2001:db8:a::10]:80", CLIENT6, Segment::Ack);
    let quoted_udp6 = udp("[2001:db8:a::10]:53", CLIENT6, b"answer");
    let stranger = udp(CLIENT, "203.0.113.99:53", b"query");
    let nested = tunnel(FAR6, DECAP[1], Outer::Ipip, &tunnel(FAR, DECAP[0], GUE, &syn));
    vec![
        seed("TCP SYN over IPv4", syn.clone()),
        seed("TCP RST to any port over IPv4", tcp(CLIENT, "203.0.113.20:9", Segment::Rst)),
        seed("UDP over IPv4", udp(CLIENT, "203.0.113.10:53", b"query")),
        seed("UDP without a checksum", patched(udp(CLIENT, "203.0.113.20:53", b"query"), 40, &[0, 0])),
        seed("UDP to a VIP that hashes the destination port", udp(CLIENT, "203.0.113.32:5060", b"")),
        seed("UDP with Ethernet padding", resized(udp(CLIENT, "203.0.113.34:53", b"q"), 60)),
        seed("TCP ACK over IPv6", tcp(CLIENT6, "[2001:db8:a::10]:80", Segment::Ack)),
        seed("TCP SYN to a prefix", tcp(CLIENT6, "[2001:db8:b::7]:80", Segment::Syn)),
        seed("UDP over IPv6", udp(CLIENT6, "[2001:db8:a::34]:53", b"query")),
        seed("fragmentation needed about TCP", icmp_error(ROUTER, VIP, (3, 4), &quoted_tcp)),
        seed("port unreachable about UDP", icmp_error(ROUTER, VIP, (3, 3), &quoted_udp)),
        seed("packet too big about TCP", icmp_error(ROUTER6, VIP6, (2, 0), &quoted_tcp6)),
        seed("address unreachable about UDP", icmp_error(ROUTER6, VIP6, (1, 3), &quoted_udp6)),
        seed("echo request", echo("192.0.2.10", VIP)),
        seed("echo request over IPv6", echo("2001:db8:c::1", VIP6)),
        seed("IPv4 in IPv4 to a VIP", ip_packet("192.0.2.10", VIP, 4, &syn[14..])),
        seed("IPv6 in IPv6 to a VIP", ip_packet("2001:db8:c::1", VIP6, 41, &syn6[14..])),
        seed("GUE to a VIP with any port", udp(CLIENT, "203.0.113.20:6080", &syn[14..])),
        seed("TCP of the largest size", resized(tcp(CLIENT, "203.0.113.33:443", Segment::Ack), 1514)),
        seed("UDP over the largest size", resized(udp(CLIENT6, "[2001:db8:a::32]:7", b""), 1515)),
        seed("IPv4 in IPv4 to be stripped", tunnel(FAR, DECAP[0], Outer::Ipip, &syn)),
        seed("IPv4 in IPv6 to be stripped", tunnel(FAR6, DECAP[1], Outer::Ipip, &syn)),
        seed("IPv6 in IPv6 to be stripped", tunnel(FAR6, DECAP[1], Outer::Ipip, &syn6)),
        seed("GUE over IPv4 to be stripped", tunnel(FAR, DECAP[0], GUE, &stranger)),
        seed("GUE over IPv6 to be stripped", tunnel(FAR6, DECAP[1], GUE, &syn6)),
        seed("GUE to a VIP's address", tunnel(FAR, DECAP_AND_VIP, GUE, &stranger)),
        seed("GUE over IPv4 to be sent out", tunnel(FAR, EGRESS[0], GUE, &syn)),
        seed("GUE over IPv6 to be sent out", tunnel(FAR6, EGRESS[1], GUE, &syn)),
        seed("tunnels in a tunnel", tunnel(FAR, DECAP[0], GUE, &nested)),
        seed("last IPv4 fragment", patched(syn, 20, &[0, 185])),
        seed("TCP to somebody else", tcp(CLIENT, "203.0.113.99:80", Segment::Syn)),
    ]
}

/// Calls `visit` with every frame made of a seed and where it came from.
fn variants(seed: &Seed, mut visit: impl FnMut(&[u8], usize, &str)) {
    for len in 0..=seed.frame.len() {
        visit(&seed.frame[..len], len, "length");
    }
    let mut frame = seed.frame.clone();
    for at in 0..frame.len() {
        let original = frame[at];
        let mut change = |value: u8| {
            if value != original {
                frame[at] = value;
                visit(&frame, at, "byte");
            }
        };
        (0..=255).for_each(&mut change);
        frame[at] = original;
    }
}

/// Both encapsulations; too-big messages on, so that the longest seeds are answered.
fn both() -> [Settings; 2] {
    [settings(), gue()].map(|settings| Settings {
        icmp_too_big: true,
        ..settings
    })
}

/// What one frame must count.
#[derive(Debug, Default)]
struct Totals {
    received: (u64, u64),
    transmitted: u64,
    passed: u64,
    dropped: [u64; DropReason::ALL.len()],
}

/// A forwarder, the model, and buffers as the worker has them.
struct Yard {
    services: ServiceSpec,
    bench: Bench,
    totals: Totals,
    chunk: Vec<u8>,
}

impl Yard {
    fn new(settings: Settings) -> Self {
        let services = every_kind_of_vip(settings);
        Self {
            bench: Bench::new(&services),
            services,
            totals: Totals::default(),
            chunk: vec![0xa5; CHUNK],
        }
    }

    /// Puts a frame through the forwarder and checks everything that holds for any frame.
    fn outcome(&mut self, frame: &[u8], room: usize, case: &dyn Fn() -> String) -> Outcome {
        self.chunk[..room].fill(0xa5);
        self.chunk[room..room + frame.len()].copy_from_slice(frame);
        let mut burst =
            [Packet::untagged(&mut self.chunk, room, frame.len()).expect("it fits the chunk")];
        let mut outcomes = unset();
        self.bench
            .forwarder
            .process(self.bench.now_ns, &mut burst, &mut outcomes);
        self.bench.now_ns += STEP_NS;
        let outcome = outcomes[0];
        assert!(
            outcomes[1..].iter().all(|other| *other == UNSET),
            "{}: only its own outcome is written",
            case()
        );
        self.count(frame.len() as u64, &outcome, case);
        match (outcome.verdict, model::unwrapped(&self.services, frame)) {
            (Verdict::Transmit { len }, Unwrapped::Sent(sent)) => {
                assert_eq!(self.chunk[..usize::from(len)], sent, "{}: sent", case());
            }
            (Verdict::Transmit { len }, Unwrapped::Kept(kept)) => {
                let len = usize::from(len);
                assert!(len <= CHUNK, "{}: {len} bytes to send", case());
                if outcome.real != RealId::NONE {
                    let inner = &kept[14..];
                    assert_eq!(
                        self.chunk[len - inner.len()..len],
                        *inner,
                        "{}: inner packet",
                        case()
                    );
                }
            }
            (Verdict::Pass, Unwrapped::Kept(kept)) => {
                let end = room + frame.len();
                let start = end - kept.len();
                let untouched = self.chunk[..room].iter().all(|byte| *byte == 0xa5)
                    && self.chunk[start..end] == kept;
                assert!(untouched, "{}: passed but changed", case());
            }
            (Verdict::Drop(_), _) => {}
            (verdict, unwrapped) => panic!("{}: {verdict:?}, {unwrapped:?}", case()),
        }
        outcome
    }

    /// Counts as the worker does and compares the counters with the outcomes seen.
    fn count(&mut self, bytes: u64, outcome: &Outcome, case: &dyn Fn() -> String) {
        let counters = &self.bench.counters;
        let totals = &mut self.totals;
        totals.received.0 += 1;
        totals.received.1 += bytes;
        match outcome.verdict {
            Verdict::Transmit { .. } => {
                counters.transmitted.count(bytes);
                totals.transmitted += 1;
            }
            Verdict::Pass => {
                counters.passed.count(bytes);
                totals.passed += 1;
            }
            Verdict::Drop(reason) => {
                totals.dropped[reason as usize] += 1;
                assert_eq!(
                    counters.dropped(reason).0,
                    totals.dropped[reason as usize],
                    "{}: {}",
                    case(),
                    reason.name()
                );
            }
        }
        assert_eq!(counters.received.get(), totals.received, "{}", case());
        assert_eq!(counters.unaccounted(), 0, "{}", case());
        assert_eq!(unaccounted_bytes(&self.bench), 0, "{}", case());
    }

    /// Checks a frame against the model too.
    fn check(&mut self, frame: &[u8], room: usize, case: &dyn Fn() -> String) {
        let outcome = self.outcome(frame, room, case);
        let fate = match outcome.verdict {
            Verdict::Pass if outcome.real != RealId::NONE => Fate::Local,
            Verdict::Pass => Fate::Passed,
            Verdict::Drop(reason) => Fate::Dropped(reason),
            Verdict::Transmit { .. } if outcome.real == RealId::NONE => Fate::Answered,
            Verdict::Transmit { .. } => Fate::Balanced,
        };
        assert_eq!(fate, model::fate(&self.services, frame), "{}", case());
        let selected = outcome.selection != Selection::None;
        let by_flow = matches!(
            fate,
            Fate::Balanced
                | Fate::Local
                | Fate::Dropped(DropReason::NoReal | DropReason::NoNextHop)
        );
        assert_eq!(selected, by_flow, "{}: {:?}", case(), outcome.selection);
    }
}

/// Received bytes that are neither transmitted, passed nor dropped.
fn unaccounted_bytes(bench: &Bench) -> i128 {
    let counters = &bench.counters;
    let drops: u64 = counters.drops.iter().map(|drop| drop.bytes.get()).sum();
    i128::from(counters.received.bytes.get())
        - i128::from(counters.transmitted.bytes.get())
        - i128::from(counters.passed.bytes.get())
        - i128::from(drops)
}

/// No forwarder writes this.
const UNSET: Outcome = Outcome {
    verdict: Verdict::Transmit { len: u16::MAX },
    ..no_outcome()
};

const fn unset() -> [Outcome; BURST] {
    [UNSET; BURST]
}

fn every_truncation_and_every_change_of_a_byte(settings: Settings) {
    let seeds = seeds();
    assert!(seeds.len() >= 20);
    let mut yard = Yard::new(settings);
    let mut frames: usize = 0;
    for seed in &seeds {
        variants(seed, |frame, at, what| {
            let room = ROOMS[frames % ROOMS.len()];
            frames += 1;
            yard.check(frame, room, &|| {
                let hex = common::to_hex(frame);
                format!("{}, {what} {at}, room {room}: {hex}", seed.name)
            });
        });
    }
    let expected: usize = seeds.iter().map(|seed| 256 * seed.frame.len() + 1).sum();
    assert_eq!(frames, expected);
    // Each verdict, and each reason that a frame alone can have, did occur.
    let totals = &yard.totals;
    assert!(totals.transmitted > 0 && totals.passed > 0);
    for reason in [
        DropReason::Ipv4Options,
        DropReason::Fragment,
        DropReason::L4Truncated,
        DropReason::QuoteTruncated,
        DropReason::NoReal,
        DropReason::InnerTruncated,
        DropReason::TtlExpired,
    ] {
        assert!(totals.dropped[reason as usize] > 0, "{}", reason.name());
    }
}

#[test]
fn every_truncation_and_every_change_of_a_byte_with_ipip() {
    every_truncation_and_every_change_of_a_byte(both()[0]);
}

#[test]
fn every_truncation_and_every_change_of_a_byte_with_gue() {
    every_truncation_and_every_change_of_a_byte(both()[1]);
}

#[test]
fn bursts_are_treated_as_their_frames_one_by_one() {
    // A mixture of everything: neighbours in a burst come from all over the list.
    let mut frames = Vec::new();
    for seed in &seeds() {
        let mut nth = 0_usize;
        variants(seed, |frame, _, _| {
            nth += 1;
            if nth.is_multiple_of(61) {
                frames.push(frame.to_vec());
            }
        });
    }
    let stride = 7919;
    assert_ne!(frames.len() % stride, 0);
    let mixed: Vec<&[u8]> = (0..frames.len())
        .map(|n| &*frames[n * stride % frames.len()])
        .collect();

    for settings in both() {
        let mut one_by_one = Yard::new(settings);
        let mut in_bursts = Bench::new(&every_kind_of_vip(settings));
        let mut chunks: Vec<Vec<u8>> = vec![vec![0xa5; CHUNK]; BURST];
        // Lengths of bursts differ, so that outcomes of an earlier one cannot hide a mistake.
        let mut rest = &mixed[..];
        let mut size = BURST;
        while !rest.is_empty() {
            let (burst, after) = rest.split_at(size.min(rest.len()));
            rest = after;
            size = if size == 1 { BURST } else { size - 1 };
            let room = |n: usize| ROOMS[n % ROOMS.len()];
            let mut packets: Vec<Packet<'_>> = chunks
                .iter_mut()
                .zip(burst)
                .enumerate()
                .map(|(n, (chunk, frame))| {
                    chunk[room(n)..room(n) + frame.len()].copy_from_slice(frame);
                    Packet::untagged(chunk, room(n), frame.len()).expect("it fits the chunk")
                })
                .collect();
            let mut outcomes = unset();
            in_bursts
                .forwarder
                .process(one_by_one.bench.now_ns, &mut packets, &mut outcomes);
            assert!(outcomes[burst.len()..].iter().all(|other| *other == UNSET));
            // The clock stands still within a burst.
            let now_ns = one_by_one.bench.now_ns;
            for (n, frame) in burst.iter().enumerate() {
                let case = || common::to_hex(frame);
                one_by_one.bench.now_ns = now_ns;
                let alone = one_by_one.outcome(frame, room(n), &case);
                assert_eq!(outcomes[n], alone, "{}", case());
                if let Verdict::Transmit { len } = alone.verdict {
                    let len = usize::from(len);
                    assert_eq!(
                        packets[n].buffer()[..len],
                        one_by_one.chunk[..len],
                        "{}",
                        case()
                    );
                }
            }
        }
        let (alone, together) = (&one_by_one.bench.counters, &in_bursts.counters);
        assert_eq!(together.received.get(), alone.received.get());
        for reason in DropReason::ALL {
            assert_eq!(together.dropped(*reason), alone.dropped(*reason));
        }
        for (together, alone) in [
            (&together.ring_selections, &alone.ring_selections),
            (&together.flow_inserts, &alone.flow_inserts),
            (&together.flow_evictions, &alone.flow_evictions),
            (&together.flows, &alone.flows),
            (&together.tcp_syn_misses, &alone.tcp_syn_misses),
            (&together.tcp_non_syn_misses, &alone.tcp_non_syn_misses),
            (&together.echo_replies, &alone.echo_replies),
            (&together.icmp_errors, &alone.icmp_errors),
            (&together.payload_moves, &alone.payload_moves),
            (&together.decap.recirculated, &alone.decap.recirculated),
        ] {
            assert_eq!(together.get(), alone.get());
        }
    }
}

/// Any tag in front of any seed: no packet at all, or one verdict.
#[test]
fn every_change_of_a_byte_of_the_tag() {
    for settings in both() {
        let services = every_kind_of_vip(settings);
        let mut bench = Bench::new(&services);
        for seed in seeds() {
            let plain = bench.send(&seed.frame);
            let plain = Fate::of(&bench, &plain);
            let intact = Tag {
                generation: 0,
                vip: Tag::NO_VIP,
                room: 40,
                zero: 0,
            }
            .to_bytes();
            for at in 0..Tag::SIZE {
                for value in 0..=255 {
                    let mut tag = intact;
                    tag[at] = value;
                    let room = usize::from(Tag::from_bytes(tag).room);
                    let received = 40 + seed.frame.len();
                    let mut chunk = vec![0xa5; CHUNK];
                    chunk[..Tag::SIZE].copy_from_slice(&tag);
                    chunk[40..received].copy_from_slice(&seed.frame);
                    let sent = bench.send_tagged(&mut chunk, received);
                    let case = format!("{}, byte {at} of the tag is {value}", seed.name);
                    assert_eq!(
                        sent.is_none(),
                        room < Tag::SIZE || room > received,
                        "{case}"
                    );
                    assert_eq!(bench.counters.unaccounted(), 0, "{case}");
                    // A tag of no generation that ever was says nothing about the frame.
                    if let Some(sent) = sent
                        && room == 40
                    {
                        assert_eq!(Fate::of(&bench, &sent), plain, "{case}");
                    }
                }
            }
        }
    }
}

/// A tag that still holds, one of an older table, and none lead to the same real.
#[test]
fn tags_save_a_lookup_and_change_nothing() {
    for settings in both() {
        let services = every_kind_of_vip(settings);
        let mut bench = Bench::new(&services);
        let mut tagged_data = 0;
        for seed in seeds() {
            let sent = bench.send(&seed.frame);
            let expected = bench.last;
            let Some(vip) = bench.forwarder.table().vip(expected.vip).cloned() else {
                continue;
            };
            // The outer packet of a tunnel is no VIP's.
            if model::unwrapped(&services, &seed.frame) != Unwrapped::Kept(seed.frame.clone()) {
                continue;
            }
            let errors = bench.counters.icmp_errors.get();
            for (generation, stale) in [(vip.generation, 0), (vip.generation + 1, 1)] {
                let tag = Tag {
                    generation,
                    vip: vip.number,
                    room: vip.room,
                    zero: 0,
                };
                let room = usize::from(vip.room);
                let received = room + seed.frame.len();
                let mut chunk = vec![0xa5; CHUNK];
                chunk[..Tag::SIZE].copy_from_slice(&tag.to_bytes());
                chunk[room..received].copy_from_slice(&seed.frame);
                let stale_before = bench.counters.stale_tags.get();
                let tagged = bench.send_tagged(&mut chunk, received);
                assert_eq!(tagged.as_ref(), Some(&sent), "{}", seed.name);
                let Outcome { vip, real, .. } = bench.last;
                assert_eq!((vip, real), (expected.vip, expected.real), "{}", seed.name);
                // The tag's VIP is not that of the packet which an ICMP error quotes.
                if bench.counters.icmp_errors.get() == errors {
                    tagged_data += 1;
                    let stale_after = bench.counters.stale_tags.get();
                    assert_eq!(stale_after - stale_before, stale, "{}", seed.name);
                }
            }
        }
        assert!(tagged_data >= 20, "{tagged_data}");
    }
}

/// A buffer that ends with the frame: what does not fit is dropped.
#[test]
fn without_space_for_the_outer_header() {
    for settings in both() {
        let mut bench = Bench::new(&every_kind_of_vip(settings));
        let mut dropped = 0;
        for seed in seeds() {
            let fits = bench.send(&seed.frame);
            let needed = fits.as_ref().map_or(0, Vec::len);
            for room in 0..=48 {
                let mut buffer = [&vec![0xa5; room][..], &seed.frame].concat();
                let sent = bench.send_in(&mut buffer, room, seed.frame.len());
                let expected = if needed > buffer.len() {
                    dropped += 1;
                    Err(NotSent::Dropped(DropReason::NoRoom))
                } else {
                    fits.clone()
                };
                assert_eq!(sent, expected, "{}, room {room}", seed.name);
                assert_eq!(bench.counters.unaccounted(), 0);
            }
        }
        assert_eq!(bench.counters.dropped(DropReason::NoRoom).0, dropped);
        assert!(dropped > 0);
    }
}

/// Counters agree in bytes also for what no network card delivers but a capture may hold.
#[test]
fn frames_longer_than_65535_bytes() {
    let services = every_kind_of_vip(settings());
    let mut bench = Bench::new(&services);
    let frame = resized(tcp(CLIENT, "203.0.113.10:80", Segment::Ack), 70_000);
    assert_eq!(
        bench.send(&frame),
        Err(NotSent::Dropped(DropReason::FrameTooLong))
    );
    assert_eq!(unaccounted_bytes(&bench), 0);
}
