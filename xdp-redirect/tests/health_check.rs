//! The `healthcheck` program: what it makes of packets, how it is attached, and what it leaves behind.

mod support;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use support::{
    frame::{ARP, IPV4, IPV6, TCP, ethernet, ipv6, tcp},
    is_privileged,
    namespace::{Namespace, ip, veth},
    wait_for,
};
use xdp_redirect::{
    AttachError, HealthCheck,
    HealthCheckCounter::{self, *},
    HealthCheckError, HealthCheckOptions, MAX_HEALTH_CHECKS, TcHook, TcVerdict, Traffic,
};

const MARK_V4: u32 = 7;
const MARK_V6: u32 = 8;
const REAL_V4: &str = "198.51.100.11";
const REAL_V6: &str = "2001:db8:f::1";
const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0xaa, 1];
const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0xcc, 3];
const GUE_PORT: u16 = 6080;
const HOOKS: [TcHook; 2] = [TcHook::Tcx, TcHook::Filter];
/// Set in the process that is to be killed: how it attaches the program.
const CHILD: &str = "XDP_REDIRECT_TEST_HOOK";

fn options() -> HealthCheckOptions {
    HealthCheckOptions {
        interface: None,
        source_mac: SOURCE_MAC,
        next_hop_mac: Some(NEXT_HOP),
        source_v4: Ipv4Addr::new(192, 0, 2, 1),
        source_v6: "2001:db8:ffff::1".parse().expect("IPv6"),
        gue_port: None,
        max_frame: None,
        reals: BTreeMap::from([
            (MARK_V4, REAL_V4.parse().expect("IPv4")),
            (MARK_V6, REAL_V6.parse().expect("IPv6")),
        ]),
    }
}

fn gue() -> HealthCheckOptions {
    HealthCheckOptions {
        gue_port: Some(GUE_PORT),
        ..options()
    }
}

fn loaded(options: &HealthCheckOptions) -> HealthCheck {
    let mut program = HealthCheck::load().expect("loaded");
    program.apply(options).expect("applied");
    program
}

fn count(program: &HealthCheck, counter: HealthCheckCounter) -> u64 {
    program.counters().expect("counters").get(counter)
}

fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2));
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}

/// The TCP SYN of the published vectors, as it stands behind their outer headers.
const SYN: &str =
    "452000280001000040067ca3c0000201cb00710ac3500050000003e8000007d050022000c27d0000";

fn probe4() -> Vec<u8> {
    ethernet(IPV4, &bytes(SYN))
}

fn probe6() -> Vec<u8> {
    ethernet(
        IPV6,
        &ipv6("2001:db8::1", "2001:db8:a::10", TCP, &tcp(50000, 80)),
    )
}

/// katran-compat section 11.
#[test]
fn published_vectors() {
    if !is_privileged("published_vectors") {
        return;
    }
    let program = loaded(&options());
    for (mark, outer) in [
        (
            MARK_V4,
            "02000000cc0302000000aa01080045 00003c0000000040048e7ec0000201c633640b",
        ),
        (
            MARK_V6,
            "02000000cc0302000000aa0186dd60000000002804 4020010db8ffff0000000000000000000120010db8000f00000000000000000001",
        ),
    ] {
        let expected = bytes(&(outer.replace(' ', "") + SYN));
        let run = program.test_run(&probe4(), mark).expect("run");
        assert_eq!(run.verdict, TcVerdict::NEXT, "mark {mark}");
        assert_eq!(run.frame, expected, "mark {mark}");
        assert_eq!(run.mark, 0, "mark {mark}");
    }
    assert_eq!(count(&program, Processed), 2);
    let each = Traffic {
        packets: 1,
        bytes: 54,
    };
    assert_eq!(
        program.traffic().expect("traffic"),
        BTreeMap::from([(MARK_V4, each), (MARK_V6, each)])
    );
}

