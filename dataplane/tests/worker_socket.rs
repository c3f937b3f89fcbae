//! Sockets, workers and the TAP device on a real kernel, in namespaces of their own. Needs root.

mod common;
mod worker_net;

use std::{
    collections::HashSet,
    fs,
    net::UdpSocket,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use common::{
    V4_REALS,
    frames::{Segment, tcp, udp},
    settings, vip,
};
use dataplane::{
    counters::WorkerCounters,
    forward::{Forwarder, ForwarderConfig},
    port::{NoPassPath, PassPath, QueuePort},
    service::{Protocol, Publisher, ServiceControl, ServiceSpec, VipFlags},
    worker::{AskError, WorkerConfig, WorkerError, WorkerHandle, spawn},
    xsk::{Interface, SocketMode, SocketProbe, Tap, TapError, XskConfig, XskError, XskPort},
};
use worker_net::{FrameSocket, Namespace, ip};
use xdp_redirect::{Redirect, VipEntry, XdpMode};

const BALANCER: &str = "balancer0";
const CLIENT: &str = "client0";

fn config(queue: u32) -> XskConfig {
    XskConfig {
        frames: 1024,
        busy_retry: Duration::from_millis(200),
        ..XskConfig::new(BALANCER, queue)
    }
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd")
        .expect("/proc is mounted")
        .count()
}

#[test]
fn sockets_open_in_copy_mode_and_errors_say_what_to_do() {
    let Some(_namespace) = Namespace::enter("sockets", BALANCER, CLIENT, 2) else {
        return;
    };
    let interface = Interface::open(BALANCER).unwrap();
    assert_eq!(interface.driver().unwrap(), "veth");
    assert_eq!(interface.queues().unwrap(), 2);
    assert_eq!(interface.mtu().unwrap(), 1500);
    // On by default on veths as on most devices.
    let offloads = interface.harmful_offloads();
    assert!(offloads.contains(&"rx-vlan-hw-parse"), "{offloads:?}");
    assert!(!offloads.contains(&"rx-lro"), "{offloads:?}");

    let mut port = XskPort::open(&config(1)).unwrap();
    assert!(!port.zero_copy());
    assert!(port.memory_bytes() > 1024 * 2048);
    port.refill();
    let census = port.census();
    assert_eq!((census.fill, census.sum(), census.lost(0)), (1024, 1024, 0));
    let statistics = port.probe().statistics().unwrap();
    assert_eq!(
        (statistics.rx_dropped, statistics.tx_invalid_descriptors),
        (0, 0)
    );

    let error = |config: &XskConfig| XskPort::open(config).expect_err("an error");
    let cases: [(XskError, &[&str]); 6] = [
        (
            error(&XskConfig {
                mode: SocketMode::ZeroCopy,
                ..config(0)
            }),
            &[
                BALANCER,
                "queue 0",
                "veth",
                "zero-copy",
                "mode = \"auto\" or \"copy\"",
            ],
        ),
        (
            error(&config(1)),
            &[BALANCER, "queue 1", "busy", "another process"],
        ),
        (
            error(&config(2)),
            &[BALANCER, "queue 2", "veth", "2 receive queue", "ethtool -L"],
        ),
        (
            error(&XskConfig::new("missing0", 0)),
            &["missing0", "not found"],
        ),
        (
            error(&XskConfig {
                frames: 5,
                ..config(0)
            }),
            &["frames = 5", "128"],
        ),
        (
            error(&XskConfig {
                max_frame: 4000,
                ..config(0)
            }),
            &["max_frame = 4000", "3792"],
        ),
    ];
    for (error, words) in cases {
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "{text:?} does not say {word:?}");
        }
    }
    XskPort::open(&XskConfig {
        mode: SocketMode::Copy,
        max_frame: 3500,
        ..config(0)
    })
    .expect("large chunks");
    XskPort::open(&XskConfig {
        huge_pages: true,
        ..config(0)
    })
    .expect("huge pages or a warning");
}

