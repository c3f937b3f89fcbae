//! The balancer in the kernel gives packets the same real, the same bytes and the same counters as the
//! one in userspace.

use std::net::IpAddr;
use std::sync::Arc;

use benches::lab::requirements;
use dataplane::counters::{DropReason, WorkerCounters};
use dataplane::forward::{BURST, Forwarder, ForwarderConfig, Outcome, Packet, Selection, Verdict};
use dataplane::service::{
    HashFunction, MacAddress, Protocol, RealId, RealSpec, ServiceControl, ServiceSpec, Settings,
    VipFlags, VipKey, VipSpec,
};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use xdp_redirect::{
    Balancer, BalancerEvent, BalancerOptions, BalancerOutcome, BalancerTestBed, Case, TestRun,
    Verdict as XdpVerdict,
};

/// Room for every flow of a test, so that neither table evicts.
const FLOWS: usize = 1 << 18;
/// Room in front of frames for any outer header.
const ROOM: usize = 40;
/// Longest frame that is made.
const LONGEST: u64 = 1700;

/// An xorshift generator (Marsaglia, 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }

    /// True once in `times`.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }
}

const VIPS_V4: [&str; 8] = [
    "203.0.113.10",
    "203.0.113.20",
    "203.0.113.30",
    "203.0.113.31",
    "203.0.113.32",
    "203.0.113.33",
    "203.0.113.34",
    // Not a VIP.
    "203.0.113.99",
];
const VIPS_V6: [&str; 7] = [
    "2001:db8:a::10",
    "2001:db8:a::31",
    "2001:db8:a::32",
    "2001:db8:b::",
    "2001:db8:b::77",
    "2001:db8:b:0:ffff::1",
    // Not a VIP.
    "2001:db8:c::1",
];
const PORTS: [u16; 4] = [80, 53, 443, 5060];
const REALS_V4: [&str; 3] = ["198.51.100.1", "198.51.100.2", "198.51.100.3"];
const REALS_V6: [&str; 3] = ["2001:db8:f::1", "2001:db8:f::2", "2001:db8:f::3"];

fn spec(next_hop: bool, weights: [u32; 3], vips: std::ops::Range<usize>) -> ServiceSpec {
    use Protocol::{Tcp, Udp};
    let v4 = &REALS_V4[..];
    let v6 = &REALS_V6[..];
    let mixed = &["198.51.100.1", "2001:db8:f::2", "198.51.100.3"][..];
    let none = &[][..];
    let plain = VipFlags::empty();
    let all = [
        ("203.0.113.10", 32, 80, Tcp, plain, v4),
        ("203.0.113.10", 32, 53, Udp, plain, mixed),
        ("203.0.113.20", 32, 443, Tcp, VipFlags::NO_SRC_PORT, v6),
        ("203.0.113.30", 32, 0, Udp, plain, v4),
        ("203.0.113.30", 32, 53, Udp, plain, v6),
        ("203.0.113.31", 32, 0, Udp, VipFlags::DPORT_ONLY, v4),
        ("203.0.113.32", 32, 0, Tcp, VipFlags::SRC_DST_PORT, mixed),
        ("203.0.113.33", 32, 80, Tcp, VipFlags::LRU_BYPASS, v4),
        ("203.0.113.34", 32, 80, Tcp, plain, none),
        ("2001:db8:a::10", 128, 80, Tcp, plain, v6),
        ("2001:db8:a::10", 128, 53, Udp, VipFlags::NO_SRC_PORT, v6),
        (
            "2001:db8:a::31",
            128,
            443,
            Tcp,
            VipFlags::DPORT_ONLY.union(VipFlags::NO_SRC_PORT),
            v6,
        ),
        ("2001:db8:a::32", 128, 0, Udp, VipFlags::LRU_BYPASS, v6),
        ("2001:db8:b::", 64, 443, Tcp, plain, v6),
        ("2001:db8:b::", 80, 443, Tcp, VipFlags::SRC_DST_PORT, v6),
        ("2001:db8:b::", 64, 0, Udp, plain, v6),
    ];
    let vip = |&(address, prefix_len, port, protocol, flags, reals): &(
        &str,
        u8,
        u16,
        Protocol,
        VipFlags,
        &[&str],
    )| VipSpec {
        key: VipKey {
            address: address.parse().expect("an address"),
            prefix_len,
            port,
            protocol,
        },
        hash: HashFunction::MaglevV2,
        flags,
        reals: reals
            .iter()
            .zip(weights)
            .map(|(address, weight)| RealSpec {
                address: address.parse().expect("an address"),
                weight,
                local: false,
                down: false,
            })
            .collect(),
    };
    ServiceSpec {
        settings: Settings {
            next_hop_mac: next_hop.then_some(MacAddress([2, 0, 0, 0, 0xcc, 3])),
            ..Settings::default()
        },
        vips: all[vips].iter().map(vip).collect(),
        ..ServiceSpec::default()
    }
}

