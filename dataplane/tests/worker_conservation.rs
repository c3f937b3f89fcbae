//! No frame is lost and none is counted twice, whatever the rings and the kernel do.

mod common;
mod worker_rig;

use common::{
    V4_REALS, V6_REALS,
    frames::{Segment, tcp, udp},
    settings, vip,
};
use dataplane::{
    counters::DropReason,
    forward::BURST,
    port::memory::{Link, MemoryConfig, Refused},
    service::{Protocol, ServiceSpec, VipFlags},
};
use nix::errno::Errno;
use proptest::prelude::*;
use worker_rig::{Parts, Rig, assert_accounted, redirected};

fn services() -> ServiceSpec {
    let none = VipFlags::empty();
    ServiceSpec {
        settings: settings(),
        vips: vec![
            vip("203.0.113.10", 80, Protocol::Tcp, none, V4_REALS),
            vip("203.0.113.20", 53, Protocol::Udp, none, V6_REALS),
            vip("2001:db8:a::10", 80, Protocol::Tcp, none, V6_REALS),
        ],
        ..ServiceSpec::default()
    }
}

/// Bytes as they arrive, of every kind that takes another way through the worker.
fn arriving(kind: u8, flow: u16) -> Vec<u8> {
    let v4_client = format!("192.0.2.10:{}", 1024 + flow);
    match kind % 10 {
        0 | 1 => redirected(&tcp(&v4_client, "203.0.113.10:80", Segment::Ack), 20),
        2 => redirected(&udp(&v4_client, "203.0.113.20:53", &[7; 600]), 40),
        3 => {
            let client = format!("[2001:db8::1]:{}", 1024 + flow);
            redirected(&tcp(&client, "[2001:db8:a::10]:80", Segment::Syn), 40)
        }
        // For the kernel: no VIP.
        4 => redirected(&tcp(&v4_client, "198.51.100.77:22", Segment::Ack), 20),
        // Dropped: cut in the middle of its headers.
        5 => redirected(&tcp(&v4_client, "203.0.113.10:80", Segment::Ack)[..40], 20),
        // Dropped: a tag without room, a tag with more room than bytes, no tag at all.
        6 => redirected(&[], 20).into_iter().map(|_| 0).collect(),
        7 => vec![200; 100],
        8 => vec![1; usize::from(flow % 8)],
        _ => (0..flow % 300)
            .map(|byte| (byte as u8).wrapping_mul(kind))
            .collect(),
    }
}

/// What the world does to a worker.
#[derive(Clone, Debug)]
enum Event {
    Arrive { frames: u16, kind: u8 },
    Round,
    Take(usize),
    Complete(usize),
    Withhold(bool),
    FailKicks(Vec<u8>),
    KickBudget(usize),
    HoldLast(usize),
    Link(bool),
    SwapTable,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_u16..256, any::<u8>()).prop_map(|(frames, kind)| Event::Arrive { frames, kind }),
        8 => Just(Event::Round),
        3 => (0_usize..200).prop_map(Event::Take),
        1 => (0_usize..100).prop_map(Event::Complete),
        1 => any::<bool>().prop_map(Event::Withhold),
        1 => prop::collection::vec(0_u8..6, 0..20).prop_map(Event::FailKicks),
        1 => (0_usize..64).prop_map(Event::KickBudget),
        1 => (0_usize..4).prop_map(Event::HoldLast),
        1 => prop::bool::weighted(0.8).prop_map(Event::Link),
        1 => Just(Event::SwapTable),
    ]
}

fn kick_error(number: u8) -> Errno {
    [
        Errno::EAGAIN,
        Errno::EBUSY,
        Errno::ENOBUFS,
        Errno::ENETDOWN,
        Errno::ENXIO,
        Errno::EINTR,
    ][usize::from(number)]
}

/// The world and its book-keeping.
struct World {
    rig: Rig,
    injected: u64,
    swaps: u32,
}

impl World {
    fn apply(&mut self, event: Event) {
        let nic = &self.rig.nic;
        match event {
            Event::Arrive { frames, kind } => {
                for flow in 0..frames {
                    match nic.inject(&arriving(kind.wrapping_add(flow as u8), flow)) {
                        Ok(()) => self.injected += 1,
                        Err(Refused::TooLong) => panic!("the frame fits"),
                        Err(_) => break,
                    }
                }
            }
            Event::Round => {
                self.rig.engine.round().expect("the queue is there");
            }
            Event::Take(frames) => (0..frames).for_each(|_| drop(nic.take())),
            Event::Complete(chunks) => drop(nic.complete(chunks)),
            Event::Withhold(withhold) => nic.withhold_completions(withhold),
            Event::FailKicks(errors) => nic.fail_kicks(errors.into_iter().map(kick_error)),
            Event::KickBudget(budget) => nic.set_kick_budget(budget),
            Event::HoldLast(frames) => nic.hold_last(frames),
            Event::Link(up) => nic.set_link(if up { Link::Up } else { Link::Down }),
            Event::SwapTable => {
                let mut spec = services();
                self.swaps += 1;
                spec.vips[0].reals[0].weight = 1 + self.swaps;
                let table = self
                    .rig
                    .control
                    .apply(&spec)
                    .expect("a valid specification");
                self.rig.publisher.publish(table);
            }
        }
    }

