//! A thousand random changes while packets of thousands of flows pass: no flow moves that need not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use katran_xsk::{admin::server::Limits, control::lock};

use crate::{
    clients::Served,
    random::Random,
    rig::{Rig, parse, tcp_frame, udp_frame},
};

const CHANGES: usize = 1_000;
const QUEUES: usize = 2;
const VIPS: usize = 10;
const FLOWS_OF_VIP: usize = 150;
/// Addresses of each family that the VIPs' reals are taken from.
const POOL: u64 = 150;
const MOST_REALS: usize = 6;
/// Reals of a VIP that nothing happens to. They leave so few numbers that those of removed reals are
/// soon given to others, and their flows have to move.
const FILLERS: u32 = 4_000;

/// The VIP whose flag `lru-bypass` comes and goes.
const BYPASSED: usize = 0;
/// The UDP VIP, whose flows leave reals that are down; one packet in [`CARRIERS`] has a server id.
const UDP: usize = 8;
/// The VIP over IPv6.
const OVER_IPV6: usize = 9;
const CARRIERS: usize = 3;
/// Server ids that come and go.
const IDS: u64 = 8;

/// Settings that rebuild nothing.
const SETTINGS: [(&str, &[&str]); 7] = [
    ("max_frame", &["1400", "1514"]),
    ("icmp_too_big", &["true", "false"]),
    ("tcp_server_id", &["true", "false"]),
    ("source_v4", &["192.0.2.253", "192.0.2.254"]),
    ("hash", &["maglev-v1", "maglev-v2"]),
    ("keep_last_ring", &["true", "false"]),
    ("connection_rate_cap", &["500000", "1000000"]),
];

fn vip_endpoint(vip: usize) -> String {
    match vip {
        UDP => "203.0.113.53:443".to_owned(),
        OVER_IPV6 => "[2001:db8:a::10]:80".to_owned(),
        _ => format!("203.0.113.{}:80", 10 + vip),
    }
}

fn protocol(vip: usize) -> &'static str {
    if vip == UDP { "udp" } else { "tcp" }
}

fn vip_name(vip: usize) -> String {
    format!("{}/{}", vip_endpoint(vip), protocol(vip))
}

fn flags(vip: usize) -> &'static [&'static str] {
    match vip {
        UDP => &["quic", "src-routing", "udp-flow-migration"],
        OVER_IPV6 => &["src-routing"],
        _ => &[],
    }
}

fn client(vip: usize) -> IpAddr {
    match vip {
        OVER_IPV6 => Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, vip as u16).into(),
        _ => Ipv4Addr::new(192, 0, 2, vip as u8).into(),
    }
}

/// An address that a VIP can have as a real.
fn pool_address(random: &mut Random, vip: usize) -> IpAddr {
    let host = 1 + random.below(POOL) as u8;
    match vip {
        OVER_IPV6 => Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, host.into()).into(),
        _ => Ipv4Addr::new(198, 51, 100, host).into(),
    }
}

/// What may move flows, with the number of the change that did it.
#[derive(Debug, Default)]
struct Events {
    vips: Vec<(usize, usize)>,
    reals: Vec<(usize, IpAddr)>,
    /// A real was down for [`UDP`].
    downs: Vec<(usize, IpAddr)>,
    ids: Vec<(usize, u64)>,
}

impl Events {
    /// Whether a flow may have moved between the end of change `from` and that of change `to`.
    fn allow(&self, moved: &Move) -> bool {
        let within = |change: usize| (moved.since..=moved.until).contains(&change);
        let Flow { vip, id, .. } = moved.flow;
        let of_vip = |&(change, of): &(usize, usize)| of == vip && within(change);
        let of_real = |&(change, real): &(usize, IpAddr)| real == moved.from && within(change);
        let of_id = |&(change, of): &(usize, u64)| id == Some(of) && within(change);
        self.vips.iter().any(of_vip)
            || self.reals.iter().any(of_real)
            || vip == UDP && self.downs.iter().any(of_real)
            || self.ids.iter().any(of_id)
    }
}