/// What an outer header says, taken apart by hand.
struct Outer {
    protocol: u8,
    udp: Option<[u8; 8]>,
    inner: Vec<u8>,
}

fn take_apart(frame: &[u8], real: &str) -> Outer {
    assert_eq!(frame[..6], NEXT_HOP);
    assert_eq!(frame[6..12], SOURCE_MAC);
    let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
    let packet = &frame[14..];
    let half = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (protocol, payload) = match real.parse::<IpAddr>().expect("an address") {
        IpAddr::V4(real) => {
            assert_eq!(ethertype, IPV4);
            assert_eq!(packet[..2], [0x45, 0], "version, length, TOS");
            assert_eq!(usize::from(half(2)), packet.len(), "total length");
            assert_eq!(packet[4..8], [0; 4], "id, flags, offset");
            assert_eq!(packet[8], 64, "TTL");
            let sum: u32 = (0..10).map(|at| u32::from(half(2 * at))).sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "checksum");
            assert_eq!(packet[12..16], [192, 0, 2, 1]);
            assert_eq!(packet[16..20], real.octets());
            (packet[9], &packet[20..])
        }
        IpAddr::V6(real) => {
            assert_eq!(ethertype, IPV6);
            assert_eq!(packet[..4], [0x60, 0, 0, 0], "traffic class, flow label");
            assert_eq!(usize::from(half(4)), packet.len() - 40, "payload length");
            assert_eq!(packet[7], 64, "hop limit");
            let source: Ipv6Addr = "2001:db8:ffff::1".parse().expect("IPv6");
            assert_eq!(packet[8..24], source.octets());
            assert_eq!(packet[24..40], real.octets());
            (packet[6], &packet[40..])
        }
    };
    if protocol != 17 {
        let inner = payload.to_vec();
        return Outer {
            protocol,
            udp: None,
            inner,
        };
    }
    let udp: [u8; 8] = payload[..8].try_into().expect("8 bytes");
    let length = u16::from_be_bytes([udp[4], udp[5]]);
    assert_eq!(usize::from(length), payload.len(), "UDP length");
    Outer {
        protocol,
        udp: Some(udp),
        inner: payload[8..].to_vec(),
    }
}

#[test]
fn every_family_in_every_encapsulation() {
    if !is_privileged("every_family_in_every_encapsulation") {
        return;
    }
    let (ipip, gue) = (loaded(&options()), loaded(&gue()));
    for (name, probe, mark, real, protocol) in [
        ("4 in 4", probe4(), MARK_V4, REAL_V4, 4),
        ("4 in 6", probe4(), MARK_V6, REAL_V6, 4),
        ("6 in 6", probe6(), MARK_V6, REAL_V6, 41),
    ] {
        let run = ipip.test_run(&probe, mark).expect("run");
        assert_eq!((run.verdict, run.mark), (TcVerdict::NEXT, 0), "{name}");
        let outer = take_apart(&run.frame, real);
        assert_eq!(outer.protocol, protocol, "{name}");
        assert_eq!(outer.inner, probe[14..], "{name}");

        let mut ports = Vec::new();
        for _ in 0..64 {
            let run = gue.test_run(&probe, mark).expect("run");
            assert_eq!((run.verdict, run.mark), (TcVerdict::NEXT, 0), "{name}");
            let outer = take_apart(&run.frame, real);
            let udp = outer.udp.expect("UDP");
            assert_eq!(outer.inner, probe[14..], "{name}");
            assert_eq!(udp[2..4], GUE_PORT.to_be_bytes(), "{name}");
            assert_eq!(udp[6..], [0, 0], "{name}: checksum");
            ports.push(u16::from_be_bytes([udp[0], udp[1]]));
        }
        assert!(ports.iter().all(|port| port & 0x400 != 0), "{ports:?}");
        ports.sort_unstable();
        ports.dedup();
        assert!(ports.len() > 32, "not random: {ports:?}");
    }
}