/// Both balancers with the same services.
struct Pair {
    control: ServiceControl,
    forwarder: Forwarder,
    counters: Arc<WorkerCounters>,
    balancer: Balancer,
    now_ns: u64,
}

impl Pair {
    /// The thread stays on one CPU: each has a flow table of its own.
    fn new(spec: &ServiceSpec) -> Self {
        let cpus = sched_getaffinity(Pid::from_raw(0)).expect("the CPUs are known");
        let first = (0..CpuSet::count()).find(|&cpu| cpus.is_set(cpu).unwrap_or(false));
        let mut one = CpuSet::new();
        one.set(first.expect("there is a CPU")).expect("it exists");
        sched_setaffinity(Pid::from_raw(0), &one).expect("it is allowed");

        let mut control = ServiceControl::new();
        let table = control.apply(spec).expect("a valid spec");
        let counters = Arc::new(WorkerCounters::new());
        let config = ForwarderConfig {
            flow_table_capacity: FLOWS,
            seeds: [1, 2, 3, 4],
        };
        let forwarder =
            Forwarder::new(&config, table, Arc::clone(&counters)).expect("a flow table");
        let options = BalancerOptions {
            flow_table_capacity: FLOWS,
        };
        let balancer = Balancer::load(&options).expect("the kernel takes the program");
        let mut pair = Self {
            control,
            forwarder,
            counters,
            balancer,
            now_ns: 1_000_000_000_000,
        };
        pair.apply(spec);
        pair
    }

    fn apply(&mut self, spec: &ServiceSpec) {
        let table = self.control.apply(spec).expect("a valid spec");
        let services = table.kernel_services().expect("nothing special");
        self.balancer
            .apply(&services.settings, &services.vips, &services.reals)
            .expect("the maps take it");
        self.forwarder.set_table(Arc::clone(&table));
    }

    fn forward(&mut self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut buffer = vec![0xa5; ROOM + frame.len()];
        buffer[ROOM..].copy_from_slice(frame);
        let packet = Packet::untagged(&mut buffer, ROOM, frame.len()).expect("it fits");
        let mut burst = [packet];
        let mut outcomes = [Outcome {
            verdict: Verdict::Pass,
            vip: 0,
            real: RealId::NONE,
            selection: Selection::None,
        }; BURST];
        self.forwarder
            .process(self.now_ns, &mut burst, &mut outcomes);
        let verdict = outcomes[0].verdict;
        let bytes = match verdict {
            Verdict::Transmit { len } => burst[0].buffer()[..usize::from(len)].to_vec(),
            Verdict::Pass | Verdict::Drop(_) => frame.to_vec(),
        };
        (verdict, bytes)
    }

    fn run(&self, frame: &[u8]) -> TestRun {
        self.balancer
            .test_run(frame, None)
            .expect("a frame to run over")
    }