/// A flow, of which each packet is the same.
#[derive(Clone, Copy, Debug)]
struct Flow {
    client: SocketAddr,
    vip: usize,
    /// The server id in its packets.
    id: Option<u64>,
}

impl Flow {
    fn frame(&self) -> Vec<u8> {
        let (client, vip) = (self.client.to_string(), vip_endpoint(self.vip));
        if self.vip == UDP {
            udp_frame(&client, &vip, &quic(self.id))
        } else {
            tcp_frame(&client, &vip)
        }
    }
}

/// A QUIC packet with a short header and, if there is an id, a connection id of version 1.
fn quic(id: Option<u64>) -> [u8; 20] {
    let mut payload = [0; 20];
    payload[0] = 0x40;
    if let Some(id) = id {
        let connection = 1 << 22 | (id as u32) << 6;
        payload[1..4].copy_from_slice(&connection.to_be_bytes()[1..]);
    }
    payload
}

/// A flow that went to one real and then to another.
struct Move {
    flow: Flow,
    from: IpAddr,
    to: IpAddr,
    /// The first and the last change that can have been the cause.
    since: usize,
    until: usize,
}

/// The desired state as the test knows it, and the changes it makes.
struct Operator {
    random: Random,
    /// Reals by VIP; `None` while the VIP is removed.
    vips: Vec<Option<BTreeSet<IpAddr>>>,
    bypassed: bool,
    down: BTreeSet<(usize, IpAddr)>,
    ids: BTreeSet<u64>,
    routes: BTreeSet<IpAddr>,
}

impl Operator {
    fn new() -> Self {
        let mut random = Random::new(2307);
        let mut reals = |vip| {
            let mut reals = BTreeSet::new();
            while reals.len() < 4 {
                reals.insert(pool_address(&mut random, vip));
            }
            Some(reals)
        };
        let vips = (0..VIPS).map(&mut reals).collect();
        Self {
            random,
            vips,
            bypassed: false,
            down: BTreeSet::new(),
            ids: BTreeSet::new(),
            routes: BTreeSet::new(),
        }
    }

    fn configuration(&self) -> String {
        let mut text = "[interface]\nname = \"test0\"\nqueues = \"0-1\"\n\
                        next_hop_mac = \"02:00:00:00:cc:03\"\n\n\
                        [balancer]\nflow_table_capacity = 10000\n"
            .to_owned();
        let mut vip =
            |endpoint: &str, protocol, flags: &[&str], reals: &mut dyn Iterator<Item = IpAddr>| {
                let endpoint: SocketAddr = endpoint.parse().expect("an endpoint");
                let (address, port) = (endpoint.ip(), endpoint.port());
                let _ = write!(
                    text,
                    "\n[[vip]]\naddress = \"{address}\"\nport = {port}\nprotocol = \"{protocol}\"\n\
                 flags = {flags:?}\nreals = ["
                );
                for real in reals {
                    let _ = write!(text, "{{ address = \"{real}\" }}, ");
                }
                text.push_str("]\n");
            };
        vip(
            "203.0.113.200:80",
            "tcp",
            &[],
            &mut (0..FILLERS).map(|n| Ipv4Addr::from_bits(0x0a63_0000 + n).into()),
        );
        for (number, reals) in self.vips.iter().enumerate() {
            vip(
                &vip_endpoint(number),
                protocol(number),
                flags(number),
                &mut reals.iter().flatten().copied(),
            );
        }
        text
    }

    /// The next command, which is change `number`; notes whose flows it may move.
    fn change(&mut self, number: usize, events: &mut Events) -> String {
        if self.bypassed {
            // Whatever changes, the ring decides.
            events.vips.push((number, BYPASSED));
        }
        let down = self.down.iter().filter(|(vip, _)| *vip == UDP);
        events.downs.extend(down.map(|(_, real)| (number, *real)));
        let vip = self.random.below(VIPS as u64) as usize;
        match self.random.below(100) {
            0..12 => self.server_id(number, events),
            12..20 => self.source_route(vip),
            20..28 => {
                let (key, values) = *self.random.choose(&SETTINGS).expect("a setting");
                let value = self.random.choose(values).expect("a value");
                format!("set balancer.{key} {value}")
            }
            28..40 => self.down(vip, number, events),
            _ => self.vip_or_real(vip, number, events),
        }
    }

