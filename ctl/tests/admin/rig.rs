//! A balancer without interface and privileges: real workers on queues in memory, the real control
//! plane above them, and an XDP program that only remembers what it was told.

use std::{
    iter,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use dataplane::{
    counters::WorkerCounters,
    forward::{Forwarder, ForwarderConfig},
    port::{
        NoPassPath,
        memory::{MemoryConfig, MemoryNic, pair},
    },
    service::{Publisher, ServiceControl, ServiceTable},
    worker::{WorkerConfig, WorkerHandle, spawn},
};
use etherparse::{
    IpHeaders, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice,
};
use katran_xsk::{
    config::{Config, ConfigError},
    control::{
        ConfigSource, Control, ControlParts, HealthCheckPath, HealthCheckSink, HealthCheckState,
        Origin, ServiceSink, SharedControl, Worker, tunnels, vip_entries,
    },
};
use xdp_layout::Tag;
use xdp_redirect::{Tunnels, VipEntry};

/// One VIP of each family with two reals each.
pub(crate) const CONFIG: &str = r#"
[interface]
name = "test0"
queues = "0-1"
next_hop_mac = "02:00:00:00:cc:03"

[balancer]
flow_table_capacity = 1000

[[vip]]
address = "203.0.113.10"
port = 80
protocol = "tcp"
reals = [
    { address = "198.51.100.11", weight = 1 },
    { address = "198.51.100.12", weight = 1 },
]

[[vip]]
address = "2001:db8:a::/96"
port = 53
protocol = "udp"
reals = [{ address = "2001:db8::5", weight = 1 }]
"#;

/// Stands for the XDP program.
#[derive(Clone, Default)]
pub(crate) struct FakeProgram {
    vips: Arc<Mutex<Vec<VipEntry>>>,
    tunnels: Arc<Mutex<Tunnels>>,
    failures: Arc<AtomicUsize>,
    applied: Arc<AtomicUsize>,
}

impl FakeProgram {
    /// The next changes fail, so many of them, after half of each was made.
    pub(crate) fn fail(&self, changes: usize) {
        self.failures.store(changes, Ordering::Relaxed);
    }

    /// What the maps hold.
    pub(crate) fn vips(&self) -> Vec<String> {
        self.vips
            .lock()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Decap destinations that the maps hold, in order, and what holds for all of them.
    pub(crate) fn tunnels(&self) -> Tunnels {
        let mut tunnels = self.tunnels.lock().unwrap().clone();
        tunnels.destinations.sort_unstable();
        tunnels
    }

    /// How often the maps were to change.
    pub(crate) fn applied(&self) -> usize {
        self.applied.load(Ordering::Relaxed)
    }
}

impl ServiceSink for FakeProgram {
    fn apply(&mut self, table: &ServiceTable) -> anyhow::Result<()> {
        self.applied.fetch_add(1, Ordering::Relaxed);
        let left = self.failures.load(Ordering::Relaxed);
        if left > 0 {
            self.failures.store(left - 1, Ordering::Relaxed);
            let mut held = self.vips.lock().unwrap();
            let half = held.len() / 2;
            held.truncate(half);
            anyhow::bail!("no space left in the map");
        }
        *self.vips.lock().unwrap() = vip_entries(table);
        *self.tunnels.lock().unwrap() = tunnels(table);
        Ok(())
    }

    fn counters(&self) -> anyhow::Result<Vec<(String, u64)>> {
        Ok(vec![("redirected".to_owned(), 0)])
    }
}

/// Stands for the tc program of health checks.
#[derive(Clone, Default)]
pub(crate) struct FakeHealthChecks {
    path: Arc<Mutex<HealthCheckPath>>,
    fails: Arc<AtomicBool>,
}

impl FakeHealthChecks {
    /// The next change fails, after it was made.
    pub(crate) fn fail_once(&self) {
        self.fails.store(true, Ordering::Relaxed);
    }

    /// What is in force.
    pub(crate) fn path(&self) -> HealthCheckPath {
        self.path.lock().unwrap().clone()
    }
}

impl HealthCheckSink for FakeHealthChecks {
    fn apply(&mut self, path: &HealthCheckPath) -> anyhow::Result<()> {
        *self.path.lock().unwrap() = path.clone();
        if self.fails.swap(false, Ordering::Relaxed) {
            anyhow::bail!("the interface is gone");
        }
        Ok(())
    }

    fn state(&self) -> anyhow::Result<HealthCheckState> {
        let path = self.path();
        if path.reals.is_empty() {
            return Ok(HealthCheckState::default());
        }
        let interface = path.interface.unwrap_or_else(|| "test0".to_owned());
        Ok(HealthCheckState {
            attached: Some((interface, "tcx".to_owned())),
            counters: [("processed".to_owned(), 3)].into(),
            traffic: path.reals.keys().map(|&mark| (mark, (3, 162))).collect(),
        })
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// A running balancer.
pub(crate) struct Rig {
    pub(crate) control: SharedControl,
    pub(crate) program: FakeProgram,
    pub(crate) health_checks: FakeHealthChecks,
    pub(crate) nics: Vec<MemoryNic>,
    pub(crate) handles: Vec<Arc<WorkerHandle>>,
    /// What a reload reads.
    pub(crate) file: Arc<Mutex<String>>,
    /// Done once, while the file is read.
    pub(crate) meanwhile: Arc<Mutex<Option<Work>>>,
    /// Done once, when what was read is in force.
    pub(crate) in_force: Arc<Mutex<Option<Work>>>,
    /// The interface's MTU.
    pub(crate) mtu: Arc<AtomicU32>,
}

impl Rig {
    /// Two workers and [`CONFIG`].
    pub(crate) fn new() -> Self {
        Self::with_config(CONFIG, 2)
    }

    /// These workers and this configuration.
    pub(crate) fn with_config(text: &str, workers: u32) -> Self {
        let config = parse(text).expect("the configuration is valid");
        let services = ServiceControl::new();
        let publisher = Arc::new(Publisher::new(services.table()));
        let (mut nics, mut handles) = (Vec::new(), Vec::new());
        for queue in 0..workers {
            let (port, nic) = pair(&MemoryConfig::default()).expect("two event descriptors");
            let forwarder = Forwarder::new(
                &ForwarderConfig {
                    flow_table_capacity: config.balancer.flow_table_capacity,
                    seeds: [1, 2, 3, 4],
                },
                publisher.current(),
                Arc::new(WorkerCounters::new()),
            )
            .expect("the capacity is valid");
            let worker = WorkerConfig {
                queue,
                ..WorkerConfig::default()
            };
            let pass = Box::new(NoPassPath);
            let handle = spawn(&worker, port, forwarder, publisher.subscribe(), pass)
                .expect("the worker starts");
            nics.push(nic);
            handles.push(Arc::new(handle));
        }
        let program = FakeProgram::default();
        let health_checks = FakeHealthChecks::default();
        let file = Arc::new(Mutex::new(text.to_owned()));
        let source = Arc::clone(&file);
        let meanwhile = Arc::<Mutex<Option<Work>>>::default();
        let waiting = Arc::clone(&meanwhile);
        let in_force = Arc::<Mutex<Option<Work>>>::default();
        let after = Arc::clone(&in_force);
        let mtu = Arc::new(AtomicU32::new(9000));
        let control = Control::new(ControlParts {
            config,
            origin: Origin {
                config_path: Some("lb.toml".into()),
                interface: "test0".into(),
                datapath: "xsk".into(),
                xdp_mode: "generic".into(),
                xdp_fallback: None,
            },
            source: Some(ConfigSource {
                read: Box::new(move || {
                    if let Some(work) = waiting.lock().unwrap().take() {
                        work();
                    }
                    parse(&source.lock().unwrap())
                }),
                in_force: Box::new(move || {
                    if let Some(work) = after.lock().unwrap().take() {
                        work();
                    }
                }),
            }),
            next_hop: None,
            services,
            publisher,
            sink: Box::new(program.clone()),
            health_checks: Box::new(health_checks.clone()),
            own_addresses: None,
            mtu: Some(Box::new({
                let mtu = Arc::clone(&mtu);
                move || Ok(mtu.load(Ordering::Relaxed))
            })),
            link: None,
            workers: handles
                .iter()
                .map(|handle| Worker::new(Arc::clone(handle), None))
                .collect(),
        })
        .expect("the configuration can be put into force");
        Self {
            control: Arc::new(Mutex::new(control)),
            program,
            health_checks,
            nics,
            handles,
            file,
            meanwhile,
            in_force,
            mtu,
        }
    }

    /// What the next reload reads.
    pub(crate) fn write_file(&self, text: impl Into<String>) {
        *self.file.lock().unwrap() = text.into();
    }

    /// Sends a TCP packet to the worker of a queue, and returns what leaves, if anything.
    pub(crate) fn send(&self, queue: usize, source: &str, destination: &str) -> Option<Vec<u8>> {
        self.send_frame(queue, &tcp_frame(source, destination))
    }

    /// As [`Self::send`], for any frame.
    pub(crate) fn send_frame(&self, queue: usize, frame: &[u8]) -> Option<Vec<u8>> {
        let counters = self.handles[queue].counters();
        let received = counters.received.packets.get();
        let transmitted = counters.transmitted.packets.get();
        let frame = redirected(frame);
        self.nics[queue]
            .inject(&frame)
            .expect("the queue takes the frame");
        wait_until("the packet is decided", || {
            counters.received.packets.get() > received && counters.unaccounted() == 0
        });
        if counters.transmitted.packets.get() == transmitted {
            return None;
        }
        let mut sent = None;
        wait_until("the packet leaves", || {
            sent = self.nics[queue].take();
            sent.is_some()
        });
        sent
    }

    /// Sends the first TCP packet of each of these clients to the worker of a queue, and takes what
    /// leaves off the wire.
    pub(crate) fn open_flows(
        &self,
        queue: usize,
        sources: impl IntoIterator<Item = SocketAddrV4>,
        destination: &str,
    ) {
        let nic = &self.nics[queue];
        for source in sources {
            let frame = redirected(&tcp_frame(&source.to_string(), destination));
            wait_until("the queue takes the frame", || {
                while nic.take().is_some() {}
                nic.inject(&frame).is_ok()
            });
        }
        let counters = self.handles[queue].counters();
        wait_until("all have left", || {
            while nic.take().is_some() {}
            nic.sent() == counters.received.packets.get() && nic.waiting() == 0
        });
    }

    /// Sends these frames to the worker of a queue; gives the source and the real of each that leaves in a
    /// tunnel.
    pub(crate) fn reals_of(
        &self,
        queue: usize,
        frames: impl IntoIterator<Item = Vec<u8>>,
    ) -> Vec<(SocketAddr, IpAddr)> {
        let nic = &self.nics[queue];
        let counters = self.handles[queue].counters();
        let before = counters.received.packets.get();
        let mut injected = 0;
        let mut left = Vec::new();
        for frame in frames {
            let frame = redirected(&frame);
            wait_until("the queue takes the frame", || {
                left.extend(iter::from_fn(|| nic.take()));
                nic.inject(&frame).is_ok()
            });
            injected += 1;
        }
        wait_until("all are decided and have left", || {
            left.extend(iter::from_fn(|| nic.take()));
            counters.received.packets.get() == before + injected
                && counters.unaccounted() == 0
                && nic.sent() == counters.transmitted.packets.get()
                && nic.waiting() == 0
        });
        left.iter().map(|frame| client_and_real(frame)).collect()
    }

    /// The real to which a TCP packet goes: the outer destination of what leaves.
    pub(crate) fn real_of(
        &self,
        queue: usize,
        source: &str,
        destination: &str,
    ) -> Option<Ipv4Addr> {
        let frame = self.send(queue, source, destination)?;
        let outer: [u8; 4] = frame[30..34].try_into().expect("four bytes");
        Some(outer.into())
    }
}

/// Reads and checks a configuration.
pub(crate) fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "lb.toml")
}

/// Waits for what must happen, for as long as a slow machine may need.
pub(crate) fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if happened() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("{what}: did not happen");
}

/// A frame as the XDP program redirects it: a tag without VIP, room for an outer header.
fn redirected(frame: &[u8]) -> Vec<u8> {
    const ROOM: u8 = 40;
    let tag = Tag {
        generation: 0,
        vip: Tag::NO_VIP,
        room: ROOM,
        zero: 0,
    };
    let mut bytes = tag.to_bytes().to_vec();
    bytes.resize(ROOM.into(), 0);
    bytes.extend_from_slice(frame);
    bytes
}

/// The source of the packet in an IPIP tunnel, and where the tunnel leads.
fn client_and_real(frame: &[u8]) -> (SocketAddr, IpAddr) {
    let outer = SlicedPacket::from_ethernet(frame).expect("a valid frame");
    let outer = outer.net.expect("an IP packet");
    let payload = outer.ip_payload_ref().expect("an IP packet").payload;
    let inner = SlicedPacket::from_ip(payload).expect("a tunnel");
    let port = match inner.transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.source_port(),
        Some(TransportSlice::Udp(udp)) => udp.source_port(),
        other => panic!("neither TCP nor UDP: {other:?}"),
    };
    let (client, _) = addresses(&inner.net.expect("an IP packet"));
    let (_, real) = addresses(&outer);
    (SocketAddr::new(client, port), real)
}

