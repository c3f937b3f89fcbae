//! `katran-xsk bench` on a small scale: what it reports, not how fast anything is.

use std::sync::{Mutex, MutexGuard, PoisonError};

use benches::{
    bench::{BenchOptions, Case, Datapath, IpFamily, Layout, Part, Row, Scheduling, measure},
    lab::requirements::met_or_skip,
};

/// One measurement at a time: two would take each other's CPUs.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_decision_is_reported_once() {
    if !met_or_skip("every_decision_is_reported_once", &[]) {
        return;
    }
    let _turn = turn();
    let report = measure(&BenchOptions {
        part: Some(Part::Decision),
        quick: true,
        repetitions: Some(2),
        flows: vec![1000],
        tolerate_load: true,
        ..BenchOptions::default()
    })
    .expect("counters add up");
    let mut seen = Vec::new();
    for row in &report.rows {
        let Row::Decision(row) = row else {
            panic!("{row:?}");
        };
        assert_eq!((row.flows, row.repetitions), (1000, 2), "{row:?}");
        let ns = row.ns_per_packet;
        assert!(
            0.0 < ns.min && ns.min <= ns.median && ns.median <= ns.max,
            "{row:?}"
        );
        seen.push((row.family, row.case, row.datapath));
    }
    let expected: Vec<_> = IpFamily::ALL
        .iter()
        .flat_map(|&family| Case::ALL.iter().map(move |&case| (family, case)))
        .flat_map(|(family, case)| {
            [Datapath::Kernel, Datapath::Xsk].map(|datapath| (family, case, datapath))
        })
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn every_datapath_carries_packets_in_both_layouts() {
    if !met_or_skip("every_datapath_carries_packets_in_both_layouts", &[]) {
        return;
    }
    let _turn = turn();
    let report = measure(&BenchOptions {
        part: Some(Part::Wire),
        repetitions: Some(1),
        flows: vec![100],
        queues: vec![1],
        trial: Some(100),
        tolerate_load: true,
        ..BenchOptions::default()
    })
    .expect("every packet is accounted for");
    let mut seen = Vec::new();
    for row in &report.rows {
        let Row::Wire(row) = row else {
            panic!("{row:?}");
        };
        for mpps in [row.mpps, row.flat_out_mpps, row.overload_mpps] {
            assert!(mpps.min > 0.0, "{row:?}");
        }
        let latency = row.latency_ns;
        let quantiles = [latency.p50, latency.p90, latency.p99, latency.p999];
        assert!(latency.p50 > 0.0 && quantiles.is_sorted(), "{row:?}");
        let shares = row.layout == Layout::Split && row.scheduling.is_none();
        assert_eq!(row.shares_cpus_with_generator, shares, "{row:?}");
        seen.push((row.layout, row.datapath, row.scheduling));
    }
    let as_by_default = Some(Scheduling::RealTime);
    let expected: Vec<_> = Layout::ALL
        .iter()
        .flat_map(|&layout| {
            [
                (layout, Datapath::Reflect, None),
                (layout, Datapath::Kernel, None),
                (layout, Datapath::L2fwd, as_by_default),
                (layout, Datapath::Xsk, as_by_default),
            ]
        })
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn two_queues_add_up_as_well() {
    if !met_or_skip("two_queues_add_up_as_well", &[]) {
        return;
    }
    let _turn = turn();
    let report = measure(&BenchOptions {
        part: Some(Part::Wire),
        repetitions: Some(1),
        flows: vec![100],
        queues: vec![2],
        layout: vec![Layout::SharedCore],
        datapath: vec![Datapath::Xsk],
        scheduling: vec![Scheduling::Normal],
        trial: Some(100),
        tolerate_load: true,
        ..BenchOptions::default()
    })
    .expect("every packet is accounted for");
    let [Row::Wire(row)] = report.rows.as_slice() else {
        panic!("{:?}", report.rows);
    };
    assert_eq!((row.queues, row.scheduling), (2, Some(Scheduling::Normal)));
    assert!(row.flat_out_mpps.min > 0.0, "{row:?}");
}