    /// Moves flows whose packets carry the id.
    fn server_id(&mut self, number: usize, events: &mut Events) -> String {
        let id = 1 + self.random.below(IDS);
        events.ids.push((number, id));
        if self.ids.remove(&id) {
            return format!("sid del {id}");
        }
        self.ids.insert(id);
        format!("sid add {} {id}", pool_address(&mut self.random, UDP))
    }

    /// Moves no flow that the table has.
    fn source_route(&mut self, vip: usize) -> String {
        let client = client(vip);
        if self.routes.remove(&client) {
            return format!("src-route del {client}");
        }
        self.routes.insert(client);
        let real = pool_address(&mut self.random, vip);
        format!("src-route add {real} {client}")
    }

    /// Moves flows of the real, in [`UDP`] only.
    fn down(&mut self, vip: usize, number: usize, events: &mut Events) -> String {
        let reals = self.vips[vip].iter().flatten();
        let Some(real) = self
            .random
            .choose(&reals.copied().collect::<Vec<_>>())
            .copied()
        else {
            return self.vip_or_real(vip, number, events);
        };
        let name = vip_name(vip);
        if self.down.remove(&(vip, real)) {
            return format!("real up {name} {real}");
        }
        self.down.insert((vip, real));
        if vip == UDP {
            events.downs.push((number, real));
        }
        format!("real down {name} {real}")
    }

    fn vip_or_real(&mut self, vip: usize, number: usize, events: &mut Events) -> String {
        let name = vip_name(vip);
        let Some(reals) = &mut self.vips[vip] else {
            let real = pool_address(&mut self.random, vip);
            self.vips[vip] = Some(BTreeSet::from([real]));
            let flags = match flags(vip) {
                [] => String::new(),
                flags => format!("flags={}", flags.join(",")),
            };
            return format!("vip add {name} {flags} real={real}");
        };
        let member = *self.random.choose(&*reals).expect("a real");
        match self.random.below(100) {
            0..40 => {
                let weight = self.random.below(6);
                format!("real weight {name} {member} {weight}")
            }
            40..65 if reals.len() < MOST_REALS => {
                let real = pool_address(&mut self.random, vip);
                if reals.insert(real) {
                    format!("real add {name} {real}@{}", 1 + self.random.below(9))
                } else {
                    format!("real weight {name} {real} 2")
                }
            }
            40..80 if reals.len() > 1 => {
                reals.remove(&member);
                self.down.remove(&(vip, member));
                format!("real del {name} {member}")
            }
            80..84 => {
                events.vips.push((number, vip));
                self.vips[vip] = None;
                self.down.retain(|(of, _)| *of != vip);
                self.bypassed &= vip != BYPASSED;
                format!("vip del {name}")
            }
            84..90 => {
                let hash = *self
                    .random
                    .choose(&["maglev-v1", "maglev-v2"])
                    .expect("a name");
                format!("vip set {name} hash={hash}")
            }
            90..95 if self.vips[BYPASSED].is_some() => {
                events.vips.push((number, BYPASSED));
                self.bypassed = !self.bypassed;
                let verb = if self.bypassed { "set" } else { "unset" };
                format!("vip {verb} {} flags=lru-bypass", vip_name(BYPASSED))
            }
            _ => {
                let verb = *self.random.choose(&["set", "unset"]).expect("a verb");
                let flag = *self
                    .random
                    .choose(&["src-dst-port", "src-routing", "global-lru"])
                    .expect("a flag");
                format!("vip {verb} {name} flags={flag}")
            }
        }
    }
}

/// What a thread that sends packets saw.
struct Seen {
    moves: Vec<Move>,
    observations: usize,
}

