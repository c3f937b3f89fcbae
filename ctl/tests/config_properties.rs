//! Properties of the configuration: what is written is read back, and no text makes it panic.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use dataplane::{
    service::{
        MacAddress, Protocol, RealSpec, SourceRouteSpec, SourceRoutes, VipFlags, VipKey, VipSpec,
    },
    xsk::SocketMode,
};
use katran_xsk::config::{
    AdminConfig, BalancerConfig, Config, EncapsulationKind, HealthCheckPathConfig, HealthCheckSpec,
    IndexList, InterfaceConfig, PriorityChoice, Queues,
};
use maglev::HashFunction;
use proptest::{option, prelude::*, sample::select};
use xdp_redirect::XdpMode;

fn index_list(max: u32) -> impl Strategy<Value = IndexList> {
    prop::collection::hash_set(0..max, 1..20)
        .prop_map(|set| IndexList::new(set.into_iter().collect()).unwrap())
}

fn interface() -> impl Strategy<Value = InterfaceConfig> {
    let queues = prop_oneof![Just(Queues::All), index_list(256).prop_map(Queues::List),];
    (
        (
            option::of("[a-z][a-z0-9@\"\\\\é.-]{0,6}"),
            option::of(queues),
            select(vec![
                SocketMode::Auto,
                SocketMode::ZeroCopy,
                SocketMode::Copy,
            ]),
            option::of((1..=127_u8, any::<[u8; 5]>())),
            select(vec![XdpMode::Auto, XdpMode::Native, XdpMode::Generic]),
        ),
        (
            128..=262_144_u32,
            option::of(index_list(4096)),
            any::<bool>(),
            (
                option::of(1..=1_000_000_u32),
                select(PriorityChoice::ALL.to_vec()),
            ),
            any::<bool>(),
        ),
    )
        .prop_map(
            |(
                (name, queues, mode, mac, xdp_mode),
                (frames, cpus, busy_poll, (spin_us, priority), huge_pages),
            )| {
                InterfaceConfig {
                    name,
                    queues,
                    // Refused beside a program in the network stack.
                    mode: match xdp_mode {
                        XdpMode::Generic => SocketMode::Auto,
                        _ => mode,
                    },
                    next_hop_mac: mac
                        .map(|(first, [a, b, c, d, e])| MacAddress([first << 1, a, b, c, d, e])),
                    xdp_mode,
                    frames,
                    cpus,
                    // Refused beside spinning.
                    priority: match spin_us {
                        Some(_) => PriorityChoice::Auto,
                        None => priority,
                    },
                    busy_poll,
                    spin_us,
                    huge_pages,
                }
            },
        )
}

fn unicast_v4() -> impl Strategy<Value = Ipv4Addr> {
    (1..224_u8, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| Ipv4Addr::new(a, b, c, d))
}

fn unicast_v6() -> impl Strategy<Value = Ipv6Addr> {
    any::<[u16; 7]>().prop_map(|[b, c, d, e, f, g, h]| Ipv6Addr::new(0x2001, b, c, d, e, f, g, h))
}

fn balancer() -> impl Strategy<Value = BalancerConfig> {
    (
        select(HashFunction::ALL.to_vec()),
        any::<bool>(),
        1..=u16::MAX,
        option::of(unicast_v4()),
        option::of(unicast_v6()),
        (1..=1_usize << 27, 1..=1_usize << 27),
        1294..=3500_u16,
        any::<bool>(),
        1..=u32::MAX,
    )
        .prop_map(
            |(
                hash,
                gue,
                gue_port,
                source_v4,
                source_v6,
                (flow_table_capacity, global_table_capacity),
                max_frame,
                too_big,
                connection_rate_cap,
            )| {
                let gue = gue && source_v4.is_some() && source_v6.is_some();
                BalancerConfig {
                    hash,
                    encapsulation: if gue {
                        EncapsulationKind::Gue
                    } else {
                        EncapsulationKind::Ipip
                    },
                    gue_port,
                    source_v4,
                    source_v6,
                    flow_table_capacity,
                    global_table_capacity,
                    max_frame,
                    icmp_too_big: too_big,
                    tcp_server_id: false,
                    connection_rate_cap,
                    keep_last_ring: too_big,
                }
            },
        )
}

