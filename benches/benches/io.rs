//! What a worker's loop spends around the decision, on real `AF_XDP` rings and on rings in memory, as root:
//! `cargo bench -p benches --bench io`.
//!
//! A veth pair joins two namespaces. From one of them, datagrams of known flows are sent to a VIP, all of
//! a burst before the worker's round; the other end has the XDP program `redirect` and a copy-mode socket,
//! and the thread that sent calls [`Engine::round`]. A clock is read around the round, the decision and
//! each call of the port that works on a whole burst, and what reading it takes is subtracted. What is
//! left of the round is the loop itself. Sizes of bursts take turns.
//!
//! The same is done with a queue in memory, whose frames come from this thread, too. Its rings are no
//! socket's, so only decision and loop are told of it: what they take when no kernel works in between.

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
use benches::{
    lab::{Namespace, Netlink, TUNNEL_MTU, VethEnd},
    vips,
};
use dataplane::{
    counters::WorkerCounters,
    forward::{BURST, Forwarder, ForwarderConfig, Outcome, Packet},
    port::{
        Activity, Census, NoPassPath, Outgoing, QueuePort, Received, Wake,
        memory::{self, MemoryConfig, MemoryNic, MemoryPort},
    },
    service::{
        HashFunction, MacAddress, Protocol, Publisher, RealSpec, ServiceControl, ServiceSpec,
        Settings, VipFlags, VipKey, VipSpec,
    },
    worker::{Balance, Decision, Engine, WorkerConfig},
    xsk::{SocketMode, XskConfig, XskPort},
};
use xdp_redirect::{Redirect, Tag, XdpMode};

const FAR: &str = "far0";
const NEAR: &str = "near0";
const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const PORT: u16 = 443;
/// Clients, each with a flow.
const FLOWS: usize = 256;
/// Bytes of a datagram.
const PAYLOAD: usize = 18;
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

/// Nanoseconds per packet, by part.
type Sample = [f64; Part::ALL.len()];

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
struct TimedPort<P> {
    port: P,
    times: Rc<Times>,
}

impl<P: QueuePort> QueuePort for TimedPort<P> {
    type Chunk = P::Chunk;

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

/// Where packets of known flows come from.
trait Source {
    /// Sends so many, of one flow after the other.
    fn send(&mut self, packets: usize) -> Result<()>;
}

/// Clients at the other end of the pair.
struct Clients {
    sockets: Vec<UdpSocket>,
    next: usize,
}

impl Source for Clients {
    fn send(&mut self, packets: usize) -> Result<()> {
        for _ in 0..packets {
            self.sockets[self.next].send(&[0; PAYLOAD])?;
            self.next = (self.next + 1) % self.sockets.len();
        }
        Ok(())
    }
}

/// The other end of a queue in memory.
struct Injected {
    nic: MemoryNic,
    /// As the XDP program hands it over.
    frame: Vec<u8>,
    /// Where its source port is.
    port_at: usize,
    next: u16,
}

impl Injected {
    fn new(nic: MemoryNic, tag: Tag) -> Self {
        const UDP: usize = 8;
        const IPV4: usize = 20;
        const ETHERNET: usize = 14;
        // Whatever leaves has arrived.
        nic.discard(true);
        let room = usize::from(tag.room);
        let mut frame = vec![0; room + ETHERNET + IPV4 + UDP + PAYLOAD];
        frame[..Tag::SIZE].copy_from_slice(&tag.to_bytes());
        let (length, udp_length) = ((IPV4 + UDP + PAYLOAD) as u8, (UDP + PAYLOAD) as u8);
        let packet = &mut frame[room + ETHERNET - 2..];
        packet[..12].copy_from_slice(&[8, 0, 0x45, 0, 0, length, 0, 0, 0, 0, 64, 17]);
        packet[14..18].copy_from_slice(&CLIENT.octets());
        packet[18..22].copy_from_slice(&VIP.octets());
        packet[24..26].copy_from_slice(&PORT.to_be_bytes());
        packet[26..28].copy_from_slice(&[0, udp_length]);
        Self {
            nic,
            frame,
            port_at: room + ETHERNET + IPV4,
            next: 0,
        }
    }
}

impl Source for Injected {
    fn send(&mut self, packets: usize) -> Result<()> {
        for _ in 0..packets {
            let port = 1024 + self.next;
            self.frame[self.port_at..][..2].copy_from_slice(&port.to_be_bytes());
            let arrived = self.nic.inject(&self.frame);
            ensure!(arrived.is_ok(), "a frame did not arrive: {arrived:?}");
            self.next = (self.next + 1) % FLOWS as u16;
        }
        Ok(())
    }
}

/// A worker's loop, and what sends to it.
struct Rig<P: QueuePort> {
    engine: Engine<TimedPort<P>, TimedDecision>,
    source: Box<dyn Source>,
    counters: Arc<WorkerCounters>,
    _publisher: Publisher,
    /// Holds the XDP program, if there is one.
    _redirect: Option<Redirect>,
    times: Rc<Times>,
    clock_ns: f64,
}

/// At one end of a veth pair.
fn on_sockets(far: &Namespace, near: &Namespace) -> Result<Rig<XskPort>> {
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
    let mut redirect = Redirect::load()?;
    redirect.apply_vips(&vips::entries(&table))?;
    let port = near.run(|| -> Result<XskPort> {
        redirect.attach_to(NEAR, XdpMode::Native)?;
        let mut config = XskConfig::new(NEAR, 0);
        config.mode = SocketMode::Copy;
        Ok(XskPort::open(&config)?)
    })??;
    redirect.set_socket(0, port.socket_fd())?;
    let sockets = far.run(|| {
        let sockets = (0..FLOWS).map(|_| {
            let socket = UdpSocket::bind((CLIENT, 0))?;
            socket.connect(SocketAddr::from((VIP, PORT)))?;
            Ok(socket)
        });
        sockets.collect::<io::Result<Vec<_>>>()
    })??;
    let source = Box::new(Clients { sockets, next: 0 });
    Rig::new(Publisher::new(table), port, source, Some(redirect))
}

/// At a queue in memory.
fn in_memory() -> Result<Rig<MemoryPort>> {
    let table = ServiceControl::new().apply(&services([2, 0, 0, 0, 0, 1]))?;
    let vip = table.vips().next().context("the VIP is missing")?;
    let tag = Tag {
        generation: vip.generation,
        vip: vip.number,
        room: vip.room,
        zero: 0,
    };
    let (port, nic) = memory::pair(&MemoryConfig::default())?;
    let source = Box::new(Injected::new(nic, tag));
    Rig::new(Publisher::new(table), port, source, None)
}

impl<P: QueuePort> Rig<P> {
    fn new(
        publisher: Publisher,
        port: P,
        source: Box<dyn Source>,
        redirect: Option<Redirect>,
    ) -> Result<Self> {
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
        let mut rig = Self {
            engine,
            source,
            counters,
            _publisher: publisher,
            _redirect: redirect,
            times,
            clock_ns: clock_cost(),
        };
        // Every flow becomes known.
        for _ in 0..FLOWS / BURST {
            rig.burst(BURST)?;
        }
        Ok(rig)
    }