#[test]
fn what_is_no_probe_leaves_as_it_came() {
    if !is_privileged("what_is_no_probe_leaves_as_it_came") {
        return;
    }
    let program = loaded(&options());
    let vlan = [&[0, 5, 8, 0][..], &bytes(SYN)].concat();
    let cases = [
        ("no mark", probe4(), 0),
        ("an unknown mark", probe4(), 9),
        ("an unknown mark, IPv6", probe6(), u32::MAX),
        ("ARP", ethernet(ARP, &[1; 28]), MARK_V4),
        ("VLAN", ethernet(0x8100, &vlan), MARK_V4),
    ];
    for (number, (name, frame, mark)) in (1..).zip(cases) {
        let run = program.test_run(&frame, mark).expect("run");
        assert_eq!(run.verdict, TcVerdict::NEXT, "{name}");
        assert_eq!(run.frame, frame, "{name}");
        assert_eq!(run.mark, mark, "{name}");
        assert_eq!(count(&program, Skipped), number, "{name}");
    }
    assert_eq!(count(&program, Processed), 0);
}

#[test]
fn what_cannot_be_sent_is_dropped_and_counted() {
    if !is_privileged("what_cannot_be_sent_is_dropped_and_counted") {
        return;
    }
    let mut program = loaded(&options());
    let mut dropped = |options: &HealthCheckOptions, frame: &[u8], mark, reason| {
        program.apply(options).expect("applied");
        let run = program.test_run(frame, mark).expect("run");
        assert_eq!(run.verdict, TcVerdict::DROP, "{reason:?}");
        assert_eq!(run.frame, frame, "{reason:?}");
        assert_eq!(count(&program, reason), 1, "{reason:?}");
    };
    dropped(&options(), &probe6(), MARK_V4, DroppedFamilyMismatch);
    let nowhere = HealthCheckOptions {
        next_hop_mac: None,
        ..options()
    };
    dropped(&nowhere, &probe4(), MARK_V4, DroppedNoNextHop);
    let capped = HealthCheckOptions {
        max_frame: Some(53),
        ..options()
    };
    dropped(&capped, &probe4(), MARK_V6, TooBig);
    let exact = HealthCheckOptions {
        max_frame: Some(54),
        ..options()
    };
    program.apply(&exact).expect("applied");
    let run = program.test_run(&probe4(), MARK_V6).expect("run");
    assert_eq!(run.verdict, TcVerdict::NEXT);
    assert_eq!(count(&program, TooBig), 1);
}

#[test]
fn probes_can_leave_by_another_interface() {
    if !is_privileged("probes_can_leave_by_another_interface") {
        return;
    }
    let program = loaded(&HealthCheckOptions {
        interface: Some(3),
        ..options()
    });
    let run = program.test_run(&probe4(), MARK_V4).expect("run");
    assert_eq!((run.verdict, run.mark), (TcVerdict::REDIRECT, 0));
    take_apart(&run.frame, REAL_V4);
    let run = program.test_run(&probe4(), 0).expect("run");
    assert_eq!(run.verdict, TcVerdict::NEXT);
}

#[test]
fn marks_change_by_difference() {
    if !is_privileged("marks_change_by_difference") {
        return;
    }
    let mut program = loaded(&options());
    program.test_run(&probe4(), MARK_V4).expect("run");
    program.test_run(&probe4(), MARK_V6).expect("run");
    let other = "198.51.100.12";
    let mut changed = options();
    changed.reals = BTreeMap::from([(MARK_V4, other.parse().expect("IPv4"))]);
    program.apply(&changed).expect("applied");
    let run = program.test_run(&probe4(), MARK_V4).expect("run");
    take_apart(&run.frame, other);
    let run = program.test_run(&probe4(), MARK_V6).expect("run");
    assert_eq!(run.frame, probe4());
    let packets = |program: &HealthCheck| -> Vec<(u32, u64)> {
        let traffic = program.traffic().expect("traffic");
        traffic.iter().map(|(&mark, t)| (mark, t.packets)).collect()
    };
    assert_eq!(
        packets(&program),
        [(MARK_V4, 2)],
        "a mark that stays counts on"
    );
    program.apply(&options()).expect("applied");
    assert_eq!(
        packets(&program),
        [(MARK_V4, 2), (MARK_V6, 0)],
        "a new mark counts from zero"
    );
}

