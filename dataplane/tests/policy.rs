//! Which packets are balanced, answered, dropped and passed (katran-compat sections 4.2 and 4.3), and
//! that everything whose destination is no VIP's address is passed, whatever it looks like.

mod common;

use common::{
    Bench,
    frames::{
        OWN_MAC, SENDER_MAC, Segment, echo, icmp_error, ip_packet, patched, resized, tcp, udp,
    },
    model::{self, Fate},
    services::{every_kind_of_vip, gue},
    settings,
};
use dataplane::{
    counters::DropReason,
    service::{Encapsulation, ServiceSpec, Settings},
};

use DropReason::{
    Fragment, FrameTooLong, Ipv4Options, L4Truncated, NoNextHop, NoReal, QuoteTruncated,
};
use Fate::{Answered, Balanced, Dropped, Passed};

const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0xcc, 3];
const IP: usize = 14;

/// One packet and what becomes of it.
struct Row {
    name: String,
    frame: Vec<u8>,
    fate: Fate,
}

fn row(name: impl Into<String>, frame: Vec<u8>, fate: Fate) -> Row {
    Row {
        name: name.into(),
        frame,
        fate,
    }
}

/// The same packets exist in both IP versions.
#[derive(Clone, Copy)]
struct Version {
    name: &'static str,
    header_len: usize,
    client: &'static str,
    /// TCP port 80 and UDP port 53.
    vip: &'static str,
    /// Any TCP port.
    any_port: &'static str,
    /// TCP port 80, but no real.
    empty: &'static str,
    /// No VIP has this address.
    stranger: &'static str,
    router: &'static str,
    icmp: u8,
    echo_request: u8,
    unreachable: (u8, u8),
}

const V4: Version = Version {
    name: "IPv4",
    header_len: 20,
    client: "192.0.2.10",
    vip: "203.0.113.10",
    any_port: "203.0.113.20",
    empty: "203.0.113.40",
    stranger: "203.0.113.99",
    router: "198.18.0.1",
    icmp: 1,
    echo_request: 8,
    unreachable: (3, 4),
};

const V6: Version = Version {
    name: "IPv6",
    header_len: 40,
    client: "2001:db8:c::1",
    vip: "2001:db8:a::10",
    any_port: "2001:db8:a::20",
    empty: "2001:db8:a::40",
    stranger: "2001:db8:a::99",
    router: "2001:db8:99::1",
    icmp: 58,
    echo_request: 128,
    unreachable: (2, 0),
};

