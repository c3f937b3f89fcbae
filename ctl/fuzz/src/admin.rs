//! Any bytes as lines on the admin socket of a balancer without interface, with a worker whose queue is
//! in memory and has packets before every command: one answer each, a refused command changes nothing,
//! and no packet is lost.

use std::{
    net::Ipv6Addr,
    sync::{Arc, Mutex, OnceLock},
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
    service::{Publisher, ServiceControl},
    worker::{WorkerConfig, WorkerHandle, spawn},
};
use etherparse::PacketBuilder;
use katran_xsk::{
    admin::{Engine, command::Command, protocol},
    config::Config,
    control::{ConfigSource, Control, ControlParts, NoProgram, Origin, Worker, lock},
    output::{self, Reading},
    replay,
};
use tempfile::TempDir;
use xdp_layout::Tag;

/// Commands of one input that are carried out.
const COMMANDS: usize = 16;
/// Room in front of a frame.
const ROOM: u8 = 40;

/// What `reload` reads, and the start.
const CONFIG: &str = r#"
[interface]
name = "fuzz0"
next_hop_mac = "02:00:00:00:cc:03"

[balancer]
flow_table_capacity = 100

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
port = 0
protocol = "udp"
flags = ["global-lru", "udp-flow-migration", "src-routing"]
reals = [{ address = "2001:db8::5", weight = 1 }]

[[source_route]]
real = "2001:db8::6"
prefix = "2001:db8:c::/64"

[[server_id]]
id = 7
real = "2001:db8::5"
"#;

/// The services of the start, with rings: they take longer than an input does.
fn services() -> ServiceControl {
    static SERVICES: OnceLock<ServiceControl> = OnceLock::new();
    let prepared = SERVICES.get_or_init(|| {
        let config = Config::parse(CONFIG, "fuzz.toml").expect("the configuration is valid");
        let mut services = ServiceControl::new();
        services
            .apply(&config.to_service_spec())
            .expect("it has no problems");
        services
    });
    prepared.clone()
}

/// Frames as the XDP program redirects them when only the address matched: a tag, room, the frame. Flows
/// of both VIPs, and some of nobody.
fn frames() -> &'static [Vec<u8>] {
    static FRAMES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    FRAMES.get_or_init(|| {
        let tag = Tag {
            generation: 0,
            vip: Tag::NO_VIP,
            room: ROOM,
            zero: 0,
        };
        let start = || {
            let mut bytes = tag.to_bytes().to_vec();
            bytes.resize(ROOM.into(), 0);
            bytes
        };
        let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut frames = Vec::new();
        for client in 1..=4 {
            let mut tcp = start();
            ethernet()
                .ipv4([192, 0, 2, client], [203, 0, 113, 10 + client / 4], 64)
                .tcp(4000, 80, 1, 1000)
                .ack(1)
                .write(&mut tcp, b"x")
                .expect("a valid packet");
            let mut udp = start();
            let source: Ipv6Addr = "2001:db8:c::1".parse().expect("an address");
            let destination: Ipv6Addr = "2001:db8:a::10".parse().expect("an address");
            ethernet()
                .ipv6(source.octets(), destination.octets(), 64)
                .udp(4000 + u16::from(client), 53)
                .write(&mut udp, b"x")
                .expect("a valid packet");
            frames.extend([tcp, udp]);
        }
        frames
    })
}

/// A balancer and the far end of its queue.
struct Balancer {
    control: Arc<Mutex<Control>>,
    engine: Engine,
    worker: Arc<WorkerHandle>,
    nic: MemoryNic,
    injected: u64,
}