    /// Sends a frame through both; the verdict.
    fn compare(&mut self, frame: &[u8]) -> Verdict {
        let (verdict, expected) = self.forward(frame);
        let run = self.run(frame);
        let (expected_verdict, compared) = match verdict {
            Verdict::Transmit { .. } => (XdpVerdict::TX, true),
            Verdict::Pass => (XdpVerdict::PASS, true),
            Verdict::Drop(_) => (XdpVerdict::DROP, false),
        };
        assert_eq!(
            run.verdict, expected_verdict,
            "forward: {verdict:?}, frame {frame:02x?}"
        );
        if compared {
            assert_eq!(
                run.frame, expected,
                "forward: {verdict:?}, frame {frame:02x?}"
            );
        }
        verdict
    }

    /// Every number that both count is the same.
    fn compare_counters(&self) {
        let kernel = self.balancer.counters().expect("readable counters");
        assert_eq!(self.counters.flow_evictions.get(), 0, "the table is large");
        for &event in BalancerEvent::ALL {
            let row = WorkerCounters::ROWS
                .iter()
                .find(|row| row.name == event.name())
                .unwrap_or_else(|| panic!("workers count no {}", event.name()));
            // The clocks differ.
            if event != BalancerEvent::ConnectionWindowNs
                && event != BalancerEvent::ConnectionEvents
            {
                assert_eq!(
                    kernel.event(event),
                    (row.read)(&self.counters),
                    "{}",
                    row.name
                );
            }
        }
        for &outcome in BalancerOutcome::ALL {
            if outcome.is_transmit() || outcome.is_pass() {
                continue;
            }
            let reason = DropReason::ALL
                .iter()
                .find(|reason| reason.name() == outcome.name())
                .unwrap_or_else(|| panic!("workers drop nothing for {}", outcome.name()));
            let traffic = kernel.outcome(outcome);
            assert_eq!(
                (traffic.packets, traffic.bytes),
                self.counters.dropped(*reason),
                "{}",
                reason.name()
            );
        }
        assert_eq!(
            kernel.outcome(BalancerOutcome::EchoReplied).packets,
            self.counters.echo_replies.get()
        );
        let received = kernel.received();
        assert_eq!(
            (received.packets, received.bytes),
            self.counters.received.get()
        );
        for vip in self.control.table().vips() {
            let mine = self.balancer.vip_traffic(vip.number).expect("readable");
            let number = usize::from(vip.number);
            let theirs = &self.counters.vips[number];
            let packets: u64 = mine.iter().map(|cpu| cpu.packets).sum();
            let bytes: u64 = mine.iter().map(|cpu| cpu.bytes).sum();
            assert_eq!((packets, bytes), theirs.get(), "{}", vip.key);
            assert_eq!(
                mine.iter().map(|cpu| cpu.ring_selections).sum::<u64>(),
                self.counters.vip_ring_selections[number].get(),
                "{}",
                vip.key
            );
        }
        for real in self.control.table().reals() {
            let index = real.id.index();
            let mine = self.balancer.real_traffic(index as u32).expect("readable");
            let packets: u64 = mine.iter().map(|cpu| cpu.packets).sum();
            let bytes: u64 = mine.iter().map(|cpu| cpu.bytes).sum();
            assert_eq!(
                (packets, bytes),
                self.counters.reals[index].get(),
                "{}",
                real.address
            );
        }
    }
}

/// A frame that is mostly well-formed and mostly for a VIP.
fn frame(random: &mut Random) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0xaa, random.byte(), 2, 0, 0, 0, 0xbb, 2];
    let v6 = random.once_in(2);
    if random.once_in(100) {
        let ethertype = random.choose(&[0x0806_u16, 0x8100, 0x88cc, 0x0800, 0x86dd]);
        frame.extend(ethertype.to_be_bytes());
        frame.extend((0..random.below(100)).map(|_| random.byte()));
        return frame;
    }
    frame.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
    let to_vip = ip_packet(random, v6, false);
    frame.extend(to_vip);
    if random.once_in(20) {
        let kept = 14 + random.below(frame.len() as u64 - 13);
        frame.truncate(kept as usize);
    }
    if random.once_in(50) {
        // Ethernet padding.
        frame.extend([0xee; 6]);
    }
    if random.once_in(20) {
        let place = 12 + random.below(frame.len() as u64 - 12) as usize;
        frame[place] ^= 1 << random.below(8);
    }
    frame
}