impl Version {
    fn at(self, address: &str, port: u16) -> String {
        if self.header_len == 40 {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    }

    fn tcp(self, address: &str, port: u16, segment: Segment) -> Vec<u8> {
        tcp(
            &self.at(self.client, 40000),
            &self.at(address, port),
            segment,
        )
    }

    fn udp(self, address: &str, port: u16, payload: &[u8]) -> Vec<u8> {
        udp(
            &self.at(self.client, 40000),
            &self.at(address, port),
            payload,
        )
    }

    /// What the VIP sent to the client and a router quotes.
    fn quoted_tcp(self, source: &str, port: u16) -> Vec<u8> {
        tcp(
            &self.at(source, port),
            &self.at(self.client, 40000),
            Segment::Ack,
        )
    }

    fn error(self, destination: &str, quoted: &[u8]) -> Vec<u8> {
        icmp_error(self.router, destination, self.unreachable, quoted)
    }

    fn transport(self) -> usize {
        IP + self.header_len
    }

    /// Offset of TTL or hop limit.
    fn ttl(self) -> usize {
        IP + if self.header_len == 20 { 8 } else { 7 }
    }

    /// Offset of total length or payload length.
    fn length(self) -> usize {
        IP + if self.header_len == 20 { 2 } else { 4 }
    }
}

#[rustfmt::skip]
fn data(v: Version) -> Vec<Row> {
    let syn = v.tcp(v.vip, 80, Segment::Syn);
    let query = v.udp(v.vip, 53, b"query");
    let mut rows = vec![
        row("TCP SYN", syn.clone(), Balanced),
        row("TCP ACK", v.tcp(v.vip, 80, Segment::Ack), Balanced),
        row("TCP RST", v.tcp(v.vip, 80, Segment::Rst), Balanced),
        row("UDP", query.clone(), Balanced),
        row("UDP without payload", v.udp(v.vip, 53, b""), Balanced),
        row("TCP, any port", v.tcp(v.any_port, 5060, Segment::Syn), Balanced),
        row("TCP port 0, any port", v.tcp(v.any_port, 0, Segment::Syn), Balanced),
        row("TCP, no VIP has the port", v.tcp(v.vip, 81, Segment::Syn), Passed),
        row("UDP to a TCP port", v.udp(v.vip, 80, b"query"), Passed),
        row("TCP to a UDP port", v.tcp(v.vip, 53, Segment::Syn), Passed),
        row("TCP, no real", v.tcp(v.empty, 80, Segment::Syn), Dropped(NoReal)),
        row("TCP to a stranger", v.tcp(v.stranger, 80, Segment::Syn), Passed),
        row("UDP to a stranger", v.udp(v.stranger, 53, b"query"), Passed),
        row("TCP from the VIP to itself", tcp(&v.at(v.vip, 80), &v.at(v.vip, 80), Segment::Syn), Balanced),
        row("TTL 0", patched(syn.clone(), v.ttl(), &[0]), Balanced),
        row("TTL 1", patched(syn.clone(), v.ttl(), &[1]), Balanced),
        row("TTL 255", patched(syn.clone(), v.ttl(), &[255]), Balanced),
        row("length 0", patched(query.clone(), v.length(), &[0, 0]), Balanced),
        row("length 65535", patched(query.clone(), v.length(), &[255, 255]), Balanced),
        row("length one too large", patched(query.clone(), v.length() + 1, &[query.len() as u8]), Balanced),
        row("TCP data offset 0", patched(syn.clone(), v.transport() + 12, &[0]), Balanced),
        row("TCP data offset 15", patched(syn.clone(), v.transport() + 12, &[0xf0]), Balanced),
        row("TCP without flags", patched(syn.clone(), v.transport() + 13, &[0]), Balanced),
        row("TCP with all flags", patched(syn.clone(), v.transport() + 13, &[255]), Balanced),
        row("TCP checksum wrong", patched(syn.clone(), v.transport() + 16, &[0xba, 0xad]), Balanced),
        row("UDP length 0", patched(query.clone(), v.transport() + 4, &[0, 0]), Balanced),
        row("UDP length 65535", patched(query.clone(), v.transport() + 4, &[255, 255]), Balanced),
        row("UDP checksum 0", patched(query.clone(), v.transport() + 6, &[0, 0]), Balanced),
        row("one byte of padding", resized(query.clone(), query.len() + 1), Balanced),
        row("padding up to 60 bytes and more", resized(syn.clone(), 100), Balanced),
        row("MAC of somebody else", patched(syn.clone(), 0, &[2, 0, 0, 0, 0, 9]), Balanced),
        row("broadcast MAC", patched(syn.clone(), 0, &[255; 6]), Balanced),
        row("multicast MAC", patched(syn.clone(), 0, &[1, 0, 0x5e, 0, 0, 1]), Balanced),
    ];
    for nibble in 0..16 {
        let first = (nibble << 4) | (syn[IP] & 0x0f);
        let frame = patched(syn.clone(), IP, &[first]);
        rows.push(row(format!("version nibble {nibble}"), frame, Balanced));
    }
    let stranger = v.tcp(v.stranger, 80, Segment::Syn);
    for len in 0..v.transport() {
        rows.push(row(format!("ends at byte {len}"), syn[..len].to_vec(), Passed));
    }
    for len in v.transport()..v.transport() + 20 {
        let name = format!("TCP ends at byte {len}");
        rows.push(row(&name, syn[..len].to_vec(), Dropped(L4Truncated)));
        rows.push(row(format!("{name}, stranger"), stranger[..len].to_vec(), Passed));
    }
    let stranger = v.udp(v.stranger, 53, b"");
    for len in v.transport()..v.transport() + 8 {
        let name = format!("UDP ends at byte {len}");
        rows.push(row(&name, query[..len].to_vec(), Dropped(L4Truncated)));
        rows.push(row(format!("{name}, stranger"), stranger[..len].to_vec(), Passed));
    }
    rows.push(row("UDP ends with its header", query[..v.transport() + 8].to_vec(), Balanced));
    rows.push(row("TCP ends with its header", syn[..v.transport() + 20].to_vec(), Balanced));
    rows
}

/// Frames at the size limit; `over` is the fate of a longer one for a VIP.
#[rustfmt::skip]
fn sizes(v: Version, over: Fate) -> Vec<Row> {
    let to_vip = v.tcp(v.vip, 80, Segment::Ack);
    let error = v.error(v.vip, &v.quoted_tcp(v.vip, 80));
    vec![
        row("1513 bytes", resized(to_vip.clone(), 1513), Balanced),
        row("1514 bytes", resized(to_vip.clone(), 1514), Balanced),
        row("1515 bytes", resized(to_vip.clone(), 1515), over),
        row("3500 bytes", resized(to_vip, 3500), over),
        row("1515 bytes of ICMP error", resized(error, 1515), over),
        row("1515 bytes, no real", resized(v.tcp(v.empty, 80, Segment::Ack), 1515), over),
        row("1515 bytes, no VIP has the port", resized(v.tcp(v.vip, 81, Segment::Ack), 1515), Passed),
        row("2000 bytes, stranger", resized(v.tcp(v.stranger, 80, Segment::Ack), 2000), Passed),
        row("2000 bytes of echo request", resized(echo(v.client, v.vip), 2000), Answered),
    ]
}

#[rustfmt::skip]
fn other_protocols(v: Version) -> Vec<Row> {
    // Read as ICMP or ICMPv6, this is an echo request; read as ports, it is for the VIP.
    let mut body = vec![0; 40];
    body[..4].copy_from_slice(&[v.echo_request, 0, 0, 80]);
    let mut rows = Vec::new();
    for protocol in 0..=255 {
        let fate = match protocol {
            6 | 17 => continue,
            protocol if protocol == v.icmp => Answered,
            44 if v.header_len == 40 => Dropped(Fragment),
            _ => Passed,
        };
        let frame = |to| ip_packet(v.client, to, protocol, &body);
        rows.push(row(format!("protocol {protocol}"), frame(v.vip), fate));
        rows.push(row(format!("protocol {protocol}, stranger"), frame(v.stranger), Passed));
        // Other protocols have no header that could be too short.
        let header_only = ip_packet(v.client, v.vip, protocol, &[]);
        let fate = if protocol == v.icmp { Dropped(L4Truncated) } else { fate };
        rows.push(row(format!("protocol {protocol}, empty"), header_only, fate));
    }
    // The headers that may stand between an IPv6 header and the TCP it carries.
    for next_header in [0_u8, 43, 51, 60, 135, 139, 140] {
        let segment = &v.tcp(v.vip, 80, Segment::Syn)[v.transport()..];
        let extended = [&[6, 0, 1, 4, 0, 0, 0, 0], segment].concat();
        let frame = ip_packet(v.client, v.vip, next_header, &extended);
        rows.push(row(format!("TCP behind header {next_header}"), frame, Passed));
    }
    rows
}

#[rustfmt::skip]
fn messages(v: Version) -> Vec<Row> {
    let request = echo(v.client, v.vip);
    let quoted = v.quoted_tcp(v.vip, 80);
    let mut rows = vec![
        row("echo request", request.clone(), Answered),
        row("echo request with a code", patched(request.clone(), v.transport() + 1, &[7]), Answered),
        row("echo request to a VIP without reals", echo(v.client, v.empty), Answered),
        row("echo request to a stranger", echo(v.client, v.stranger), Passed),
        row("echo request without payload", request[..v.transport() + 8].to_vec(), Answered),
    ];
    for len in 0..8 {
        let name = format!("ICMP header of {len} bytes");
        let end = v.transport() + len;
        rows.push(row(&name, request[..end].to_vec(), Dropped(L4Truncated)));
        let stranger = echo(v.client, v.stranger);
        rows.push(row(format!("{name}, stranger"), stranger[..end].to_vec(), Passed));
    }
    for kind in 0..=255 {
        let fate = match (v.header_len, kind) {
            (20, 8) | (40, 128) => Answered,
            (20, 3) | (40, 1 | 2) => Balanced,
            _ => Passed,
        };
        let frame = icmp_error(v.router, v.vip, (kind, 0), &quoted);
        rows.push(row(format!("ICMP type {kind}"), frame, fate));
        let frame = icmp_error(v.router, v.vip, (v.unreachable.0, kind), &quoted);
        rows.push(row(format!("ICMP error with code {kind}"), frame, Balanced));
        let frame = icmp_error(v.router, v.stranger, (kind, 0), &quoted);
        rows.push(row(format!("ICMP type {kind}, stranger"), frame, Passed));
    }
    rows
}

#[rustfmt::skip]
fn errors(v: Version) -> Vec<Row> {
    let quoted = v.quoted_tcp(v.vip, 80);
    let quoted_query = udp(&v.at(v.vip, 53), &v.at(v.client, 40000), b"answer");
    let quoting = |quoted: &[u8]| v.error(v.vip, quoted);
    let mut rows = vec![
        row("about TCP", quoting(&quoted), Balanced),
        row("about UDP", quoting(&quoted_query), Balanced),
        row("about another VIP", quoting(&v.quoted_tcp(v.any_port, 9)), Balanced),
        row("about a VIP without reals", quoting(&v.quoted_tcp(v.empty, 80)), Dropped(NoReal)),
        row("about a port that is no VIP's", quoting(&v.quoted_tcp(v.vip, 81)), Passed),
        row("about a stranger", quoting(&v.quoted_tcp(v.stranger, 80)), Passed),
        row("to a stranger about a VIP", v.error(v.stranger, &quoted), Passed),
        row("about what the client sent to the VIP", quoting(&v.tcp(v.vip, 80, Segment::Ack)), Passed),
        row("about an echo request", quoting(&echo(v.vip, v.client)), Passed),
        row("about an ICMP message cut short", quoting(&echo(v.vip, v.client)[..=v.transport()]), Passed),
        row("about GRE", quoting(&ip_packet(v.vip, v.client, 47, &[0; 40])), Passed),
        row("about GRE cut short", quoting(&ip_packet(v.vip, v.client, 47, &[])), Passed),
        row("about TTL 0", quoting(&patched(quoted.clone(), v.ttl(), &[0])), Balanced),
        row("padded", resized(quoting(&quoted), 200), Balanced),
    ];
    for len in 0..v.header_len + 20 {
        let frame = quoting(&quoted[..IP + len]);
        rows.push(row(format!("about {len} bytes of TCP"), frame, Dropped(QuoteTruncated)));
    }
    for len in 0..v.header_len + 8 {
        let frame = quoting(&quoted_query[..IP + len]);
        rows.push(row(format!("about {len} bytes of UDP"), frame, Dropped(QuoteTruncated)));
    }
    let shortest = quoting(&quoted_query[..v.transport() + 8]);
    rows.push(row("about a UDP header", shortest, Balanced));
    rows
}

#[rustfmt::skip]
fn only_v4() -> Vec<Row> {
    let syn = V4.tcp(V4.vip, 80, Segment::Syn);
    let stranger = V4.tcp(V4.stranger, 80, Segment::Syn);
    let request = echo(V4.client, V4.vip);
    let quoted = V4.quoted_tcp(V4.vip, 80);
    let flags = IP + 6;
    let mut rows = vec![
        row("header checksum wrong", patched(syn.clone(), IP + 10, &[0xba, 0xad]), Balanced),
        row("DF", patched(syn.clone(), flags, &[0x40, 0]), Balanced),
        row("no DF", patched(syn.clone(), flags, &[0, 0]), Balanced),
        row("reserved flag", patched(syn.clone(), flags, &[0x80, 0]), Balanced),
        row("reserved flag and DF", patched(syn.clone(), flags, &[0xc0, 0]), Balanced),
        row("fragment of an echo request", patched(request.clone(), flags, &[0x20, 0]), Dropped(Fragment)),
        row("echo request with options", patched(request, IP, &[0x46]), Dropped(Ipv4Options)),
        row(
            "fragment of what is neither TCP nor UDP",
            patched(ip_packet(V4.client, V4.vip, 47, &[0; 8]), flags, &[0x20, 0]),
            Dropped(Fragment),
        ),
        row("fragment too short for ports", patched(syn[..IP + 24].to_vec(), flags, &[0, 1]), Dropped(Fragment)),
        row("quoted fragment", V4.error(V4.vip, &patched(quoted.clone(), flags, &[0x20, 0])), Balanced),
    ];
    for words in (0..16).filter(|words| *words != 5) {
        let first = [0x40 | words];
        let name = format!("header of {words} words");
        rows.push(row(&name, patched(syn.clone(), IP, &first), Dropped(Ipv4Options)));
        rows.push(row(format!("{name}, stranger"), patched(stranger.clone(), IP, &first), Passed));
        let error = V4.error(V4.vip, &patched(quoted.clone(), IP, &first));
        rows.push(row(format!("quoted {name}"), error, Dropped(QuoteTruncated)));
    }
    for (name, bits) in [
        ("first fragment", 0x2000_u16),
        ("first fragment with DF", 0x6000),
        ("middle fragment", 0x2001),
        ("last fragment", 0x00b9),
        ("fragment at offset 256 units", 0x0100),
        ("fragment at the largest offset", 0x1fff),
    ] {
        let bits = bits.to_be_bytes();
        rows.push(row(name, patched(syn.clone(), flags, &bits), Dropped(Fragment)));
        rows.push(row(format!("{name}, stranger"), patched(stranger.clone(), flags, &bits), Passed));
    }
    rows
}

#[rustfmt::skip]
fn only_v6() -> Vec<Row> {
    let syn = V6.tcp(V6.vip, 80, Segment::Syn);
    let segment = &syn[V6.transport()..];
    let fragment = [&[6, 0, 0, 0, 0, 0, 0, 1], segment].concat();
    let prefix = |address: &str| V6.tcp(address, 9, Segment::Syn);
    vec![
        row("traffic class and flow label", patched(syn.clone(), IP, &[0x6f, 0xff, 0xff, 0xff]), Balanced),
        row("atomic fragment", ip_packet(V6.client, V6.vip, 44, &fragment), Dropped(Fragment)),
        row("fragment to a stranger", ip_packet(V6.client, V6.stranger, 44, &fragment), Passed),
        row("quoted fragment", V6.error(V6.vip, &ip_packet(V6.vip, V6.client, 44, &fragment)), Passed),
        row("first address of a prefix", prefix("2001:db8:b::"), Balanced),
        row("last address of a prefix", prefix("2001:db8:b::ffff:ffff"), Balanced),
        row("after a prefix", prefix("2001:db8:b::1:0:0"), Passed),
        row("before a prefix", prefix("2001:db8:a:ffff:ffff:ffff:ffff:ffff"), Passed),
        row("port of a prefix", V6.udp("2001:db8:b::7", 443, b"query"), Balanced),
        row("another port of a prefix", V6.udp("2001:db8:b::7", 444, b"query"), Passed),
        row("echo request to a prefix", echo(V6.client, "2001:db8:b::7"), Answered),
        row("fragment to a prefix", ip_packet(V6.client, "2001:db8:b::7", 44, &fragment), Dropped(Fragment)),
    ]
}

/// Frames that are not IP, or of another type than their header says.
#[rustfmt::skip]
fn not_ip() -> Vec<Row> {
    let v4 = V4.tcp(V4.vip, 80, Segment::Syn);
    let v6 = V6.tcp(V6.vip, 80, Segment::Syn);
    let tagged = |tag: &[u8], frame: &[u8]| [&frame[..12], tag, &frame[12..]].concat();
    let ethertype = |frame: &[u8], value: u16| patched(frame.to_vec(), 12, &value.to_be_bytes());
    let mut arp = [&[255; 6], &SENDER_MAC[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    arp.extend([&SENDER_MAC[..], &[192, 0, 2, 10], &[0; 6], &[203, 0, 113, 10]].concat());
    vec![
        row("no bytes", Vec::new(), Passed),
        row("ARP for the VIP", arp, Passed),
        row("one VLAN tag", tagged(&[0x81, 0, 0, 5], &v4), Passed),
        row("one VLAN tag, IPv6", tagged(&[0x81, 0, 0, 5], &v6), Passed),
        row("VLAN in VLAN", tagged(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6], &v4), Passed),
        row("MPLS", ethertype(&v4, 0x8847), Passed),
        row("PPPoE", ethertype(&v4, 0x8864), Passed),
        row("LLDP", ethertype(&v4, 0x88cc), Passed),
        row("IEEE 802.3 length", ethertype(&v4, 40), Passed),
        row("IPv4 under IPv6's EtherType", ethertype(&v4, 0x86dd), Passed),
        row("IPv6 under IPv4's EtherType", ethertype(&v6, 0x0800), Passed),
        row("EtherType with its bytes swapped", ethertype(&v4, 0x0008), Passed),
        row("half IPv4's EtherType", ethertype(&v4, 0x08dd), Passed),
        row("half IPv6's EtherType", ethertype(&v6, 0x8600), Passed),
    ]
}

/// Sends every row and checks its fate, its bytes, its counters, and that the model agrees.
fn check(services: &ServiceSpec, group: &str, rows: Vec<Row>) {
    let mut bench = Bench::new(services);
    for Row { name, frame, fate } in rows {
        let case = format!("{group}: {name}");
        let before = bench.counters.received.get();
        let dropped_before = dropped(&bench);
        let sent = bench.send_with_room(&frame, 48);
        assert_eq!(Fate::of(&bench, &sent), fate, "{case}");
        assert_eq!(model::fate(services, &frame), fate, "the model, {case}");

        let bytes = frame.len() as u64;
        assert_eq!(bench.counters.unaccounted(), 0, "{case}");
        assert_eq!(
            bench.counters.received.get(),
            (before.0 + 1, before.1 + bytes),
            "{case}"
        );
        for ((reason, before), (_, after)) in dropped_before.iter().zip(dropped(&bench)) {
            let expected = if fate == Dropped(*reason) {
                (before.0 + 1, before.1 + bytes)
            } else {
                *before
            };
            assert_eq!(after, expected, "{case}: {}", reason.name());
        }
        let Ok(sent) = sent else { continue };
        if fate == Balanced {
            let overhead = sent.len() - frame.len();
            assert_eq!(sent[..6], NEXT_HOP, "{case}");
            assert_eq!(sent[6..12], frame[..6], "{case}");
            assert_eq!(
                sent[IP + overhead..],
                frame[IP..],
                "{case}: the packet is untouched"
            );
        } else {
            assert_eq!(sent[..6], SENDER_MAC, "{case}");
            assert_eq!(sent[6..12], OWN_MAC, "{case}");
        }
    }
}

fn dropped(bench: &Bench) -> Vec<(DropReason, (u64, u64))> {
    DropReason::ALL
        .iter()
        .map(|reason| (*reason, bench.counters.dropped(*reason)))
        .collect()
}

/// Every row under these settings.
fn check_all(settings: Settings) {
    let services = every_kind_of_vip(settings);
    let over = if settings.icmp_too_big {
        Answered
    } else {
        Dropped(FrameTooLong)
    };
    for v in [V4, V6] {
        check(&services, &format!("{} data", v.name), data(v));
        check(&services, &format!("{} sizes", v.name), sizes(v, over));
        check(
            &services,
            &format!("{} protocols", v.name),
            other_protocols(v),
        );
        check(&services, &format!("{} ICMP", v.name), messages(v));
        check(&services, &format!("{} ICMP error", v.name), errors(v));
    }
    check(&services, "IPv4 alone", only_v4());
    check(&services, "IPv6 alone", only_v6());
    check(&services, "not IP", not_ip());
}

#[test]
fn with_ipip() {
    check_all(settings());
}

#[test]
fn with_gue() {
    check_all(gue());
}

#[test]
fn with_too_big_messages() {
    check_all(Settings {
        icmp_too_big: true,
        ..settings()
    });
}

#[test]
fn max_frame_is_a_setting() {
    for max_frame in [74, 1294, 3500] {
        let settings = Settings {
            max_frame,
            ..settings()
        };
        let frame = |len| resized(V6.tcp(V6.vip, 80, Segment::Ack), len);
        let len = usize::from(max_frame);
        let rows = vec![
            row("at the limit", frame(len), Balanced),
            row("over the limit", frame(len + 1), Dropped(FrameTooLong)),
        ];
        let group = format!("max_frame {max_frame}");
        check(&every_kind_of_vip(settings), &group, rows);
    }
}

/// Without a next hop only what goes to a real is lost.
#[test]
fn without_a_next_hop() {
    let settings = Settings {
        next_hop_mac: None,
        ..settings()
    };
    for v in [V4, V6] {
        let rows = vec![
            row("TCP", v.tcp(v.vip, 80, Segment::Syn), Dropped(NoNextHop)),
            row(
                "TCP, no real",
                v.tcp(v.empty, 80, Segment::Syn),
                Dropped(NoReal),
            ),
            row("stranger", v.tcp(v.stranger, 80, Segment::Syn), Passed),
            row("echo request", echo(v.client, v.vip), Answered),
        ];
        check(&every_kind_of_vip(settings), v.name, rows);
    }
}

/// Without any VIP every packet of the whole table is for the kernel.
#[test]
fn without_vips_everything_is_passed() {
    let services = ServiceSpec {
        settings: settings(),
        ..ServiceSpec::default()
    };
    let mut rows: Vec<Row> = [only_v4(), only_v6(), not_ip()]
        .into_iter()
        .flatten()
        .collect();
    for v in [V4, V6] {
        rows.extend(
            [
                data(v),
                sizes(v, Passed),
                other_protocols(v),
                messages(v),
                errors(v),
            ]
            .into_iter()
            .flatten(),
        );
    }
    for row in &mut rows {
        row.fate = Passed;
    }
    check(&services, "no VIPs", rows);
}

/// Outer lengths come from the arriving header, modulo 2¹⁶, and never from the frame.
#[test]
fn outer_lengths_follow_the_length_field() {
    for (settings, v4_overhead) in [(settings(), 20_u16), (gue(), 28)] {
        let udp_len = v4_overhead - 20;
        let mut bench = Bench::new(&every_kind_of_vip(settings));
        for length in [0, 1, 19, 20, 1000, 0xffd7, 0xffe3, 0xffe4, 0xffff_u16] {
            let v4 = patched(
                V4.udp(V4.vip, 53, b"query"),
                V4.length(),
                &length.to_be_bytes(),
            );
            let sent = bench.send(&v4).expect("it is sent");
            assert_eq!(
                sent[16..18],
                length.wrapping_add(v4_overhead).to_be_bytes(),
                "{length}"
            );
            let v6 = patched(
                V6.udp(V6.vip, 53, b"query"),
                V6.length(),
                &length.to_be_bytes(),
            );
            let sent = bench.send(&v6).expect("it is sent");
            assert_eq!(
                sent[18..20],
                length.wrapping_add(40 + udp_len).to_be_bytes(),
                "{length}"
            );
            if matches!(settings.encapsulation, Encapsulation::Gue { .. }) {
                assert_eq!(
                    sent[58..60],
                    length.wrapping_add(48).to_be_bytes(),
                    "{length}"
                );
            }
        }
    }
}

/// A reply's checksum is the request's plus 8 (IPv6: minus 1) as a little-endian number, without the
/// carry of one's complement: as Katran answers, so the few that wrap are off by one (section 4.4).
#[test]
fn echo_checksums_change_without_a_carry() {
    for (v, checksum, replied) in [
        (V4, [0xf7, 0xff], [0xff, 0xff]),
        (V4, [0xf8, 0xff], [0x00, 0x00]),
        (V4, [0xff, 0xff], [0x07, 0x00]),
        (V4, [0xff, 0x00], [0x07, 0x01]),
        (V6, [0x00, 0x01], [0xff, 0x00]),
        (V6, [0x00, 0x00], [0xff, 0xff]),
    ] {
        let at = IP + v.header_len + 2;
        let request = patched(echo(v.client, v.vip), at, &checksum);
        let reply = Bench::new(&every_kind_of_vip(settings()))
            .send(&request)
            .expect("it is answered");
        assert_eq!(reply[at..at + 2], replied, "{}, {checksum:02x?}", v.name);
    }
}