impl Balancer {
    fn new() -> Self {
        let parse = || Config::parse(CONFIG, "fuzz.toml");
        let config = parse().expect("the configuration is valid");
        let services = services();
        let publisher = Arc::new(Publisher::new(services.table()));
        let memory = MemoryConfig {
            frames: 128,
            chunk_size: 512,
            fill_ring: 128,
            rx_ring: 128,
            tx_ring: 128,
            completion_ring: 128,
            ..MemoryConfig::default()
        };
        let (port, nic) = pair(&memory).expect("event descriptors");
        nic.discard(true);
        let table = ForwarderConfig {
            flow_table_capacity: config.balancer.flow_table_capacity,
            seeds: [1, 2, 3, 4],
        };
        let counters = Arc::new(WorkerCounters::new());
        let forwarder =
            Forwarder::new(&table, publisher.current(), counters).expect("the capacity is valid");
        let subscription = publisher.subscribe();
        let settings = WorkerConfig::default();
        let pass = Box::new(NoPassPath);
        let worker = spawn(&settings, port, forwarder, subscription, pass).expect("it starts");
        let worker = Arc::new(worker);
        let control = Control::new(ControlParts {
            config,
            origin: Origin::default(),
            source: Some(ConfigSource {
                read: Box::new(parse),
                in_force: Box::new(|| {}),
            }),
            next_hop: None,
            services,
            publisher,
            sink: Box::new(NoProgram),
            health_checks: Box::new(NoProgram),
            mtu: Some(Box::new(|| Ok(1500))),
            link: None,
            own_addresses: None,
            workers: vec![Worker::new(Arc::clone(&worker), None)],
        })
        .expect("the configuration can be put into force");
        let control = Arc::new(Mutex::new(control));
        Self {
            engine: Engine::new(Arc::clone(&control)),
            control,
            worker,
            nic,
            injected: 0,
        }
    }

    /// A packet of each flow. Those for which the worker has no room yet do not arrive.
    fn inject(&mut self) {
        for frame in frames() {
            self.injected += u64::from(self.nic.inject(frame).is_ok());
        }
    }

    fn dump(&self) -> String {
        lock(&self.control).dump()
    }

    /// Ends it; every packet must have become something, and be where it belongs.
    fn end(self) {
        // One that is told to stop gives up on its queue after a moment, which a busy machine may take.
        let counters = self.worker.counters();
        for _ in 0..60_000 {
            if counters.received.packets.get() == self.injected {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(counters.received.packets.get(), self.injected);
        let report = self.worker.stop();
        assert!(report.error.is_none(), "{:?}", report.error);
        self.engine.end_capture();
        assert_eq!(counters.unaccounted(), 0);
        assert_eq!(counters.transmitted.packets.get(), self.nic.sent());
        let census = report.census.expect("the worker ended in order");
        assert_eq!(census.lost(0), 0, "{census:?}");
    }
}

/// The command, with captures into a folder of the test's: inputs may name any file.
fn confined(mut command: Command, folder: &TempDir) -> Command {
    if let Command::CaptureStart(request) = &mut command {
        request.file = folder.path().join("capture.pcapng");
    }
    command
}

/// What a capture left can be read, and each packet in it be decided.
fn check_capture(folder: &TempDir) {
    let Ok(file) = std::fs::read(folder.path().join("capture.pcapng")) else {
        return;
    };
    let config = ForwarderConfig {
        flow_table_capacity: 100,
        seeds: [1, 2, 3, 4],
    };
    let counters = Arc::new(WorkerCounters::new());
    let forwarder =
        Forwarder::new(&config, services().table(), counters).expect("the capacity is valid");
    replay::replay(forwarder, &*file, Vec::new(), Vec::new())
        .expect("what is captured can be read");
}

fn run(input: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut balancer = Balancer::new();
    let mut carried_out = 0;
    for line in input.split(|byte| *byte == b'\n') {
        let (id, command) = protocol::parse_line(line);
        let outcome = command.and_then(|command| {
            carried_out += 1;
            balancer.inject();
            let before = balancer.dump();
            let outcome = balancer.engine.execute(confined(command, &folder));
            if let Err(error) = &outcome {
                assert_eq!(balancer.dump(), before, "refused, and yet changed: {error}");
            }
            outcome
        });
        match &outcome {
            Ok(answer) => {
                assert!(!output::render(answer, Reading::Totals).is_empty());
            }
            Err(error) => {
                assert!(!error.problem.is_empty(), "{error:?}");
                let helps = !error.field.is_empty() || !error.remedy.is_empty();
                assert!(helps, "neither where nor what to do: {error:?}");
            }
        }
        let response = serde_json::to_string(&protocol::Response::new(id, outcome))
            .expect("an answer is JSON");
        assert!(!response.contains('\n'), "{response}");
        if carried_out == COMMANDS {
            break;
        }
    }
    let dump = balancer.dump();
    if let Err(error) = Config::parse(&dump, "dump.toml") {
        panic!("what runs could not be started again: {error}\n{dump}");
    }
    balancer.end();
    check_capture(&folder);
}

#[test]
fn admin() {
    bolero::check!(name = "admin")
        .with_max_len(4096)
        // Not by time: all committed inputs come before.
        .with_iterations(200)
        .with_test_time(Duration::MAX)
        .for_each(run);
}