#[test]
fn a_busy_queue_is_tried_again_until_it_is_free() {
    let Some(_namespace) = Namespace::enter("busy", BALANCER, CLIENT, 2) else {
        return;
    };
    let first = XskPort::open(&config(0)).unwrap();
    // A probe must not keep the queue.
    let probe = first.probe();
    let release = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        drop(first);
    });
    let patient = XskConfig {
        busy_retry: Duration::from_secs(10),
        ..config(0)
    };
    XskPort::open(&patient).expect("the queue becomes free");
    release.join().unwrap();
    probe.statistics().expect("the last statistics are kept");
}

#[test]
fn opening_and_closing_leaks_no_descriptor() {
    let Some(_namespace) = Namespace::enter("descriptors", BALANCER, CLIENT, 2) else {
        return;
    };
    let patient = |queue| XskConfig {
        busy_retry: Duration::from_secs(10),
        ..config(queue)
    };
    drop(XskPort::open(&patient(0)).unwrap());
    let before = open_descriptors();
    for round in 0..50 {
        let port = XskPort::open(&patient(round % 2)).unwrap();
        let _probe = port.probe();
    }
    // Failures as well.
    for _ in 0..10 {
        let zero_copy = XskConfig {
            mode: SocketMode::ZeroCopy,
            ..config(0)
        };
        XskPort::open(&zero_copy).expect_err("veth has no zero-copy");
    }
    assert_eq!(open_descriptors(), before);
}

/// A balancer with a worker on each of two queues.
struct Balancer {
    redirect: Redirect,
    workers: Vec<WorkerHandle>,
    probes: Vec<SocketProbe>,
    _publisher: Publisher,
}

impl Balancer {
    fn start(spec: &ServiceSpec, more_vips: &[VipEntry], pass: Option<&Tap>) -> Self {
        let mut control = ServiceControl::new();
        let table = control.apply(spec).unwrap();
        let publisher = Publisher::new(Arc::clone(&table));
        let mut entries: Vec<_> = table
            .vips()
            .map(|vip| VipEntry {
                address: vip.key.address,
                prefix_len: vip.key.prefix_len,
                port: vip.key.port,
                protocol: vip.key.protocol.number(),
                generation: vip.generation,
                vip: vip.number,
                room: vip.room,
            })
            .collect();
        entries.extend_from_slice(more_vips);
        let mut redirect = Redirect::attach(BALANCER, XdpMode::Auto).unwrap();
        redirect.apply_vips(&entries).unwrap();

        let (mut workers, mut probes) = (Vec::new(), Vec::new());
        for queue in 0..2 {
            let port = XskPort::open(&config(queue)).unwrap();
            probes.push(port.probe());
            redirect.set_socket(queue, port.socket_fd()).unwrap();
            let forwarder_config = ForwarderConfig {
                flow_table_capacity: 10_000,
                seeds: [1, 2, 3, 4],
            };
            let counters = Arc::new(WorkerCounters::new());
            let forwarder =
                Forwarder::new(&forwarder_config, Arc::clone(&table), counters).unwrap();
            let pass: Box<dyn PassPath + Send> = match pass {
                Some(tap) => Box::new(tap.clone()),
                None => Box::new(NoPassPath),
            };
            let config = WorkerConfig {
                queue,
                ..WorkerConfig::default()
            };
            workers.push(spawn(&config, port, forwarder, publisher.subscribe(), pass).unwrap());
        }
        Self {
            redirect,
            workers,
            probes,
            _publisher: publisher,
        }
    }

    fn sum(&self, value: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.workers
            .iter()
            .map(|worker| value(worker.counters()))
            .sum()
    }

    /// Takes the program off, stops the workers, and sees that no frame is missing.
    fn stop(mut self) {
        self.redirect.detach();
        for worker in &self.workers {
            let report = worker.stop();
            assert!(report.error.is_none(), "{report:?}");
            let census = report.census.unwrap();
            assert_eq!(
                (census.hands, census.rx, census.lost(0)),
                (0, 0, 0),
                "{census:?}"
            );
            assert_eq!(worker.counters().unaccounted(), 0);
            assert_eq!(worker.counters().io.invalid_descriptors.get(), 0);
            assert_eq!(worker.counters().io.frames_lost.get(), 0);
        }
        for probe in &self.probes {
            let statistics = probe.statistics().unwrap();
            assert_eq!(statistics.rx_invalid_descriptors, 0);
            assert_eq!(statistics.tx_invalid_descriptors, 0);
        }
    }
}