fn addresses(ip: &NetSlice<'_>) -> (IpAddr, IpAddr) {
    match ip {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        NetSlice::Arp(_) => panic!("not an IP packet"),
    }
}

/// A TCP packet without payload in an Ethernet frame.
pub(crate) fn tcp_frame(source: &str, destination: &str) -> Vec<u8> {
    let (builder, source, destination) = ip(source, destination);
    let mut frame = Vec::new();
    builder
        .tcp(source, destination, 1000, 1024)
        .ack(1)
        .write(&mut frame, &[])
        .expect("the packet is valid");
    frame
}

/// A UDP packet in an Ethernet frame.
pub(crate) fn udp_frame(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let (builder, source, destination) = ip(source, destination);
    let mut frame = Vec::new();
    builder
        .udp(source, destination)
        .write(&mut frame, payload)
        .expect("the packet is valid");
    frame
}

/// Everything in front of the ports, and those.
fn ip(source: &str, destination: &str) -> (PacketBuilderStep<IpHeaders>, u16, u16) {
    let source: SocketAddr = source.parse().expect("an endpoint");
    let destination: SocketAddr = destination.parse().expect("an endpoint");
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let builder = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet.ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ethernet.ipv6(source.octets(), destination.octets(), 64)
        }
        _ => panic!("two families: {source} and {destination}"),
    };
    (builder, source.port(), destination.port())
}