#[test]
fn as_many_marks_as_promised() {
    if !is_privileged("as_many_marks_as_promised") {
        return;
    }
    let mut program = HealthCheck::load().expect("loaded");
    let range = |first: u32| {
        let marks = first..first + MAX_HEALTH_CHECKS;
        HealthCheckOptions {
            reals: marks
                .map(|mark| (mark, REAL_V4.parse().expect("IPv4")))
                .collect(),
            ..options()
        }
    };
    program.apply(&range(1)).expect("applied");
    program.apply(&range(1 << 20)).expect("all of them swapped");
    let mut one_more = range(1 << 20);
    one_more.reals.insert(1, REAL_V4.parse().expect("IPv4"));
    let error = program.apply(&one_more).expect_err("too many");
    assert!(matches!(error, HealthCheckError::TooMany(4097)), "{error}");
    let mut zero = options();
    zero.reals.insert(0, REAL_V4.parse().expect("IPv4"));
    let error = program.apply(&zero).expect_err("mark 0");
    assert!(matches!(error, HealthCheckError::MarkZero), "{error}");
    assert_eq!(program.traffic().expect("traffic").len(), 4096);
}

/// What `tc` says of an interface.
fn tc(arguments: &[&str]) -> String {
    let output = Command::new("tc")
        .args(arguments)
        .output()
        .expect("iproute2 is installed");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "tc {}: {complaint}",
        arguments.join(" ")
    );
    String::from_utf8(output.stdout).expect("text")
}

fn has_discipline() -> bool {
    tc(&["qdisc", "show", "dev", "balancer"]).contains("clsact")
}

fn has_filter() -> bool {
    tc(&["filter", "show", "dev", "balancer", "egress"]).contains("kx_healthcheck")
}

/// Whether a marked packet that leaves by `balancer` is seen by the program.
fn sees_packets(program: &HealthCheck) -> bool {
    let socket = UdpSocket::bind("192.0.2.1:0").expect("bound");
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Mark, &MARK_V4)
        .expect("marked");
    let before = count(program, Processed);
    socket.send_to(b"probe", "192.0.2.99:9").expect("sent");
    count(program, Processed) > before
}

/// A namespace with an interface that has an address and a neighbour.
fn prepared() -> Namespace {
    let namespace = Namespace::enter_new();
    veth("balancer", "client", 1);
    ip(&["address", "add", "192.0.2.1/24", "dev", "balancer"]);
    let neighbour = [
        "neighbour",
        "add",
        "192.0.2.99",
        "lladdr",
        "02:00:00:00:cc:03",
    ];
    ip(&[&neighbour[..], &["dev", "balancer", "nud", "permanent"]].concat());
    namespace
}

