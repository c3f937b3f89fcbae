//! A thousand random changes while packets of thousands of flows pass: no flow moves that need not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
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
    rig::{Rig, parse},
};

const CHANGES: usize = 1_000;
const QUEUES: usize = 2;
const VIPS: usize = 8;
const FLOWS_OF_VIP: usize = 150;
/// Addresses that the VIPs' reals are taken from.
const POOL: u64 = 150;
const MOST_REALS: usize = 6;
/// Reals of a VIP that nothing happens to. They leave so few numbers that those of removed reals are
/// soon given to others, and their flows have to move.
const FILLERS: u32 = 4_000;

/// The VIP whose flag `lru-bypass` comes and goes.
const BYPASSED: usize = 0;

fn vip_endpoint(vip: usize) -> String {
    format!("203.0.113.{}:80", 10 + vip)
}

fn vip_name(vip: usize) -> String {
    format!("{}/tcp", vip_endpoint(vip))
}

fn pool_address(random: &mut Random) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, 1 + random.below(POOL) as u8)
}

/// What may move flows, with the number of the change that did it.
#[derive(Debug, Default)]
struct Events {
    vips: Vec<(usize, usize)>,
    reals: Vec<(usize, Ipv4Addr)>,
}

impl Events {
    /// Whether a flow may have moved between the end of change `from` and that of change `to`.
    fn allow(&self, moved: &Move) -> bool {
        let within = |change: usize| (moved.since..=moved.until).contains(&change);
        let of_vip = |&(change, vip): &(usize, usize)| vip == moved.vip && within(change);
        let of_real = |&(change, real): &(usize, Ipv4Addr)| real == moved.from && within(change);
        self.vips.iter().any(of_vip) || self.reals.iter().any(of_real)
    }
}

/// A flow that went to one real and then to another.
#[derive(Debug)]
struct Move {
    flow: SocketAddrV4,
    vip: usize,
    from: Ipv4Addr,
    to: Ipv4Addr,
    /// The first and the last change that can have been the cause.
    since: usize,
    until: usize,
}

/// The desired state as the test knows it, and the changes it makes.
struct Operator {
    random: Random,
    /// Reals by VIP; `None` while the VIP is removed.
    vips: Vec<Option<BTreeSet<Ipv4Addr>>>,
    bypassed: bool,
}

impl Operator {
    fn new() -> Self {
        let mut random = Random::new(2307);
        let mut reals = || {
            let mut reals = BTreeSet::new();
            while reals.len() < 4 {
                reals.insert(pool_address(&mut random));
            }
            Some(reals)
        };
        let vips = (0..VIPS).map(|_| reals()).collect();
        Self {
            random,
            vips,
            bypassed: false,
        }
    }

    fn configuration(&self) -> String {
        let mut text = "[interface]\nname = \"test0\"\nqueues = \"0-1\"\n\
                        next_hop_mac = \"02:00:00:00:cc:03\"\n\n\
                        [balancer]\nflow_table_capacity = 10000\n"
            .to_owned();
        let mut vip = |address: &str, reals: &mut dyn Iterator<Item = Ipv4Addr>| {
            let _ = write!(
                text,
                "\n[[vip]]\naddress = \"{address}\"\nport = 80\nprotocol = \"tcp\"\nreals = ["
            );
            for real in reals {
                let _ = write!(text, "{{ address = \"{real}\" }}, ");
            }
            text.push_str("]\n");
        };
        vip(
            "203.0.113.200",
            &mut (0..FILLERS).map(|n| Ipv4Addr::from_bits(0x0a63_0000 + n)),
        );
        for (number, reals) in self.vips.iter().enumerate() {
            let address = format!("203.0.113.{}", 10 + number);
            vip(&address, &mut reals.iter().flatten().copied());
        }
        text
    }

    /// The next command, which is change `number`; notes whose flows it may move.
    fn change(&mut self, number: usize, events: &mut Events) -> String {
        if self.bypassed {
            // Whatever changes, the ring decides.
            events.vips.push((number, BYPASSED));
        }
        let vip = self.random.below(VIPS as u64) as usize;
        let name = vip_name(vip);
        let Some(reals) = &mut self.vips[vip] else {
            let real = pool_address(&mut self.random);
            self.vips[vip] = Some(BTreeSet::from([real]));
            return format!("vip add {name} real={real}");
        };
        let member = *self.random.choose(&*reals).expect("a real");
        match self.random.below(100) {
            0..40 => {
                let weight = self.random.below(6);
                format!("real weight {name} {member} {weight}")
            }
            40..65 if reals.len() < MOST_REALS => {
                let real = pool_address(&mut self.random);
                if reals.insert(real) {
                    format!("real add {name} {real}@{}", 1 + self.random.below(9))
                } else {
                    format!("real weight {name} {real} 2")
                }
            }
            40..80 if reals.len() > 1 => {
                reals.remove(&member);
                format!("real del {name} {member}")
            }
            80..84 => {
                events.vips.push((number, vip));
                self.vips[vip] = None;
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
                format!("vip {verb} {name} flags=src-dst-port")
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
    let flows: Vec<(SocketAddrV4, usize)> = (0..VIPS)
        .flat_map(|vip| (0..FLOWS_OF_VIP).map(move |n| (vip, n)))
        .map(|(vip, n)| {
            let client = Ipv4Addr::new(192, 0, 2, vip as u8);
            let port = 10_000 + (n * QUEUES + queue) as u16;
            (SocketAddrV4::new(client, port), vip)
        })
        .collect();
    let mut last: BTreeMap<SocketAddrV4, (Ipv4Addr, usize)> = BTreeMap::new();
    let mut seen = Seen {
        moves: Vec::new(),
        observations: 0,
    };
    let vip_of: BTreeMap<SocketAddrV4, usize> = flows.iter().copied().collect();
    loop {
        // One more round after the last change.
        let ending = stop.load(Ordering::Acquire);
        for batch in flows.chunks(50) {
            let before = changes.load(Ordering::Acquire);
            let packets = batch
                .iter()
                .map(|(flow, vip)| (flow.to_string(), vip_endpoint(*vip)));
            let reals = rig.reals_of(queue, packets);
            let after = changes.load(Ordering::Acquire);
            for (flow, real) in reals {
                seen.observations += 1;
                if let Some((from, since)) = last.insert(flow, (real, before))
                    && from != real
                {
                    seen.moves.push(Move {
                        flow,
                        vip: vip_of[&flow],
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
            for gone in addresses.difference(&now) {
                if let IpAddr::V4(gone) = gone {
                    events.reals.push((number, *gone));
                }
            }
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
            vip,
            from,
            to,
            since,
            until,
        } = moved;
        assert!(
            events.allow(moved),
            "{flow} of VIP {vip} moved from {from} to {to} between changes {since} and {until}: {events:?}"
        );
    }
    assert!(
        !moves.is_empty() && !events.reals.is_empty(),
        "no number was given to another real"
    );
    let observations: usize = seen.iter().map(|seen| seen.observations).sum();
    println!(
        "{observations} packets of {} flows, {} moves for {} reasons",
        QUEUES * VIPS * FLOWS_OF_VIP,
        moves.len(),
        events.reals.len() + events.vips.len()
    );
    for handle in &served.rig.handles {
        assert_eq!(handle.counters().unaccounted(), 0);
    }
}