/// An IP packet from a client to a VIP, or the other way round, which is what ICMP errors quote.
fn ip_packet(random: &mut Random, v6: bool, from_vip: bool) -> Vec<u8> {
    let transport = random.below(100);
    let (protocol, payload) = match transport {
        0..50 => (6, tcp(random, from_vip)),
        50..85 => (17, udp(random, from_vip)),
        85..95 if !from_vip => (if v6 { 58 } else { 1 }, icmp(random, v6)),
        _ => (
            random.choose(&[1, 2, 4, 41, 43, 44, 47, 58, 59, 132]),
            vec![0; 60],
        ),
    };
    if v6 {
        let client = u128::from(random.below(40)) | 0x2001_0db8_000c << 80;
        let vip: std::net::Ipv6Addr = random.choose(&VIPS_V6).parse().expect("an address");
        let (source, destination) = ends(from_vip, client.to_be_bytes(), vip.octets());
        let mut packet = vec![
            0x60 | random.below(16) as u8,
            random.byte(),
            random.byte(),
            1,
        ];
        packet.extend(length(random, payload.len()).to_be_bytes());
        packet.extend([protocol, 64]);
        packet.extend(source);
        packet.extend(destination);
        packet.extend(payload);
        return packet;
    }
    let client = [192, 0, 2, random.below(40) as u8];
    let vip: std::net::Ipv4Addr = random.choose(&VIPS_V4).parse().expect("an address");
    let (source, destination) = ends(from_vip, client, vip.octets());
    let first = if random.once_in(50) { 0x46 } else { 0x45 };
    let mut packet = vec![first, random.byte()];
    packet.extend(length(random, 20 + payload.len()).to_be_bytes());
    packet.extend([random.byte(), random.byte()]);
    packet.extend(match random.below(50) {
        0 => [0x20, 0],
        1 => [0, 5],
        2..20 => [0x40, 0],
        20..25 => [0x80, 0],
        _ => [0, 0],
    });
    packet.extend([random.byte(), protocol, random.byte(), random.byte()]);
    packet.extend(source);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

fn ends<A>(from_vip: bool, client: A, vip: A) -> (A, A) {
    if from_vip {
        (vip, client)
    } else {
        (client, vip)
    }
}

/// Mostly the true length.
fn length(random: &mut Random, length: usize) -> u16 {
    if random.once_in(50) {
        random.below(65536) as u16
    } else {
        length as u16
    }
}

fn ports(random: &mut Random, from_vip: bool) -> Vec<u8> {
    let client = 40_000 + random.below(30) as u16;
    let vip = random.choose(&PORTS);
    let (source, destination) = ends(from_vip, client, vip);
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

fn tcp(random: &mut Random, from_vip: bool) -> Vec<u8> {
    let mut segment = ports(random, from_vip);
    segment.extend([random.byte(); 8]);
    let flags = random.choose(&[0x10, 0x10, 0x10, 0x18, 0x02, 0x12, 0x04, 0x14, 0x11]);
    segment.extend([0x50, flags, 1, 0, random.byte(), random.byte(), 0, 0]);
    segment.extend(body(random));
    segment
}

fn udp(random: &mut Random, from_vip: bool) -> Vec<u8> {
    let mut datagram = ports(random, from_vip);
    let body = body(random);
    datagram.extend((8 + body.len() as u16).to_be_bytes());
    datagram.extend([random.byte(), random.byte()]);
    datagram.extend(body);
    datagram
}

fn body(random: &mut Random) -> Vec<u8> {
    let longest = if random.once_in(20) { LONGEST } else { 100 };
    vec![random.byte(); random.below(longest) as usize]
}

fn icmp(random: &mut Random, v6: bool) -> Vec<u8> {
    let kinds: &[u8] = if v6 {
        &[1, 2, 2, 3, 128, 129, 135]
    } else {
        &[3, 3, 3, 8, 0, 11, 13]
    };
    let mut message = vec![random.choose(kinds), random.below(6) as u8];
    message.extend([random.byte(), random.byte(), 0, 0]);
    message.extend(random.choose(&[1400_u16, 1279, 1280, 576]).to_be_bytes());
    let mut quoted = ip_packet(random, v6, true);
    if random.once_in(5) {
        let kept = random.below(quoted.len() as u64 + 1);
        quoted.truncate(kept as usize);
    }
    message.extend(quoted);
    message
}

#[test]
fn both_balancers_give_the_same_bytes_for_a_hundred_thousand_packets() {
    if !requirements::met_or_skip("kernel_balancer", &[]) {
        return;
    }
    let all = 0..16;
    let mut pair = Pair::new(&spec(true, [1, 1, 1], all.clone()));
    let mut random = Random(0x5eed_0123_4567_89ab);
    let (mut transmitted, mut dropped) = (0, 0);
    for n in 0..100_000 {
        // Services change while flows live.
        match n {
            20_000 => pair.apply(&spec(true, [1, 0, 5], all.clone())),
            30_000 => pair.apply(&spec(true, [1, 0, 5], 4..16)),
            40_000 => pair.apply(&spec(true, [3, 2, 1], 0..13)),
            50_000 => pair.apply(&spec(false, [3, 2, 1], all.clone())),
            50_500 => pair.apply(&spec(true, [3, 2, 1], all.clone())),
            60_000 => pair.apply(&spec(true, [0, 0, 0], all.clone())),
            60_500 => pair.apply(&spec(true, [1, 1, 1], all.clone())),
            _ => {}
        }
        match pair.compare(&frame(&mut random)) {
            Verdict::Transmit { .. } => transmitted += 1,
            Verdict::Drop(_) => dropped += 1,
            Verdict::Pass => {}
        }
    }
    pair.compare_counters();
    assert!(transmitted > 20_000, "{transmitted}");
    assert!(dropped > 2_000, "{dropped}");
    for &outcome in BalancerOutcome::ALL {
        // Drivers refuse room, and services mixed families, not here.
        if matches!(
            outcome,
            BalancerOutcome::DroppedNoRoom | BalancerOutcome::DroppedFamilyMismatch
        ) {
            continue;
        }
        let counters = pair.balancer.counters().expect("readable counters");
        assert!(counters.outcome(outcome).packets > 0, "{outcome:?}");
    }
}

fn tcp_frame(client_port: u16, flags: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0xaa, 1, 2, 0, 0, 0, 0xbb, 2, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([192, 0, 2, 1, 203, 0, 113, 10]);
    frame.extend(client_port.to_be_bytes());
    frame.extend(80_u16.to_be_bytes());
    frame.extend([0; 8]);
    frame.extend([0x50, flags, 1, 0, 0, 0, 0, 0]);
    frame
}

#[test]
fn the_cap_on_new_flows_holds() {
    if !requirements::met_or_skip("kernel_balancer_cap", &[]) {
        return;
    }
    let mut capped = spec(true, [1, 1, 1], 0..1);
    capped.settings.connection_rate_cap = 3;
    let pair = Pair::new(&capped);
    for port in 0..6 {
        assert_eq!(pair.run(&tcp_frame(1000 + port, 2)).verdict, XdpVerdict::TX);
    }
    let counters = pair.balancer.counters().expect("readable counters");
    assert_eq!(counters.event(BalancerEvent::FlowInserts), 3);
    assert_eq!(counters.event(BalancerEvent::FloodSuppressed), 3);
    assert_eq!(counters.event(BalancerEvent::ConnectionEvents), 6);
    assert_eq!(pair.balancer.flows().count(), 3);
}

#[test]
fn flows_can_be_listed_and_removed() {
    if !requirements::met_or_skip("kernel_balancer_flows", &[]) {
        return;
    }
    let mut pair = Pair::new(&spec(true, [1, 1, 1], 0..1));
    for port in [1000, 2000] {
        pair.compare(&tcp_frame(port, 2));
    }
    let flows: Result<Vec<_>, _> = pair.balancer.flows().collect();
    let mut flows = flows.expect("readable flows");
    flows.sort_by_key(|flow| flow.key.source_port);
    let [first, second] = flows[..] else {
        panic!("two flows: {flows:?}")
    };
    assert_eq!(first.key.source, IpAddr::from([192, 0, 2, 1]));
    assert_eq!(first.key.destination, IpAddr::from([203, 0, 113, 10]));
    assert_eq!(first.key.source_port, 1000_u16.to_be_bytes());
    assert_eq!(first.key.destination_port, 80_u16.to_be_bytes());
    assert_eq!(second.key.source_port, 2000_u16.to_be_bytes());
    assert_eq!(first.value.last_use_ns, 0, "TCP keeps no time");
    assert_eq!(
        pair.balancer.flow(&first.key).expect("readable"),
        Some(first.value)
    );
    assert!(pair.balancer.remove_flow(&first.key).expect("removable"));
    assert!(!pair.balancer.remove_flow(&first.key).expect("removable"));
    assert_eq!(pair.balancer.flow(&first.key).expect("readable"), None);
    assert_eq!(pair.balancer.flows().count(), 1);
}

#[test]
fn the_driver_runs_every_packet_through_the_table_or_past_it() {
    const TURNS: u64 = 3000;
    const RUNS: u32 = 20_000;
    if !requirements::met_or_skip("kernel_balancer_driver", &[]) {
        return;
    }
    let pair = Pair::new(&spec(true, [1, 1, 1], 0..16));
    let mut bed = BalancerTestBed::new(pair.balancer).expect("the kernel takes the driver");
    let v4 = tcp_frame(0, 0x10);
    let v6 = {
        let mut frame = vec![2, 0, 0, 0, 0xaa, 1, 2, 0, 0, 0, 0xbb, 2, 0x86, 0xdd];
        let client = u128::to_be_bytes(0x2001_0db8_000c << 80);
        let vip: std::net::Ipv6Addr = "2001:db8:a::10".parse().expect("an address");
        frame.extend([0x60, 0, 0, 0, 0, 20, 6, 64]);
        frame.extend(client);
        frame.extend(vip.octets());
        frame.extend(&v4[34..]);
        frame
    };
    for (name, frame) in [("v4", v4), ("v6", v6)] {
        let before = bed.balancer().counters().expect("readable counters");
        bed.warm_up(&frame, TURNS)
            .expect("every packet is balanced");
        let warm = bed.balancer().counters().expect("readable counters");
        assert_eq!(
            (warm - before).event(BalancerEvent::FlowInserts),
            TURNS,
            "{name}"
        );
        let cost = bed
            .cost(&frame, Case::Flows(TURNS), RUNS)
            .expect("every packet is balanced");
        assert!(cost.total_ns > cost.driver_ns, "{name}: {cost:?}");
        let hit = bed.balancer().counters().expect("readable counters");
        assert_eq!(
            (hit - warm).event(BalancerEvent::RingSelections),
            0,
            "{name}"
        );
        bed.cost(&frame, Case::New, RUNS)
            .expect("every packet is balanced");
        let new = bed.balancer().counters().expect("readable counters");
        assert_eq!(
            (new - hit).event(BalancerEvent::FlowInserts),
            u64::from(RUNS),
            "{name}"
        );
    }
    // A packet that is for nobody would be cheap.
    let mut stray = tcp_frame(0, 0x10);
    stray[33] = 99;
    let error = bed.cost(&stray, Case::New, 10).expect_err("not a VIP");
    assert!(
        error.to_string().starts_with("only 0 of 10 packets were"),
        "{error}"
    );
}
