//! A queue that stands still although it should not is kicked, and that is counted.

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
    Parts::new(&services, &MemoryConfig::default()).engine()
}

fn frame() -> Vec<u8> {
    redirected(&tcp("192.0.2.1:4000", "203.0.113.10:80", Segment::Ack), 20)
}

#[test]
fn a_driver_that_keeps_frames_is_kicked() {
    let mut rig = rig();
    rig.nic.discard(true);
    rig.nic.claim_to_send(true);
    let forward = |rig: &mut Rig| {
        rig.nic.inject(&frame()).unwrap();
        assert_eq!(rig.engine.round().unwrap().received, 1);
    };
    // The first look, the second with frames on their way, the third that finds them still there.
    rig.engine.check().unwrap();
    forward(&mut rig);
    rig.engine.check().unwrap();
    forward(&mut rig);
    assert_eq!((rig.nic.sent(), rig.counters.io.tx_stalls.get()), (0, 0));
    rig.engine.check().unwrap();
    assert_eq!((rig.nic.sent(), rig.counters.io.tx_stalls.get()), (2, 1));

    // It sends and completes again: nothing more to kick.
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
fn a_driver_that_forgot_the_fill_ring_while_frames_arrived_is_kicked() {
    let mut rig = rig();
    rig.nic.discard(true);
    rig.engine.check().unwrap();
    // It looks once, in the second in which frames still arrive.
    rig.nic.inject(&frame()).unwrap();
    rig.nic.go_deaf();
    for _ in 0..2 {
        assert_eq!(rig.nic.inject(&frame()), Err(Refused::FillRingEmpty));
    }
    assert_eq!(rig.engine.round().unwrap().received, 1);
    let kicks = |rig: &Rig| rig.counters.io.fill_kicks.get();
    rig.engine.check().unwrap();
    rig.engine.round().unwrap();
    assert_eq!(kicks(&rig), 0);
    assert_eq!(rig.nic.inject(&frame()), Err(Refused::FillRingEmpty));
    rig.engine.check().unwrap();
    rig.engine.round().unwrap();
    assert_eq!((kicks(&rig), rig.counters.io.rx_stalls.get()), (1, 0));

    // What comes after the kick shows that it was needed.
    rig.nic.inject(&frame()).unwrap();
    assert_eq!(rig.engine.round().unwrap().received, 1);
    for _ in 0..4 {
        rig.engine.check().unwrap();
        rig.engine.round().unwrap();
    }
    assert_eq!((kicks(&rig), rig.counters.io.rx_stalls.get()), (1, 1));
    assert_eq!(rig.counters.io.tx_stalls.get(), 0);
    assert_accounted(&rig.counters);
}

#[test]
fn a_driver_that_finds_no_chunk_while_nothing_arrives_has_not_stalled() {
    let mut rig = rig();
    for _ in 0..5 {
        // It looks again each time it is told to, and no frame follows.
        rig.nic.go_deaf();
        assert_eq!(rig.nic.inject(&frame()), Err(Refused::FillRingEmpty));
        rig.engine.check().unwrap();
        rig.engine.round().unwrap();
    }
    assert_eq!(rig.counters.io.fill_kicks.get(), 4);
    assert_eq!(rig.counters.io.rx_stalls.get(), 0);
}
