//! A queue that stands still although it should not is noticed, its driver is called, and that is
//! counted.

mod common;
mod worker_rig;

use common::{
    V4_REALS,
    frames::{Segment, tcp},
    settings, vip,
};
use dataplane::{
    port::memory::{MemoryConfig, Refused},
    service::{Protocol, ServiceSpec, VipFlags},
};
use worker_rig::{Parts, Rig, assert_accounted, redirected};

fn rig() -> Rig {
    with(&MemoryConfig::default())
}

fn with(memory: &MemoryConfig) -> Rig {
    let services = ServiceSpec {
        settings: settings(),
        vips: vec![vip(
            "203.0.113.10",
            80,
            Protocol::Tcp,
            VipFlags::empty(),
            V4_REALS,
        )],
        ..ServiceSpec::default()
    };
    Parts::new(&services, memory).engine()
}

fn frame() -> Vec<u8> {
    redirected(&tcp("192.0.2.1:4000", "203.0.113.10:80", Segment::Ack), 20)
}

/// Frames on their way that the driver keeps, found by the third look.
fn keeping() -> Rig {
    let mut rig = rig();
    rig.nic.discard(true);
    rig.nic.claim_to_send(true);
    rig.engine.check().unwrap();
    forward(&mut rig);
    rig.engine.check().unwrap();
    forward(&mut rig);
    assert_eq!((rig.nic.sent(), rig.counters.io.tx_stalls.get()), (0, 0));
    rig
}

fn forward(rig: &mut Rig) {
    rig.nic.inject(&frame()).unwrap();
    assert_eq!(rig.engine.round().unwrap().received, 1);
}

#[test]
fn a_driver_that_keeps_frames_is_called() {
    let mut rig = keeping();
    rig.engine.check().unwrap();
    assert_eq!((rig.nic.sent(), rig.counters.io.tx_stalls.get()), (2, 1));

    // It sends and completes again: nothing more to do.
    rig.nic.claim_to_send(false);
    forward(&mut rig);
    rig.engine.round().unwrap();
    rig.engine.check().unwrap();
    rig.engine.check().unwrap();
    assert_eq!((rig.nic.sent(), rig.counters.io.tx_stalls.get()), (3, 1));
    assert_eq!(rig.counters.io.rx_stalls.get(), 0);
    assert_accounted(&rig.counters);
}

#[test]
fn a_driver_out_of_reach_stays_stalled_and_is_seen_each_second() {
    let mut rig = keeping();
    rig.nic.put_out_of_reach(true);
    for seconds in 1..4 {
        rig.engine.check().unwrap();
        assert_eq!(rig.counters.io.tx_stalls.get(), seconds);
    }
    assert_eq!(rig.nic.sent(), 0);
    // Nothing that did not reach it is counted as a call.
    rig.engine.round().unwrap();
    assert_eq!(rig.counters.io.tx_kicks.get(), 0);

    // One that asks to be told is reached without.
    rig.nic.claim_to_send(false);
    rig.engine.check().unwrap();
    assert_eq!(rig.nic.sent(), 2);
    assert_accounted(&rig.counters);
}

/// A driver that looked at the fill ring while frames still arrived, found it empty, and does not look
/// again by itself.
fn deaf() -> Rig {
    let mut rig = rig();
    rig.nic.discard(true);
    rig.engine.check().unwrap();
    rig.nic.inject(&frame()).unwrap();
    rig.nic.go_deaf();
    for _ in 0..2 {
        assert_eq!(rig.nic.inject(&frame()), Err(Refused::FillRingEmpty));
    }
    assert_eq!(rig.engine.round().unwrap().received, 1);
    rig.engine.check().unwrap();
    rig.engine.round().unwrap();
    assert_eq!((calls(&rig), rig.counters.io.rx_stalls.get()), (0, 0));
    rig
}

fn calls(rig: &Rig) -> u64 {
    rig.counters.io.fill_kicks.get()
}

#[test]
fn a_driver_that_forgot_the_fill_ring_is_called_and_what_waited_shows_that_it_stood_still() {
    let mut rig = deaf();
    rig.nic.keep_in_card(&frame());
    rig.engine.check().unwrap();
    assert_eq!(rig.engine.round().unwrap().received, 1);
    assert_eq!((calls(&rig), rig.counters.io.rx_stalls.get()), (1, 1));

    // It looks by itself again.
    rig.nic.inject(&frame()).unwrap();
    assert_eq!(rig.engine.round().unwrap().received, 1);
    for _ in 0..4 {
        rig.engine.check().unwrap();
        rig.engine.round().unwrap();
    }
    assert_eq!((calls(&rig), rig.counters.io.rx_stalls.get()), (1, 1));
    assert_eq!(rig.counters.io.tx_stalls.get(), 0);
    assert_accounted(&rig.counters);
}

#[test]
fn a_deaf_driver_out_of_reach_is_not_counted_as_called() {
    let mut rig = deaf();
    rig.nic.put_out_of_reach(true);
    rig.nic.keep_in_card(&frame());
    rig.engine.check().unwrap();
    assert_eq!(rig.engine.round().unwrap().received, 0);
    assert_eq!((calls(&rig), rig.counters.io.rx_stalls.get()), (0, 0));
}

#[test]
fn a_driver_that_finds_no_chunk_while_nothing_arrives_has_not_stalled() {
    let mut rig = rig();
    rig.engine.check().unwrap();
    for _ in 0..5 {
        // It looks again each time it is called, and no frame follows.
        rig.nic.go_deaf();
        assert_eq!(rig.nic.inject(&frame()), Err(Refused::FillRingEmpty));
        rig.engine.check().unwrap();
        rig.engine.round().unwrap();
    }
    assert_eq!(calls(&rig), 5);
    assert_eq!(rig.counters.io.rx_stalls.get(), 0);
}

#[test]
fn a_driver_that_always_looks_has_not_stalled() {
    let mut rig = with(&MemoryConfig {
        frames: 256,
        ..MemoryConfig::default()
    });
    rig.nic.discard(true);
    rig.engine.check().unwrap();
    while rig.nic.inject(&frame()).is_ok() {}
    while rig.engine.round().unwrap().received > 0 {}
    rig.engine.check().unwrap();
    // A quiet second, and then the next client.
    rig.engine.check().unwrap();
    rig.engine.round().unwrap();
    assert_eq!(calls(&rig), 1);
    forward(&mut rig);
    rig.engine.check().unwrap();
    assert_eq!(rig.counters.io.rx_stalls.get(), 0);
}

#[test]
fn what_a_driver_missed_while_the_socket_was_bound_is_no_reason_to_call_it() {
    let mut rig = rig();
    rig.nic.go_deaf();
    assert_eq!(rig.nic.inject(&frame()), Err(Refused::FillRingEmpty));
    for _ in 0..3 {
        rig.engine.check().unwrap();
        rig.engine.round().unwrap();
    }
    assert_eq!((calls(&rig), rig.counters.io.rx_stalls.get()), (0, 0));
}