fn services() -> ServiceSpec {
    let vip = vip(
        "203.0.113.10",
        80,
        Protocol::Tcp,
        VipFlags::empty(),
        V4_REALS,
    );
    ServiceSpec {
        settings: settings(),
        vips: vec![vip],
        ..ServiceSpec::default()
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn frame_of(flow: u16) -> Vec<u8> {
    let client = format!("192.0.2.10:{}", 1024 + flow);
    tcp(&client, "203.0.113.10:80", Segment::Ack)
}

/// Sends a frame for each flow, a window at a time, and sees each leave the balancer once with its
/// packet untouched.
fn exchange(wire: &FrameSocket, flows: std::ops::Range<u16>) {
    const WINDOW: u16 = 128;
    let mut first = flows.start;
    while first < flows.end {
        let window = first..flows.end.min(first + WINDOW);
        let mut expected = HashSet::new();
        for flow in window.clone() {
            let frame = frame_of(flow);
            wire.send(&frame);
            expected.insert(frame[14..].to_vec());
        }
        while !expected.is_empty() {
            let frame = wire
                .receive()
                .unwrap_or_else(|| panic!("{} missing", expected.len()));
            // IPIP: next hop's address, protocol 4, and the packet behind the outer header.
            if frame[..6] == [2, 0, 0, 0, 0xcc, 3] && frame[23] == 4 {
                assert!(
                    expected.remove(&frame[34..]),
                    "a frame that was not sent, or twice"
                );
            }
        }
        first = window.end;
    }
}

#[test]
fn real_frames_leave_encapsulated_and_none_is_lost() {
    let Some(_namespace) = Namespace::enter("traffic", BALANCER, CLIENT, 2) else {
        return;
    };
    let wire = FrameSocket::bind(CLIENT);
    let balancer = Balancer::start(&services(), &[], None);
    exchange(&wire, 0..20_000);
    // Counted after the frame went.
    eventually("the count", || {
        balancer.sum(|counters| counters.transmitted.packets.get()) == 20_000
    });
    assert_eq!(
        balancer.sum(|counters| counters.received.packets.get()),
        20_000
    );
    assert_eq!(balancer.sum(|counters| counters.stale_tags.get()), 0);
    balancer.stop();
}

#[test]
fn a_link_may_go_down_but_a_removed_interface_ends_the_worker() {
    let Some(_namespace) = Namespace::enter("removal", BALANCER, CLIENT, 2) else {
        return;
    };
    let wire = FrameSocket::bind(CLIENT);
    let balancer = Balancer::start(&services(), &[], None);
    exchange(&wire, 0..200);
    ip(&["link", "set", BALANCER, "down"]);
    // Longer than the workers' check takes to come.
    thread::sleep(Duration::from_millis(1_500));
    assert!(balancer.workers.iter().all(WorkerHandle::is_running));
    ip(&["link", "set", BALANCER, "up"]);
    thread::sleep(Duration::from_millis(100));
    exchange(&wire, 200..400);

    ip(&["link", "del", BALANCER]);
    for worker in &balancer.workers {
        eventually("the end of the worker", || !worker.is_running());
        let error = worker.error().expect("an error");
        assert!(matches!(*error, WorkerError::Removed { .. }), "{error}");
        assert_eq!(worker.counters().unaccounted(), 0);
    }
}

#[test]
fn a_panicked_worker_leaves_its_queue_to_the_kernel_and_the_other_alone() {
    let Some(_namespace) = Namespace::enter("panic", BALANCER, CLIENT, 2) else {
        return;
    };
    let wire = FrameSocket::bind(CLIENT);
    let balancer = Balancer::start(&services(), &[], None);
    let received = |worker: usize| balancer.workers[worker].counters().received.packets.get();
    // The kernel spreads flows over queues as it likes.
    let mut flows = [Vec::new(), Vec::new()];
    for flow in 0..64 {
        let before = received(0);
        exchange(&wire, flow..flow + 1);
        let queue = usize::from(received(0) == before);
        flows[queue].push(flow);
    }
    let [of_queue_0, of_queue_1] = flows;
    assert!(!of_queue_0.is_empty() && !of_queue_1.is_empty());

    let answer = balancer.workers[0].ask(|_, _| panic!("on purpose"), Duration::from_secs(10));
    assert_eq!(answer, Err::<(), _>(AskError::Gone));
    eventually("the end", || !balancer.workers[0].is_running());
    let passed = balancer.redirect.counters().unwrap().passed();
    for flow in &of_queue_0 {
        wire.send(&frame_of(*flow));
    }
    eventually("the kernel gets the frames", || {
        balancer.redirect.counters().unwrap().passed() >= passed + of_queue_0.len() as u64
    });
    for flow in of_queue_1 {
        exchange(&wire, flow..flow + 1);
    }

    // The queue is free again, for a new worker.
    let patient = XskConfig {
        busy_retry: Duration::from_secs(10),
        ..config(0)
    };
    XskPort::open(&patient).expect("the queue is free");
}

#[test]
fn frames_for_the_kernel_reach_its_sockets_through_the_tap() {
    let Some(_namespace) = Namespace::enter("tap", BALANCER, CLIENT, 2) else {
        return;
    };
    // The strict filter would drop what comes in on an interface that answers do not leave by.
    fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").unwrap();
    fs::write("/proc/sys/net/ipv4/conf/default/rp_filter", "1").unwrap();
    ip(&["address", "add", "192.0.2.1/24", "dev", BALANCER]);
    ip(&["address", "add", "203.0.113.99/32", "dev", "lo"]);
    let mac = Interface::open(BALANCER).unwrap().mac().unwrap();
    let mut tap = Tap::create("kxtap0", mac).unwrap();
    assert_eq!(tap.name(), "kxtap0");
    assert_eq!(Interface::open("kxtap0").unwrap().mac().unwrap(), mac);

    let own = UdpSocket::bind("192.0.2.1:5000").unwrap();
    let former_vip = UdpSocket::bind("203.0.113.99:7000").unwrap();
    for socket in [&own, &former_vip] {
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
    }
    let to_us = |frame: Vec<u8>| [&mac.0[..], &frame[6..]].concat();

    // Written by hand, and by several at once.
    thread::scope(|scope| {
        for number in 0..4_u8 {
            let mut tap = tap.clone();
            let frame = to_us(udp("192.0.2.7:999", "192.0.2.1:5000", &[number; 900]));
            scope.spawn(move || (0..25).for_each(|_| tap.pass(&frame).unwrap()));
        }
    });
    let mut payload = [0; 2000];
    for _ in 0..100 {
        let (len, source) = own.recv_from(&mut payload).expect("a datagram");
        assert_eq!((len, source.to_string().as_str()), (900, "192.0.2.7:999"));
        assert!(
            payload[..900].iter().all(|byte| *byte == payload[0]),
            "frames are not mixed"
        );
    }

    // The program still redirects what is no VIP in the table any more.
    let removed = VipEntry {
        address: "203.0.113.99".parse().unwrap(),
        prefix_len: 32,
        port: 7000,
        protocol: Protocol::Udp.number(),
        generation: 1,
        vip: 77,
        room: 20,
    };
    let balancer = Balancer::start(&services(), &[removed], Some(&tap));
    let wire = FrameSocket::bind(CLIENT);
    wire.send(&to_us(udp("192.0.2.7:999", "203.0.113.99:7000", b"late")));
    let (len, _) = former_vip.recv_from(&mut payload).expect("a datagram");
    assert_eq!(&payload[..len], b"late");
    // Counted after the frame went.
    eventually("the count", || {
        balancer.sum(|counters| counters.passed.packets.get()) == 1
    });
    balancer.stop();

    let error = Tap::create("kxtap0", mac).expect_err("the name is in use");
    assert!(matches!(error, TapError::InUse { .. }), "{error}");
    tap.pass(&[0; 3]).expect_err("no frame");
    drop(tap);
    assert!(Interface::open("kxtap0").is_err(), "the device is gone");
    let error = Tap::create("a-name-that-is-too-long", mac).expect_err("no name");
    assert!(error.to_string().contains("15 bytes"), "{error}");
}
