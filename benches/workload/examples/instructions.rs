//! Runs one case for `cargo xtask instructions`, which counts the instructions of [`measured`]:
//! `instructions CASE`, where a case is one of those below.
#![forbid(unsafe_code)]

use std::{
    hint::black_box,
    net::{Ipv4Addr, Ipv6Addr},
    process::ExitCode,
};

use dataplane::{
    forward::{BURST, Selection},
    service::{Encapsulation, Protocol},
};
use workload::{Burst, IpVersion, RandomFlows, Services, Workload};

/// Flows in the table, which is made for as many.
const FLOWS: u64 = 10_000;
const PACKETS: u64 = 64_000;

/// A kind of packets.
struct Case {
    name: &'static str,
    version: IpVersion,
    /// How the packets get their real: from the table, or from the ring as a flow's first.
    selection: Selection,
    /// Packets of a burst.
    burst: usize,
    protocol: Protocol,
    reals: Option<IpVersion>,
    encapsulation: Encapsulation,
}

const GUE: Encapsulation = Encapsulation::Gue {
    port: 9886,
    source_v4: Ipv4Addr::new(198, 51, 100, 1),
    source_v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
};

const CASES: [Case; 11] = [
    case("hit-ipv4", IpVersion::V4, Selection::Table, BURST),
    case("hit-ipv6", IpVersion::V6, Selection::Table, BURST),
    case("new-ipv4", IpVersion::V4, Selection::Ring, BURST),
    case("new-ipv6", IpVersion::V6, Selection::Ring, BURST),
    Case {
        encapsulation: GUE,
        ..case("hit-ipv4-gue", IpVersion::V4, Selection::Table, BURST)
    },
    Case {
        encapsulation: GUE,
        ..case("hit-ipv6-gue", IpVersion::V6, Selection::Table, BURST)
    },
    Case {
        protocol: Protocol::Udp,
        ..case("hit-ipv4-udp", IpVersion::V4, Selection::Table, BURST)
    },
    Case {
        reals: Some(IpVersion::V6),
        ..case("hit-ipv4-in-ipv6", IpVersion::V4, Selection::Table, BURST)
    },
    case("hit-ipv4-burst-1", IpVersion::V4, Selection::Table, 1),
    case("hit-ipv4-burst-2", IpVersion::V4, Selection::Table, 2),
    case("hit-ipv4-burst-4", IpVersion::V4, Selection::Table, 4),
];

const fn case(name: &'static str, version: IpVersion, selection: Selection, burst: usize) -> Case {
    Case {
        name,
        version,
        selection,
        burst,
        protocol: Protocol::Tcp,
        reals: None,
        encapsulation: Encapsulation::Ipip,
    }
}

/// What is counted. Its name and its being a function of its own are what the counting goes by.
#[inline(never)]
fn measured(workload: &mut Workload, burst: &Burst) {
    workload.decide(black_box(burst));
}

fn run(case: &Case) {
    let services = Services {
        protocol: case.protocol,
        reals: case.reals,
        encapsulation: case.encapsulation,
        ..Services::default()
    };
    let mut workload = Workload::with_services(case.version, FLOWS as usize, services);
    workload.establish(FLOWS);
    let mut known = RandomFlows::below(FLOWS);
    let mut unknown = FLOWS..;
    let mut selected = 0;
    for _ in 0..PACKETS / case.burst as u64 {
        let burst = if case.selection == Selection::Table {
            workload.arrive(known.by_ref().take(case.burst))
        } else {
            workload.arrive(unknown.by_ref().take(case.burst))
        };
        measured(&mut workload, &burst);
        selected += workload.selected(&burst, case.selection);
    }
    assert!(selected * 1000 >= PACKETS * 995, "{selected}");
}

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let Some(case) = CASES.iter().find(|case| case.name == wanted) else {
        for case in &CASES {
            println!("{} {PACKETS}", case.name);
        }
        return if wanted.is_empty() {
            ExitCode::SUCCESS
        } else {
            eprintln!("error: no case {wanted}; the cases are above");
            ExitCode::FAILURE
        };
    };
    run(case);
    ExitCode::SUCCESS
}
