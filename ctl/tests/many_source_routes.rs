//! A file with very many source routes, and a client in each of them.

use std::{
    borrow::Cow,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
};

use etherparse::PacketBuilder;
use pcap_file::{
    DataLink, TsResolution,
    pcap::{PcapHeader, PcapWriter, RawPcapPacket},
};
use serde_json::Value;

const SERVICES: &str = r#"
[interface]
next_hop_mac = "02:00:00:00:cc:03"
[balancer]
flow_table_capacity = 1000
[[vip]]
address = "203.0.113.10"
port = 80
protocol = "tcp"
flags = ["src-routing"]
reals = [{ address = "198.51.100.11" }]
[[vip]]
address = "2001:db8:a::10"
port = 80
protocol = "tcp"
flags = ["src-routing"]
reals = [{ address = "2001:db8:f::1" }]
"#;
/// Real of the VIPs, for clients without a route.
const RING_V4: &str = "198.51.100.11";
const RING_V6: &str = "2001:db8:f::1";

/// Reals that routes lead to, of each family.
const REALS: u32 = 2000;
/// IPv4 networks with a /16, a /24 in each second place, and hosts in those.
const SITES: u32 = 100;
const HOSTS: u32 = 7;
/// IPv6 networks with a /48, and a /64 in each second place.
const SITES_V6: u32 = 128;
const NETWORKS_V6: u32 = 64;

/// Routes, and clients with the real that each must get.
#[derive(Default)]
struct Plan {
    toml: String,
    routes: u32,
    clients: Vec<(IpAddr, IpAddr)>,
}

impl Plan {
    fn route(&mut self, prefix: IpAddr, prefix_len: u8) -> IpAddr {
        let number = self.routes % REALS;
        let real: IpAddr = match prefix {
            IpAddr::V4(_) => Ipv4Addr::from_bits(0xac10_0001 + number).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(0xfd << 120 | u128::from(number)).into(),
        };
        let toml = &mut self.toml;
        let _ = writeln!(
            toml,
            "[[source_route]]\nprefix = \"{prefix}/{prefix_len}\"\nreal = \"{real}\""
        );
        self.routes += 1;
        real
    }

    fn client(&mut self, client: IpAddr, real: IpAddr) {
        self.clients.push((client, real));
    }

    fn new() -> Self {
        let mut plan = Self::default();
        let v4 = |bits: u32| IpAddr::from(Ipv4Addr::from_bits(bits));
        for site in 0..SITES {
            let site = (10 << 24) + (site << 16);
            let of_site = plan.route(v4(site), 16);
            for network in (0..256).step_by(2) {
                let network = site + (network << 8);
                let of_network = plan.route(v4(network), 24);
                for host in 1..=HOSTS {
                    let of_host = plan.route(v4(network + host), 32);
                    plan.client(v4(network + host), of_host);
                }
                plan.client(v4(network), of_network);
                plan.client(v4(network + 255), of_network);
                plan.client(v4(network + 256), of_site);
            }
        }
        let ring = RING_V4.parse().expect("an address");
        plan.client(v4((10 << 24) - 1), ring);
        plan.client(v4((10 << 24) + (SITES << 16)), ring);

        let v6 = |upper: u64, lower: u64| {
            IpAddr::from(Ipv6Addr::from_bits(
                u128::from(upper) << 64 | u128::from(lower),
            ))
        };
        for site in 0..u64::from(SITES_V6) {
            let site = (0x2001_0db8 << 32) + (site << 16);
            let of_site = plan.route(v6(site, 0), 48);
            for network in (0..2 * u64::from(NETWORKS_V6)).step_by(2) {
                let of_network = plan.route(v6(site + network, 0), 64);
                plan.client(v6(site + network, u64::MAX), of_network);
                plan.client(v6(site + network + 1, 0), of_site);
            }
        }
        let ring = RING_V6.parse().expect("an address");
        plan.client(v6(0x2001_0db9 << 32, 0), ring);
        plan
    }
}

/// The first packet of a client to the VIP of its family.
fn packet(client: IpAddr) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0xbb, 2], [2, 0, 0, 0, 0xaa, 1]);
    let vip_v6: Ipv6Addr = "2001:db8:a::10".parse().expect("an address");
    let ip = match client {
        IpAddr::V4(client) => ethernet.ipv4(client.octets(), [203, 0, 113, 10], 64),
        IpAddr::V6(client) => ethernet.ipv6(client.octets(), vip_v6.octets(), 64),
    };
    let mut frame = Vec::new();
    ip.tcp(40_000, 80, 1, 1000)
        .syn()
        .write(&mut frame, &[])
        .expect("a valid packet");
    frame
}

fn capture(clients: &[(IpAddr, IpAddr)]) -> Vec<u8> {
    let header = PcapHeader {
        ts_resolution: TsResolution::MicroSecond,
        datalink: DataLink::ETHERNET,
        snaplen: 65_535,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(Vec::new(), header).expect("a header");
    for (number, (client, _)) in (0..).zip(clients) {
        let frame = packet(*client);
        writer
            .write_raw_packet(&RawPcapPacket {
                // A packet each millisecond: no flood.
                ts_sec: number / 1000,
                ts_frac: number % 1000 * 1000,
                incl_len: frame.len() as u32,
                orig_len: frame.len() as u32,
                data: Cow::Owned(frame),
            })
            .expect("memory");
    }
    writer.into_writer()
}

#[test]
fn a_hundred_thousand_routes_are_loaded_and_each_is_found() {
    let plan = Plan::new();
    assert!(plan.routes > 100_000, "{}", plan.routes);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    fs::write(path("lb.toml"), format!("{SERVICES}{}", plan.toml)).expect("a file");
    fs::write(path("in.pcap"), capture(&plan.clients)).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_katran-xsk"));
    command.arg("replay");
    for (option, name) in [
        ("--config", "lb.toml"),
        ("--in", "in.pcap"),
        ("--out", "out.pcap"),
        ("--verdicts", "verdicts.jsonl"),
    ] {
        command.arg(option).arg(path(name));
    }
    let output = command.output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");

    let verdicts = fs::read_to_string(path("verdicts.jsonl")).expect("a file");
    assert_eq!(verdicts.lines().count(), plan.clients.len());
    for (line, (client, real)) in verdicts.lines().zip(&plan.clients) {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(line["real"], real.to_string(), "{client}: {line}");
        let by_ring = [RING_V4, RING_V6].contains(&real.to_string().as_str());
        let selection = if by_ring { "ring" } else { "source-route" };
        assert_eq!(line["selection"], selection, "{client}: {line}");
    }
}