    /// Samples of every size of bursts, in turn.
    fn samples(&mut self) -> Result<[Vec<Sample>; SIZES.len()]> {
        let mut samples = SIZES.map(|_| Vec::new());
        for _ in 0..REPETITIONS {
            for (size, samples) in SIZES.into_iter().zip(&mut samples) {
                samples.push(self.sample(size)?);
            }
        }
        Ok(samples)
    }

    /// Has a burst arrive and forwards it; nanoseconds of the round.
    fn burst(&mut self, packets: usize) -> Result<f64> {
        self.source.send(packets)?;
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
    fn sample(&mut self, size: usize) -> Result<Sample> {
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
        let intervals = self.times.intervals.get();
        ensure!(
            intervals == (bursts * (Part::ALL.len() - 1)) as u64,
            "in {bursts} rounds {intervals} parts were timed"
        );
        let timed: u64 = self.times.spent.iter().map(Cell::get).sum();
        let mut parts = self
            .times
            .spent
            .each_ref()
            .map(|spent| (spent.get() as f64 - bursts as f64 * self.clock_ns) / packets);
        parts[Part::Loop as usize] =
            (rounds_ns - timed as f64 - intervals as f64 * self.clock_ns) / packets;
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

/// A row for each of these, with a column for each size of bursts.
fn table(samples: &[Vec<Sample>; SIZES.len()], rows: &[(&str, &[Part])]) -> Result<String> {
    let mut table = String::from("| ns per packet |");
    for size in SIZES {
        write!(table, " burst {size} |")?;
    }
    for (name, parts) in rows {
        write!(table, "\n| {name} |")?;
        for samples in samples {
            let sums = samples.iter().map(|sample| {
                let parts = parts.iter().map(|part| sample[*part as usize]);
                parts.sum::<f64>()
            });
            write!(table, " {} |", spread(sums.collect()))?;
        }
    }
    Ok(table)
}

fn main() -> Result<()> {
    let (far, near) = (Namespace::new("far")?, Namespace::new("near")?);
    for namespace in [&far, &near] {
        // Without IPv6 in the kernel there is no such setting, and nothing to switch off.
        let _ = namespace.sysctl("ipv6/conf/default/disable_ipv6", "1");
    }
    let mut rig = on_sockets(&far, &near)?;
    let rings = [Part::Reap, Part::Receive, Part::Transmit, Part::Refill];
    let all = [&rings[..], &[Part::Loop]].concat();
    let mut rows: Vec<(&str, &[Part])> = Part::ALL
        .iter()
        .map(|(part, name)| (*name, std::slice::from_ref(part)))
        .collect();
    rows.push(("four rings", &rings));
    rows.push(("four rings and loop", &all));
    println!("{}", table(&rig.samples()?, &rows)?);

    let rows: [(&str, &[Part]); 2] = [
        ("in memory: loop", &[Part::Loop]),
        ("in memory: decision", &[Part::Decide]),
    ];
    println!("\n{}", table(&in_memory()?.samples()?, &rows)?);
    println!("\nOne reading of the clock takes {:.1} ns.", rig.clock_ns);
    Ok(())
}