    fn verify(&mut self) {
        let census = self.rig.engine.census();
        assert_eq!(census.lost(0), 0, "{census:?}");
        assert_eq!(
            (census.hands, census.sum()),
            (0, census.total),
            "{census:?}"
        );
        assert_accounted(&self.rig.counters);
        let received = self.rig.counters.received.packets.get();
        assert_eq!(received + self.rig.nic.waiting() as u64, self.injected);
        let passed = self.rig.kernel.frames.lock().unwrap().len() as u64;
        assert_eq!(passed, self.rig.counters.passed.packets.get());
    }

    /// The trouble is over: everything that was promised to leave leaves.
    fn recover(&mut self) {
        let nic = &self.rig.nic;
        nic.set_link(Link::Up);
        nic.clear_kick_errors();
        nic.set_kick_budget(32);
        nic.hold_last(0);
        nic.withhold_completions(false);
        // A frame that a sleeping worker would have sent by a further kick.
        nic.inject(&arriving(0, 0))
            .map(|()| self.injected += 1)
            .ok();
        for _ in 0..100 {
            self.rig.engine.round().expect("the queue is there");
            while self.rig.nic.take().is_some() {}
        }
        self.verify();
        let census = self.rig.engine.census();
        let (transmitted, _) = self.rig.counters.transmitted.get();
        let counters = &self.rig.counters;
        if census.tx > 0 {
            // Nothing arrived any more, and only a kick brings the rest out.
            assert_eq!(self.rig.nic.waiting(), 0);
        }
        assert_eq!(self.rig.nic.sent() + census.tx as u64, transmitted);
        assert_eq!(
            counters.generation.get(),
            u64::from(self.rig.publisher.current().generation())
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn frames_and_counters_add_up_after_every_event(
        events in prop::collection::vec(event(), 1..80),
        first_index in prop_oneof![Just(0), (0_u32..2_000).prop_map(|before| u32::MAX - before)],
        frames in prop_oneof![Just(64_usize), Just(256), Just(700)],
        tx_ring in prop_oneof![Just(32_usize), Just(64), Just(512)],
        completion_ring in prop_oneof![Just(16_usize), Just(1024)],
        refuse_pass in any::<bool>(),
    ) {
        let memory = MemoryConfig {
            frames,
            fill_ring: 2 * frames,
            tx_ring,
            completion_ring,
            first_index,
            real_time: false,
            ..MemoryConfig::default()
        };
        let mut parts = Parts::new(&services(), &memory);
        parts.kernel.refuse = refuse_pass;
        let mut world = World { rig: parts.engine(), injected: 0, swaps: 0 };
        world.verify();
        for event in events {
            world.apply(event);
            world.verify();
        }
        world.recover();
    }
}

fn rig(memory: &MemoryConfig) -> Rig {
    Parts::new(
        &services(),
        &MemoryConfig {
            real_time: false,
            ..memory.clone()
        },
    )
    .engine()
}

fn inject(rig: &Rig, frames: u16) {
    (0..frames).for_each(|flow| rig.nic.inject(&arriving(0, flow)).expect("room"));
}

#[test]
fn frames_leave_encapsulated_and_passed_frames_are_untouched() {
    let mut rig = rig(&MemoryConfig::default());
    let for_us = tcp("192.0.2.10:40000", "203.0.113.10:80", Segment::Syn);
    let not_for_us = tcp("192.0.2.10:40000", "198.51.100.77:22", Segment::Syn);
    for frame in [&not_for_us, &for_us] {
        rig.nic.inject(&redirected(frame, 20)).unwrap();
    }
    assert_eq!(rig.engine.round().unwrap().received, 2);

    let sent = rig.nic.take().expect("one frame");
    assert_eq!(sent.len(), for_us.len() + 20);
    assert_eq!(
        sent[34..],
        for_us[14..],
        "the packet follows the outer header"
    );
    assert!(rig.nic.take().is_none());
    assert_eq!(*rig.kernel.frames.lock().unwrap(), [not_for_us]);
    assert_accounted(&rig.counters);
}

#[test]
fn a_stopped_ring_costs_a_counted_drop_and_recovers() {
    let mut rig = rig(&MemoryConfig {
        tx_ring: 64,
        ..MemoryConfig::default()
    });
    rig.nic.set_kick_budget(0);
    inject(&rig, 200);
    for _ in 0..4 {
        rig.engine.round().unwrap();
    }
    // The first burst fills the ring; of each further one nothing fits.
    assert_eq!(rig.counters.transmitted.packets.get(), 64);
    assert_eq!(rig.counters.dropped(DropReason::TxStalled).0, 136);
    assert_eq!(rig.counters.io.tx_ring_full.get(), 3);
    assert_accounted(&rig.counters);

    rig.nic.set_kick_budget(32);
    inject(&rig, 64);
    for _ in 0..2 {
        rig.engine.round().unwrap();
    }
    assert_eq!(rig.counters.transmitted.packets.get(), 128);
    assert_eq!(rig.nic.sent(), 128);
}

#[test]
fn nothing_is_received_while_a_burst_waits_for_the_ring() {
    let mut rig = rig(&MemoryConfig {
        tx_ring: 32,
        ..MemoryConfig::default()
    });
    rig.nic.set_kick_budget(0);
    inject(&rig, 256);
    assert_eq!(rig.engine.round().unwrap().received, BURST);
    assert_eq!(rig.nic.waiting(), 256 - BURST);
}

#[test]
fn without_completions_the_fill_ring_runs_dry_and_fills_again() {
    let frames = 128;
    let mut rig = rig(&MemoryConfig {
        frames,
        ..MemoryConfig::default()
    });
    rig.nic.withhold_completions(true);
    inject(&rig, 128);
    for _ in 0..3 {
        rig.engine.round().unwrap();
        while rig.nic.take().is_some() {}
    }
    assert_eq!(rig.nic.fillable(), 0);
    assert_eq!(rig.nic.inject(&arriving(0, 0)), Err(Refused::FillRingEmpty));
    let census = rig.engine.census();
    assert_eq!((census.tx, census.lost(0)), (frames, 0));

    rig.nic.withhold_completions(false);
    rig.nic.complete(usize::MAX);
    assert_eq!(rig.engine.round().unwrap().reaped, frames);
    assert_eq!(rig.nic.fillable(), frames);
}

#[test]
fn a_queue_that_is_gone_ends_the_loop_with_all_frames_accounted_for() {
    let mut rig = rig(&MemoryConfig::default());
    inject(&rig, 100);
    rig.nic.set_link(Link::Gone);
    let error = rig.engine.round().expect_err("the queue is gone");
    assert_eq!(error.raw_os_error(), Some(Errno::ENXIO as i32));
    assert_accounted(&rig.counters);
    let census = rig.engine.close();
    assert_eq!((census.hands, census.lost(0)), (0, 0));
}

#[test]
fn a_link_that_is_down_is_no_end() {
    let mut rig = rig(&MemoryConfig {
        tx_ring: 32,
        ..MemoryConfig::default()
    });
    inject(&rig, 64);
    rig.nic.set_link(Link::Down);
    rig.engine.round().unwrap();
    assert_eq!(rig.counters.dropped(DropReason::TxStalled).0, 32);
    rig.nic.set_link(Link::Up);
    inject(&rig, 1);
    rig.engine.round().unwrap();
    assert_eq!(rig.nic.sent(), 33);
    assert_accounted(&rig.counters);
}

#[test]
fn refused_frames_of_the_kernel_are_counted() {
    let mut parts = Parts::new(&services(), &MemoryConfig::default());
    parts.kernel.refuse = true;
    let mut rig = parts.engine();
    rig.nic.inject(&arriving(4, 0)).unwrap();
    rig.engine.round().unwrap();
    assert_eq!(rig.counters.dropped(DropReason::PassFailed).0, 1);
    assert_accounted(&rig.counters);
}

#[test]
#[should_panic(expected = "another queue")]
fn a_chunk_of_another_queue_is_refused() {
    use arrayvec::ArrayVec;
    use dataplane::port::{QueuePort, Received, memory::pair};

    let (mut one, nic) = pair(&MemoryConfig::default()).unwrap();
    let (mut other, _nic) = pair(&MemoryConfig::default()).unwrap();
    one.refill();
    nic.inject(&[1]).unwrap();
    let mut received = ArrayVec::<Received<_>, BURST>::new();
    one.receive(&mut received);
    other.recycle(received.pop().unwrap().chunk);
}
