//! What a worker's loop spends around the decision, on real `AF_XDP` rings, as root:
//! `cargo bench -p benches --bench io`.
//!
//! A veth pair joins two namespaces. From one of them, datagrams of known flows are sent to a VIP, all of
//! a burst before the worker's round; the other end has the XDP program `redirect` and a copy-mode socket,
//! and the thread that sent calls [`Engine::round`]. A clock is read around the round, the decision and
//! each call of the port that works on a whole burst, and what reading it takes is subtracted. What is
//! left of the round is the loop itself. Sizes of bursts take turns.

use std::{
    cell::Cell,
    fmt::Write as _,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::BorrowedFd,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use arrayvec::ArrayVec;
use benches::lab::{Namespace, Netlink, TUNNEL_MTU, VethEnd};
use dataplane::{
    counters::WorkerCounters,
    forward::{BURST, Forwarder, ForwarderConfig, Outcome, Packet},
    port::{Activity, Census, NoPassPath, Outgoing, QueuePort, Received, Wake},
    service::{
        HashFunction, MacAddress, Protocol, Publisher, RealSpec, ServiceControl, ServiceSpec,
        Settings, VipFlags, VipKey, VipSpec,
    },
    worker::{Balance, Decision, Engine, WorkerConfig},
    xsk::{SocketMode, XskConfig, XskPort},
};
use xdp_redirect::{Redirect, VipEntry, XdpMode};

const FAR: &str = "far0";
const NEAR: &str = "near0";
const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const PORT: u16 = 443;
/// Clients, each with a flow.
const FLOWS: usize = 256;
/// Bursts that are measured.
const SIZES: [usize; 4] = [1, 2, 4, BURST];
const REPETITIONS: usize = 21;
/// Packets of a repetition, for each size.
const PACKETS: usize = 16_384;
/// Longest time for a burst to arrive.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is told apart.
#[derive(Clone, Copy)]
enum Part {
    Reap,
    Receive,
    Decide,
    Transmit,
    Flush,
    Refill,
    Loop,
}

impl Part {
    const ALL: [(Self, &str); 7] = [
        (Self::Reap, "completion ring"),
        (Self::Receive, "RX ring"),
        (Self::Transmit, "TX ring"),
        (Self::Refill, "fill ring"),
        (Self::Loop, "loop"),
        (Self::Decide, "decision"),
        (Self::Flush, "sendto"),
    ];
}

/// Nanoseconds by part, and how often the clock was read for them.
#[derive(Default)]
struct Times {
    spent: [Cell<u64>; Part::ALL.len()],
    intervals: Cell<u64>,
}

impl Times {
    fn take<R>(&self, part: Part, work: impl FnOnce() -> R) -> R {
        let started = Instant::now();
        let result = work();
        let spent = started.elapsed().as_nanos() as u64;
        let total = &self.spent[part as usize];
        total.set(total.get() + spent);
        self.intervals.set(self.intervals.get() + 1);
        result
    }

    fn clear(&self) {
        self.spent.iter().for_each(|spent| spent.set(0));
        self.intervals.set(0);
    }
}

/// A port whose calls are timed.
struct TimedPort {
    port: XskPort,
    times: Rc<Times>,
}

impl QueuePort for TimedPort {
    type Chunk = <XskPort as QueuePort>::Chunk;

    fn receive(&mut self, out: &mut ArrayVec<Received<Self::Chunk>, BURST>) -> usize {
        self.times.take(Part::Receive, || self.port.receive(out))
    }

    fn bytes<'a>(&'a self, chunk: &'a mut Self::Chunk) -> &'a mut [u8] {
        self.port.bytes(chunk)
    }

    fn transmit(&mut self, frames: &mut ArrayVec<Outgoing<Self::Chunk>, BURST>) -> usize {
        self.times
            .take(Part::Transmit, || self.port.transmit(frames))
    }

    fn recycle(&mut self, chunk: Self::Chunk) {
        self.port.recycle(chunk);
    }

    fn reap(&mut self) -> usize {
        self.times.take(Part::Reap, || self.port.reap())
    }

    fn refill(&mut self) {
        self.times.take(Part::Refill, || self.port.refill());
    }

    fn flush(&mut self) -> io::Result<()> {
        self.times.take(Part::Flush, || self.port.flush())
    }

    fn kick(&mut self) -> io::Result<()> {
        self.port.kick()
    }

    fn rouse_sender(&mut self) -> io::Result<bool> {
        self.port.rouse_sender()
    }

    fn unfinished(&self) -> usize {
        self.port.unfinished()
    }

    fn wait(&mut self, timeout: Duration, waker: BorrowedFd<'_>) -> io::Result<Wake> {
        self.port.wait(timeout, waker)
    }

    fn wait_for_room(&mut self, timeout: Duration) -> io::Result<()> {
        self.port.wait_for_room(timeout)
    }

    fn fill_ring_empty(&mut self) -> u64 {
        self.port.fill_ring_empty()
    }

    fn rouse_receiver(&mut self) -> io::Result<bool> {
        self.port.rouse_receiver()
    }

    fn check(&mut self) -> io::Result<()> {
        self.port.check()
    }

    fn interface_removed(&self) -> bool {
        self.port.interface_removed()
    }

    fn activity(&self) -> Activity {
        self.port.activity()
    }

    fn census(&mut self) -> Census {
        self.port.census()
    }
}

/// The forwarder's decision, timed.
struct TimedDecision(Rc<Times>);

impl Decision for TimedDecision {
    fn decide(
        &mut self,
        forwarder: &mut Forwarder,
        now_ns: u64,
        burst: &mut [Packet<'_>],
        outcomes: &mut [Outcome; BURST],
    ) {
        self.0.take(Part::Decide, || {
            Balance.decide(forwarder, now_ns, burst, outcomes);
        });
    }
}

/// A worker's loop at one end of the pair and clients at the other.
struct Rig {
    /// Holds the XDP program.
    _redirect: Redirect,
    _publisher: Publisher,
    engine: Engine<TimedPort, TimedDecision>,
    counters: Arc<WorkerCounters>,
    clients: Vec<UdpSocket>,
    next_client: usize,
    times: Rc<Times>,
    clock_ns: f64,
}

impl Rig {
    fn new(far: &Namespace, near: &Namespace) -> Result<Self> {
        let (far_links, near_links) = (Netlink::open(far)?, Netlink::open(near)?);
        let end = |namespace, name| VethEnd { namespace, name };
        far_links.add_veth(end(far, FAR), end(near, NEAR), 1, TUNNEL_MTU)?;
        far_links.set_up(FAR)?;
        near_links.set_up(NEAR)?;
        far_links.add_address(FAR, CLIENT.into(), 24)?;
        // For the kernel to answer ARP requests.
        near_links.add_address(NEAR, VIP.into(), 24)?;
        far.disable_tx_checksum(FAR)?;

        let table = ServiceControl::new().apply(&services(far_links.link(FAR)?.address))?;
        let vip = table.vips().next().context("the VIP is missing")?;
        let entry = VipEntry {
            address: vip.key.address,
            prefix_len: vip.key.prefix_len,
            port: vip.key.port,
            protocol: vip.key.protocol.number(),
            generation: vip.generation,
            vip: vip.number,
            room: vip.room,
        };
        let publisher = Publisher::new(table);
        let mut redirect = Redirect::load()?;
        redirect.apply_vips(&[entry])?;
        let port = near.run(|| -> Result<XskPort> {
            redirect.attach_to(NEAR, XdpMode::Native)?;
            let mut config = XskConfig::new(NEAR, 0);
            config.mode = SocketMode::Copy;
            Ok(XskPort::open(&config)?)
        })??;
        redirect.set_socket(0, port.socket_fd())?;
        let counters = Arc::new(WorkerCounters::new());
        let forwarder = Forwarder::new(
            &ForwarderConfig {
                flow_table_capacity: 1000,
                seeds: [1, 2, 3, 4],
            },
            publisher.current(),
            Arc::clone(&counters),
        )?;
        let times = Rc::new(Times::default());
        let engine = Engine::deciding(
            &WorkerConfig::default(),
            TimedPort {
                port,
                times: Rc::clone(&times),
            },
            forwarder,
            publisher.subscribe(),
            Box::new(NoPassPath),
            TimedDecision(Rc::clone(&times)),
        );
        let clients = far.run(|| {
            let clients = (0..FLOWS).map(|_| {
                let client = UdpSocket::bind((CLIENT, 0))?;
                client.connect(SocketAddr::from((VIP, PORT)))?;
                Ok(client)
            });
            clients.collect::<io::Result<Vec<_>>>()
        })??;
        Ok(Self {
            _redirect: redirect,
            _publisher: publisher,
            engine,
            counters,
            clients,
            next_client: 0,
            times,
            clock_ns: clock_cost(),
        })
    }

    /// Has a burst arrive and forwards it; nanoseconds of the round.
    fn burst(&mut self, packets: usize) -> Result<f64> {
        for _ in 0..packets {
            self.clients[self.next_client].send(&[0; 18])?;
            self.next_client = (self.next_client + 1) % self.clients.len();
        }
        let started = Instant::now();
        while self.engine.census().rx < packets {
            ensure!(
                started.elapsed() < PATIENCE,
                "a burst of {packets} packets did not arrive within {PATIENCE:?}"
            );
        }
        let started = Instant::now();
        let round = self.engine.round()?;
        let spent = started.elapsed();
        ensure!(
            round.received == packets,
            "{} packets were received in a burst of {packets}",
            round.received
        );
        Ok(spent.as_nanos() as f64)
    }

    /// Nanoseconds per packet, by part.
    fn sample(&mut self, size: usize) -> Result<[f64; Part::ALL.len()]> {
        let bursts = PACKETS / size;
        let packets = (bursts * size) as f64;
        // The first ones find the caches as bursts of another size left them.
        for _ in 0..16 {
            self.burst(size)?;
        }
        self.times.clear();
        let ring = self.counters.ring_selections.get();
        let transmitted = self.counters.transmitted.packets.get();
        let mut rounds_ns = 0.0;
        for _ in 0..bursts {
            rounds_ns += self.burst(size)? - self.clock_ns;
        }
        let transmitted = self.counters.transmitted.packets.get() - transmitted;
        ensure!(
            transmitted == (bursts * size) as u64 && self.counters.ring_selections.get() == ring,
            "{transmitted} packets were sent of {packets}, or not all by the flow table"
        );
        // Every part is timed once in a round that has frames, which takes two readings of the clock; an
        // interval has one of them in it.
        let intervals = self.times.intervals.get() as f64;
        let timed: u64 = self.times.spent.iter().map(Cell::get).sum();
        let mut parts = self
            .times
            .spent
            .each_ref()
            .map(|spent| (spent.get() as f64 - bursts as f64 * self.clock_ns) / packets);
        parts[Part::Loop as usize] =
            (rounds_ns - timed as f64 - intervals * self.clock_ns) / packets;
        Ok(parts)
    }
}

fn services(next_hop: [u8; 6]) -> ServiceSpec {
    ServiceSpec {
        settings: Settings {
            next_hop_mac: Some(MacAddress(next_hop)),
            ..Settings::default()
        },
        vips: vec![VipSpec {
            key: VipKey::exact(VIP.into(), PORT, Protocol::Udp),
            hash: HashFunction::MaglevV2,
            flags: VipFlags::empty(),
            reals: (1..=100)
                .map(|host| RealSpec {
                    address: IpAddr::from([198, 51, 100, host]),
                    weight: 1,
                    local: false,
                    down: false,
                })
                .collect(),
        }],
        ..ServiceSpec::default()
    }
}

/// What one reading of the clock takes, in nanoseconds.
fn clock_cost() -> f64 {
    const READINGS: u32 = 10_000;
    let started = Instant::now();
    for _ in 0..READINGS {
        std::hint::black_box(Instant::now());
    }
    started.elapsed().as_nanos() as f64 / f64::from(READINGS)
}

/// Median, smallest and largest.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let median = values[values.len() / 2];
    let (least, most) = (values[0], values[values.len() - 1]);
    format!("{median:.1} ({least:.1}–{most:.1})")
}

fn main() -> Result<()> {
    let (far, near) = (Namespace::new("far")?, Namespace::new("near")?);
    for namespace in [&far, &near] {
        // Without IPv6 in the kernel there is no such setting, and nothing to switch off.
        let _ = namespace.sysctl("ipv6/conf/default/disable_ipv6", "1");
    }
    let mut rig = Rig::new(&far, &near)?;
    // Every flow becomes known.
    for _ in 0..FLOWS / BURST {
        rig.burst(BURST)?;
    }
    let mut samples = SIZES.map(|_| Vec::new());
    for _ in 0..REPETITIONS {
        for (size, samples) in SIZES.into_iter().zip(&mut samples) {
            samples.push(rig.sample(size)?);
        }
    }
    let mut table = String::from("| ns per packet |");
    for size in SIZES {
        write!(table, " burst {size} |")?;
    }
    let mut row = |name: &str, value: &dyn Fn(&[f64; Part::ALL.len()]) -> f64| -> Result<()> {
        write!(table, "\n| {name} |")?;
        for samples in &samples {
            write!(table, " {} |", spread(samples.iter().map(value).collect()))?;
        }
        Ok(())
    };
    for (part, name) in Part::ALL {
        row(name, &|sample| sample[part as usize])?;
    }
    let rings = [Part::Reap, Part::Receive, Part::Transmit, Part::Refill];
    row("four rings", &|sample| {
        rings.iter().map(|&ring| sample[ring as usize]).sum()
    })?;
    row("four rings and loop", &|sample| {
        let rings = rings.iter().map(|&ring| sample[ring as usize]);
        rings.sum::<f64>() + sample[Part::Loop as usize]
    })?;
    println!(
        "{table}\n\nOne reading of the clock takes {:.1} ns.",
        rig.clock_ns
    );
    Ok(())
}