#[test]
fn the_interface_is_left_as_it_was_found() {
    if !is_privileged("the_interface_is_left_as_it_was_found") {
        return;
    }
    let _namespace = prepared();
    let mut program = loaded(&options());
    for hook in HOOKS {
        program.attach_to("balancer", Some(hook)).expect("attached");
        assert_eq!(program.hook(), Some(hook));
        assert!(sees_packets(&program), "{hook}");
        assert_eq!(has_filter(), hook == TcHook::Filter);
        assert_eq!(has_discipline(), hook == TcHook::Filter);
        program.detach();
        assert_eq!(program.hook(), None);
        assert!(wait_for(|| !sees_packets(&program)), "{hook}");
        assert!(!has_filter() && !has_discipline(), "{hook}");
    }
    program.attach_to("balancer", None).expect("attached");
    assert!(sees_packets(&program));
    drop(program);

    // What was there before stays: a discipline of somebody else, and one with filters.
    tc(&["qdisc", "add", "dev", "balancer", "clsact"]);
    let mut program = loaded(&options());
    program
        .attach_to("balancer", Some(TcHook::Filter))
        .expect("attached");
    drop(program);
    assert!(has_discipline() && !has_filter());
    tc(&["qdisc", "del", "dev", "balancer", "clsact"]);

    let mut program = loaded(&options());
    program
        .attach_to("balancer", Some(TcHook::Filter))
        .expect("attached");
    // One instruction: everything matches.
    let rule = "filter add dev balancer ingress bpf bytecode";
    let rule: Vec<&str> = rule.split(' ').chain(["1,6 0 0 4294967295"]).collect();
    tc(&rule);
    drop(program);
    assert!(has_discipline() && !has_filter());
    assert!(tc(&["filter", "show", "dev", "balancer", "ingress"]).contains("bytecode"));
}

#[test]
fn a_missing_interface_is_named() {
    if !is_privileged("a_missing_interface_is_named") {
        return;
    }
    let _namespace = Namespace::enter_new();
    let mut program = loaded(&options());
    for hook in [None, Some(TcHook::Tcx), Some(TcHook::Filter)] {
        let error = program
            .attach_to("eth99", hook)
            .expect_err("no such interface");
        assert!(matches!(error, AttachError::NoInterface { .. }), "{error}");
        assert!(error.to_string().contains("eth99"), "{error}");
    }
}

/// Starts this test anew in a process that attaches the program and waits.
fn child(test: &str, hook: TcHook) -> Child {
    Command::new(std::env::current_exe().expect("our own path"))
        .args(["--exact", test])
        .env(CHILD, hook.to_string())
        .stdout(Stdio::null())
        .spawn()
        .expect("started")
}

/// Whether a program is attached by a link: only then does `tc` not show it.
fn links() -> usize {
    use aya::programs::{SchedClassifier, TcAttachType};
    let (_, programs) =
        SchedClassifier::query_tcx("balancer", TcAttachType::Egress).expect("the kernel answers");
    programs.len()
}

#[test]
fn what_a_killed_process_leaves_is_removed() {
    const NAME: &str = "what_a_killed_process_leaves_is_removed";
    if !is_privileged(NAME) {
        return;
    }
    if let Ok(hook) = std::env::var(CHILD) {
        let hook = HOOKS.into_iter().find(|known| known.to_string() == hook);
        let mut program = loaded(&options());
        program.attach_to("balancer", hook).expect("attached");
        thread::sleep(Duration::from_mins(10));
    }
    let _namespace = prepared();
    let killed = |hook, is_attached: &dyn Fn() -> bool| {
        let mut child = child(NAME, hook);
        let attached = wait_for(is_attached);
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert!(attached, "the child did not attach");
    };
    killed(TcHook::Tcx, &|| links() == 1);
    assert!(wait_for(|| links() == 0), "the link ended with its process");
    assert!(!HealthCheck::remove_stale("balancer").expect("looked"));

    killed(TcHook::Filter, &has_filter);
    assert!(has_filter(), "a filter outlives its process");
    assert!(HealthCheck::remove_stale("balancer").expect("looked"));
    assert!(!has_filter() && !has_discipline());

    for hook in HOOKS {
        killed(TcHook::Filter, &has_filter);
        let mut program = loaded(&options());
        program.attach_to("balancer", Some(hook)).expect("attached");
        assert!(sees_packets(&program), "{hook}");
        assert_eq!(has_filter(), hook == TcHook::Filter);
        drop(program);
        assert!(!has_filter() && !has_discipline());
    }
}