fn key() -> impl Strategy<Value = VipKey> {
    let address = prop_oneof![
        unicast_v4().prop_map(|address| (IpAddr::V4(address), 32)),
        unicast_v6().prop_map(|address| (IpAddr::V6(address), 128)),
        (unicast_v6(), 16..128_u8).prop_map(|(address, length)| {
            let mask = u128::MAX << (128 - u32::from(length));
            (IpAddr::V6((address.to_bits() & mask).into()), length)
        }),
    ];
    (
        address,
        any::<u16>(),
        select(vec![Protocol::Tcp, Protocol::Udp]),
    )
        .prop_map(|((address, prefix_len), port, protocol)| VipKey {
            address,
            prefix_len,
            port,
            protocol,
        })
}

fn vip() -> impl Strategy<Value = VipSpec> {
    let flags =
        prop::bits::u16::masked(VipFlags::all().bits()).prop_map(VipFlags::from_bits_truncate);
    let v4 = (unicast_v4(), any::<u32>()).prop_map(|(address, weight)| (address.into(), weight));
    let v6 = (unicast_v6(), any::<u32>()).prop_map(|(address, weight)| (address.into(), weight));
    let reals = prop::collection::vec(prop_oneof![v4, v6], 0..6);
    (key(), select(HashFunction::ALL.to_vec()), flags, reals).prop_map(
        |(key, hash, flags, reals): (_, _, _, Vec<(IpAddr, u32)>)| {
            let mut seen = HashSet::new();
            VipSpec {
                key,
                hash,
                flags,
                reals: reals
                    .into_iter()
                    .filter(|(address, _)| key.address.is_ipv4() || address.is_ipv6())
                    .filter(|(address, _)| seen.insert(*address))
                    .map(|(address, weight)| RealSpec {
                        address,
                        weight,
                        // The same in every VIP.
                        local: address.is_ipv6(),
                        down: weight % 2 == 1,
                    })
                    .collect(),
            }
        },
    )
}

fn source_routes() -> impl Strategy<Value = SourceRoutes> {
    let v4 = (unicast_v4(), 0..=32_u8, unicast_v4()).prop_map(|(prefix, prefix_len, real)| {
        let mask = u32::MAX
            .checked_shl(32 - u32::from(prefix_len))
            .unwrap_or(0);
        SourceRouteSpec {
            prefix: Ipv4Addr::from_bits(prefix.to_bits() & mask).into(),
            prefix_len,
            real: real.into(),
        }
    });
    let v6 = (unicast_v6(), 0..=128_u8, unicast_v6()).prop_map(|(prefix, prefix_len, real)| {
        let mask = u128::MAX
            .checked_shl(128 - u32::from(prefix_len))
            .unwrap_or(0);
        SourceRouteSpec {
            prefix: Ipv6Addr::from_bits(prefix.to_bits() & mask).into(),
            prefix_len,
            real: real.into(),
        }
    });
    prop::collection::vec(prop_oneof![v4, v6], 0..6).prop_map(|routes| {
        let mut seen = HashSet::new();
        let unique = routes.into_iter();
        let unique = unique.filter(|route| seen.insert((route.prefix, route.prefix_len)));
        SourceRoutes::new(unique).expect("valid routes")
    })
}

fn config() -> impl Strategy<Value = Config> {
    let admin = ("[ -~é\t]{1,40}", 0..=0o777_u32).prop_map(|(socket, mode)| AdminConfig {
        socket: socket.into(),
        mode,
    });
    let vips = prop::collection::vec(vip(), 0..5);
    let parts = (
        interface(),
        balancer(),
        admin,
        vips,
        health_checks(),
        source_routes(),
    );
    parts.prop_map(
        |(interface, balancer, admin, mut vips, (path, mut checks), source_routes)| {
            let mut seen = HashSet::new();
            vips.retain(|vip| seen.insert(vip.key));
            let mut seen = HashSet::new();
            checks.retain(|check| seen.insert(check.mark));
            checks.retain(|check| match check.real {
                IpAddr::V4(_) => balancer.source_v4.is_some(),
                IpAddr::V6(_) => balancer.source_v6.is_some(),
            });
            Config {
                interface,
                balancer,
                admin,
                vips,
                health_check_path: path,
                health_checks: checks,
                source_routes,
                ..Config::default()
            }
        },
    )
}