/// Sends a packet of each flow over and over, until told to stop, and notes which flows move.
fn traffic(rig: &Rig, queue: usize, changes: &AtomicUsize, stop: &AtomicBool) -> Seen {
    let flows: BTreeMap<SocketAddr, Flow> = (0..VIPS)
        .flat_map(|vip| (0..FLOWS_OF_VIP).map(move |n| (vip, n)))
        .map(|(vip, n)| {
            let port = 10_000 + (n * QUEUES + queue) as u16;
            let client = SocketAddr::new(client(vip), port);
            let carries = vip == UDP && n.is_multiple_of(CARRIERS);
            let id = carries.then_some(1 + n as u64 % IDS);
            (client, Flow { client, vip, id })
        })
        .collect();
    let packets: Vec<Vec<u8>> = flows.values().map(Flow::frame).collect();
    let mut last: BTreeMap<SocketAddr, (IpAddr, usize)> = BTreeMap::new();
    let mut seen = Seen {
        moves: Vec::new(),
        observations: 0,
    };
    loop {
        // One more round after the last change.
        let ending = stop.load(Ordering::Acquire);
        for batch in packets.chunks(50) {
            let before = changes.load(Ordering::Acquire);
            let reals = rig.reals_of(queue, batch.iter().cloned());
            let after = changes.load(Ordering::Acquire);
            for (client, real) in reals {
                seen.observations += 1;
                if let Some((from, since)) = last.insert(client, (real, before))
                    && from != real
                {
                    seen.moves.push(Move {
                        flow: flows[&client],
                        from,
                        to: real,
                        since,
                        until: after + 1,
                    });
                }
            }
        }
        if ending {
            return seen;
        }
    }
}

#[test]
fn a_thousand_changes_move_no_flow_that_need_not_move() {
    let mut operator = Operator::new();
    let rig = Rig::with_config(&operator.configuration(), QUEUES as u32);
    let served = Arc::new(Served::with(rig, Limits::default()));
    let (changes, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut events = Events::default();
    let seen: Vec<Seen> = thread::scope(|scope| {
        let threads: Vec<_> = (0..QUEUES)
            .map(|queue| {
                let (served, changes, stop) = (&served, &changes, &stop);
                scope.spawn(move || traffic(&served.rig, queue, changes, stop))
            })
            .collect();
        let mut admin = served.connect();
        let known = || -> BTreeSet<IpAddr> {
            let table = lock(&served.rig.control).view().table;
            table.reals().map(|real| real.address).collect()
        };
        let mut addresses = known();
        for number in 1..=CHANGES {
            let command = operator.change(number, &mut events);
            admin.result(&command);
            if number % 100 == 0 {
                // What runs, read from a file again, changes nothing.
                let dump = admin.result("dump");
                let toml = dump.as_str().or_else(|| dump["toml"].as_str());
                let toml = toml.expect("a configuration").to_owned();
                parse(&toml).expect("a dump is valid");
                served.rig.write_file(toml);
                admin.result("reload");
            }
            // A real whose number went to another one is not known any more.
            let now = known();
            let gone = addresses.difference(&now);
            events.reals.extend(gone.map(|gone| (number, *gone)));
            addresses = now;
            changes.store(number, Ordering::Release);
        }
        stop.store(true, Ordering::Release);
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });

    let moves: Vec<&Move> = seen.iter().flat_map(|seen| &seen.moves).collect();
    for moved in &moves {
        let Move {
            flow,
            from,
            to,
            since,
            until,
        } = moved;
        assert!(
            events.allow(moved),
            "{flow:?} moved from {from} to {to} between changes {since} and {until}: {events:?}"
        );
    }
    let moves_of = |vip| moves.iter().filter(|moved| moved.flow.vip == vip).count();
    let (udp, ipv6) = (moves_of(UDP), moves_of(OVER_IPV6));
    assert!(
        udp > 0 && ipv6 > 0 && moves.len() > udp + ipv6 && !events.reals.is_empty(),
        "no number was given to another real: {udp} moves of UDP, {ipv6} over IPv6, {} of all",
        moves.len()
    );
    let observations: usize = seen.iter().map(|seen| seen.observations).sum();
    println!(
        "{observations} packets of {} flows, {} moves, {udp} of them UDP and {ipv6} over IPv6; {} numbers \
         went to others",
        QUEUES * VIPS * FLOWS_OF_VIP,
        moves.len(),
        events.reals.len()
    );
    for handle in &served.rig.handles {
        assert_eq!(handle.counters().unaccounted(), 0);
    }
}
