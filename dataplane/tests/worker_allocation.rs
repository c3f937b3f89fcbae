//! The loop does not allocate while traffic flows.

mod common;
mod worker_rig;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io,
};

use common::{
    V4_REALS, V6_REALS,
    frames::{Segment, tcp, udp},
    settings, vip,
};
use dataplane::{
    capture::{Event, Feed, Happened, Monitor},
    counters::DropReason,
    forward::BURST,
    port::{PassPath, memory::MemoryConfig},
    service::{Protocol, ServiceSpec, Settings, VipFlags},
    worker::{Engine, WorkerConfig},
};
use worker_rig::{Parts, assert_accounted, redirected};

/// Counts what the thread asks of the system's allocator.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

fn count() {
    ALLOCATIONS.with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: all calls go to the system's allocator unchanged; the counter neither allocates nor needs
// to be dropped.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Takes frames without keeping them.
struct Sink;

impl PassPath for Sink {
    fn pass(&mut self, _frame: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_million_packets_cost_no_allocation() {
    forward(1_000_000, None);
}

#[test]
fn a_capture_costs_no_allocation() {
    let events = [
        Event::Happened(Happened::LRU_MISS | Happened::PASS),
        Event::Drop(DropReason::L4Truncated),
    ];
    // So few snapshots that packets are lost as well.
    forward(
        100_000,
        Some(Monitor::new(events.into_iter().collect(), 128, 40)),
    );
}

/// Forwards packets of many kinds, with a reader that keeps up now and then if there is a capture.
fn forward(packets: u64, capture: Option<(Box<Monitor>, Feed)>) {
    /// Offset of the source port: tag and room, Ethernet, IPv4.
    const SOURCE_PORT: usize = 20 + 14 + 20;

    let none = VipFlags::empty();
    let mut local = vip(
        "203.0.113.31",
        80,
        Protocol::Tcp,
        VipFlags::LOCAL_VIP,
        &["192.0.2.254"],
    );
    local.reals[0].local = true;
    let global = VipFlags::GLOBAL_LRU;
    let spec = ServiceSpec {
        settings: Settings {
            global_table_capacity: 1000,
            ..settings()
        },
        vips: vec![
            vip("203.0.113.10", 80, Protocol::Tcp, none, V4_REALS),
            vip("203.0.113.20", 53, Protocol::Udp, none, V6_REALS),
            vip("2001:db8:a::10", 80, Protocol::Tcp, none, V6_REALS),
            vip("203.0.113.30", 80, Protocol::Tcp, global, V4_REALS),
            local,
        ],
        ..ServiceSpec::default()
    };
    let parts = Parts::new(&spec, &MemoryConfig::default());
    let (counters, nic) = (parts.counters, parts.nic);
    let mut engine = Engine::new(
        &WorkerConfig::default(),
        parts.port,
        parts.forwarder,
        parts.publisher.subscribe(),
        Box::new(Sink),
    );
    nic.discard(true);
    let (monitor, mut feed) = capture.unzip();
    engine.set_monitor(monitor);

    let client = "192.0.2.10:1024";
    let mut frames = [
        // Many times as many flows as the table holds, so that it evicts.
        redirected(&tcp(client, "203.0.113.10:80", Segment::Ack), 20),
        redirected(&tcp(client, "203.0.113.10:80", Segment::Syn), 20),
        redirected(&tcp(client, "203.0.113.30:80", Segment::Ack), 20),
        redirected(&tcp(client, "203.0.113.31:80", Segment::Ack), 20),
        redirected(&udp(client, "203.0.113.20:53", &[7; 400]), 40),
        redirected(
            &tcp("[2001:db8::1]:1024", "[2001:db8:a::10]:80", Segment::Ack),
            40,
        ),
        redirected(&tcp(client, "198.51.100.77:22", Segment::Ack), 20),
        redirected(&tcp(client, "203.0.113.10:80", Segment::Ack)[..40], 20),
        vec![200; 100],
    ];
    let (mut packet, mut copied) = (0_u64, 0_u64);
    let mut burst = |packets: usize| {
        for _ in 0..packets {
            let number = (packet % frames.len() as u64) as usize;
            let frame = &mut frames[number];
            if number < 3 {
                let port = (packet as u16).to_be_bytes();
                frame[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&port);
            }
            nic.inject(frame).expect("room");
            packet += 1;
        }
        while engine.round().expect("the queue is there").received > 0 {}
        if let Some(feed) = &mut feed
            && packet % 3 == 0
        {
            while let Some(snapshot) = feed.take() {
                copied += 1;
                feed.give_back(snapshot);
            }
        }
    };
    // Warm-up: lazily initialised things of the standard library.
    (0..10).for_each(|_| burst(BURST));

    let before = allocations();
    for burst_number in 0..packets / 50 {
        burst(usize::try_from(25 + burst_number % 51).unwrap());
    }
    assert_eq!(allocations() - before, 0);

    let (received, _) = counters.received.get();
    assert!(received >= packets, "{received} packets");
    if let Some(feed) = &feed {
        assert!(copied > 0 && feed.lost() > 0);
    }
    assert!(counters.flow_evictions.get() > 0 && counters.passed.packets.get() > 0);
    assert!(counters.global_table_evictions.get() > 0);
    assert_accounted(&counters);
    drop(Box::new(0));
    assert!(allocations() > before, "the counter works");
}