fn health_checks() -> impl Strategy<Value = (HealthCheckPathConfig, Vec<HealthCheckSpec>)> {
    let path = (
        option::of("[a-z][a-z0-9.-]{0,6}"),
        option::of(60..=65_549_u32),
    )
        .prop_map(|(interface, max_frame)| HealthCheckPathConfig {
            interface,
            max_frame,
        });
    let real = prop_oneof![
        unicast_v4().prop_map(IpAddr::V4),
        unicast_v6().prop_map(IpAddr::V6)
    ];
    let check = (1..=u32::MAX, real).prop_map(|(mark, real)| HealthCheckSpec { mark, real });
    (path, prop::collection::vec(check, 0..5))
}

/// A file with every kind of value in it.
const SAMPLE: &str = r#"
[interface]
name = "eth0"
queues = "0,2,4-7"
next_hop_mac = "02:00:00:00:cc:03"
frames = 0x1000
huge_pages = true
[balancer]
encapsulation = "gue"
source_v4 = "192.0.2.1"
max_frame = 1_514
[admin]
mode = "0660"
[[vip]]
address = "203.0.113.10"
port = 80
protocol = "tcp"
flags = ["no-src-port", 'lru-bypass']
reals = [{ address = "198.51.100.11", weight = 1 }, { address = "198.51.100.12" }]
[[vip]]
address = "2001:db8:a::/96"
port = 0
protocol = "udp"
[[server_id]]
id = 4097
real = "198.51.100.11"
[[source_route]]
prefix = "192.0.2.0/24"
real = "198.51.100.12"
[[decap]]
address = "2001:db8:d::1"
egress = false
[health_check_path]
interface = "hc0"
[[health_check]]
mark = 7
real = "198.51.100.11"
"#;

/// A piece of the sample is cut out, doubled, moved or overwritten.
#[derive(Clone, Debug)]
struct Mutation {
    start: usize,
    length: usize,
    kind: u8,
    text: String,
}

fn mutation() -> impl Strategy<Value = Mutation> {
    (
        0..SAMPLE.len(),
        0..40_usize,
        0..4_u8,
        "\\PC{0,6}|[\\[\\]{}=\"'#,.0-9\n-]{0,6}",
    )
        .prop_map(|(start, length, kind, text)| Mutation {
            start,
            length,
            kind,
            text,
        })
}

impl Mutation {
    fn apply(&self, text: &mut String) {
        let boundary = |mut at: usize, text: &str| {
            at = at.min(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let start = boundary(self.start, text);
        let end = boundary(self.start + self.length, text).max(start);
        let piece = text[start..end].to_owned();
        match self.kind {
            0 => text.replace_range(start..end, ""),
            1 => text.insert_str(end, &piece),
            2 => text.replace_range(start..end, &self.text),
            _ => text.insert_str(start, &self.text),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_is_written_is_read_back(config in config()) {
        let text = config.to_toml();
        let read = Config::parse(&text, "written").map_err(|error| {
            TestCaseError::fail(format!("{error}\n{text}"))
        })?;
        prop_assert_eq!(read, config);
    }

    #[test]
    fn no_mutation_makes_the_parser_panic(mutations in prop::collection::vec(mutation(), 1..6)) {
        let mut text = SAMPLE.to_owned();
        for mutation in &mutations {
            mutation.apply(&mut text);
        }
        match Config::parse(&text, "mutated") {
            Ok(config) => prop_assert_eq!(Config::parse(&config.to_toml(), "again"), Ok(config)),
            Err(error) => {
                prop_assert!(!error.problems.is_empty());
                let lines = text.lines().count().max(1) + 1;
                for problem in &error.problems {
                    prop_assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)));
                    prop_assert!(!problem.to_string().contains('\n'), "{}", problem);
                }
            }
        }
    }
}
