//! Random packets and service changes against a model: flows in the table keep their real whatever
//! becomes of the services, and a VIP's flows do not move when another VIP changes.

mod common;

use std::{collections::HashMap, sync::Arc};

use common::{
    Bench, NotSent,
    frames::{Segment, tcp, udp},
    proptest_config, real, settings, vip,
};
use dataplane::{
    counters::DropReason,
    forward::{Selection, flow_hash},
    service::{Protocol, ServiceSpec, VipFlags, VipSpec},
};
use maglev::{DEFAULT_RING_SIZE, Endpoint, HashFunction, Ring};
use proptest::prelude::*;

const SECOND_NS: u64 = 1_000_000_000;
const UDP_TIMEOUT_NS: u64 = 30 * SECOND_NS;
const CLIENTS: u16 = 6;
/// Reals that an address family has to choose from.
const REALS: usize = 5;

/// The VIPs that come and go. The first two share an address and, with the last, their reals.
const VIPS: [(&str, u16, Protocol, VipFlags); 4] = [
    ("203.0.113.10", 80, Protocol::Tcp, VipFlags::empty()),
    ("203.0.113.10", 53, Protocol::Udp, VipFlags::empty()),
    ("2001:db8:a::10", 80, Protocol::Tcp, VipFlags::empty()),
    ("203.0.113.20", 80, Protocol::Tcp, VipFlags::LRU_BYPASS),
];

#[derive(Clone, Copy, Debug)]
enum Step {
    Packet {
        vip: usize,
        client: u16,
        segment: Segment,
    },
    /// Adds the real if it is not there.
    Weight {
        vip: usize,
        real: usize,
        weight: u32,
    },
    RemoveReal {
        vip: usize,
        real: usize,
    },
    AddVip {
        vip: usize,
        weights: [u32; REALS],
    },
    RemoveVip {
        vip: usize,
    },
    Wait {
        ns: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let vip = 0..VIPS.len();
    let segment = prop::sample::select(vec![
        Segment::Ack,
        Segment::Ack,
        Segment::Ack,
        Segment::Syn,
        Segment::Rst,
    ]);
    let packet =
        (vip.clone(), 0..CLIENTS, segment).prop_map(|(vip, client, segment)| Step::Packet {
            vip,
            client,
            segment,
        });
    let weight = (vip.clone(), 0..REALS, 0_u32..4).prop_map(|(vip, real, weight)| Step::Weight {
        vip,
        real,
        weight,
    });
    let remove_real =
        (vip.clone(), 0..REALS).prop_map(|(vip, real)| Step::RemoveReal { vip, real });
    let add_vip = (vip.clone(), any::<[bool; REALS]>()).prop_map(|(vip, present)| Step::AddVip {
        vip,
        weights: present.map(u32::from),
    });
    let wait = prop::sample::select(vec![
        1,
        SECOND_NS,
        15 * SECOND_NS,
        UDP_TIMEOUT_NS,
        UDP_TIMEOUT_NS + 1,
    ])
    .prop_map(|ns| Step::Wait { ns });
    prop_oneof![
        40 => packet,
        2 => weight,
        2 => remove_real,
        2 => add_vip,
        1 => vip.prop_map(|vip| Step::RemoveVip { vip }),
        3 => wait,
    ]
}

fn real_address(vip: usize, real: usize) -> String {
    if VIPS[vip].0.contains(':') {
        format!("2001:db8:f::{}", real + 1)
    } else {
        format!("198.51.100.{}", real + 11)
    }
}

/// A VIP as the model knows it.
struct Service {
    /// Weight by real; `None` where it is not among the VIP's reals.
    weights: [Option<u32>; REALS],
    ring: Ring,
}

impl Service {
    fn new(vip: usize, weights: [Option<u32>; REALS]) -> Self {
        let endpoints: Vec<Endpoint> = (0_u32..)
            .zip(weights)
            .filter_map(|(real, weight)| {
                let address = real_address(vip, real as usize);
                // A ring's number 0 stands for no endpoint.
                Some(Endpoint::new(real + 1, weight?, address.parse().unwrap()))
            })
            .collect();
        let ring = Ring::build(HashFunction::MaglevV1, DEFAULT_RING_SIZE, &endpoints)
            .expect("different endpoints");
        Self { weights, ring }
    }
}

/// A flow table without limits, and the services.
struct Model {
    services: [Option<Service>; VIPS.len()],
    /// By VIP and client: the real and when it was used last.
    flows: HashMap<(usize, u16), (usize, u64)>,
}

impl Model {
    fn spec(&self) -> ServiceSpec {
        let vips = self
            .services
            .iter()
            .enumerate()
            .filter_map(|(number, service)| Some(spec(number, service.as_ref()?)));
        ServiceSpec {
            settings: settings(),
            vips: vips.collect(),
            ..ServiceSpec::default()
        }
    }

    /// Changes one VIP; false when nothing is different afterwards.
    fn change(&mut self, step: Step) -> bool {
        let (vip, weights) = match step {
            Step::RemoveVip { vip } => return self.services[vip].take().is_some(),
            Step::AddVip { vip, weights } if self.services[vip].is_none() => {
                (vip, weights.map(|weight| (weight > 0).then_some(weight)))
            }
            Step::Packet { .. } | Step::Wait { .. } | Step::AddVip { .. } => return false,
            Step::Weight { vip, real, weight } => match &self.services[vip] {
                Some(service) => {
                    let mut weights = service.weights;
                    weights[real] = Some(weight);
                    (vip, weights)
                }
                None => return false,
            },
            Step::RemoveReal { vip, real } => match &self.services[vip] {
                Some(service) => {
                    let mut weights = service.weights;
                    weights[real] = None;
                    (vip, weights)
                }
                None => return false,
            },
        };
        if let Some(service) = &self.services[vip]
            && service.weights == weights
        {
            return false;
        }
        self.services[vip] = Some(Service::new(vip, weights));
        true
    }

    /// Where a packet goes and by what, and remembers it.
    fn packet(
        &mut self,
        now_ns: u64,
        vip: usize,
        client: u16,
        segment: Segment,
    ) -> Result<(usize, Selection), NotSent> {
        let Some(service) = &self.services[vip] else {
            return Err(NotSent::Passed);
        };
        let (_, port, protocol, flags) = VIPS[vip];
        let is_udp = protocol == Protocol::Udp;
        let (syn, rst) = (
            !is_udp && segment == Segment::Syn,
            !is_udp && segment == Segment::Rst,
        );
        let keeps_flows = !flags.contains(VipFlags::LRU_BYPASS);
        if keeps_flows
            && !syn
            && let Some((real, last_use)) = self.flows.get_mut(&(vip, client))
            && (!is_udp || now_ns - *last_use <= UDP_TIMEOUT_NS)
        {
            *last_use = now_ns;
            return Ok((*real, Selection::Table));
        }
        let ports = (client_port(client).to_be_bytes(), port.to_be_bytes());
        let hash = if VIPS[vip].0.contains(':') {
            flow_hash(&CLIENT_V6.octets(), ports.0, ports.1)
        } else {
            flow_hash(&CLIENT_V4.octets(), ports.0, ports.1)
        };
        let Some(real) = usize::from(service.ring.select(hash)).checked_sub(1) else {
            return Err(NotSent::Dropped(DropReason::NoReal));
        };
        if keeps_flows && !rst {
            self.flows.insert((vip, client), (real, now_ns));
        }
        Ok((real, Selection::Ring))
    }
}

fn spec(number: usize, service: &Service) -> VipSpec {
    let (address, port, protocol, flags) = VIPS[number];
    let mut spec = vip(address, port, protocol, flags, &[]);
    spec.reals = service
        .weights
        .iter()
        .enumerate()
        .filter_map(|(n, weight)| Some(real(&real_address(number, n), (*weight)?)))
        .collect();
    spec
}

const CLIENT_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 0, 2, 10);
const CLIENT_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 1);

const fn client_port(client: u16) -> u16 {
    40000 + client
}

fn frame(vip: usize, client: u16, segment: Segment) -> Vec<u8> {
    let (address, port, protocol, _) = VIPS[vip];
    let (source, destination) = if address.contains(':') {
        (
            format!("[{CLIENT_V6}]:{}", client_port(client)),
            format!("[{address}]:{port}"),
        )
    } else {
        (
            format!("{CLIENT_V4}:{}", client_port(client)),
            format!("{address}:{port}"),
        )
    };
    match protocol {
        Protocol::Tcp => tcp(&source, &destination, segment),
        Protocol::Udp => udp(&source, &destination, b"query"),
    }
}

/// VIPs that did not change share their ring with the table before.
fn other_rings_are_shared(
    bench: &Bench,
    before: &dataplane::service::ServiceTable,
    model: &Model,
    changed: &ServiceSpec,
) -> Result<(), TestCaseError> {
    let after = bench.forwarder.table();
    for vip in &model.spec().vips {
        if changed.vips.contains(vip) {
            let (Some(old), Some(new)) = (before.find(&vip.key), after.find(&vip.key)) else {
                return Err(TestCaseError::fail(format!("{} is missing", vip.key)));
            };
            prop_assert!(Arc::ptr_eq(&old.ring, &new.ring), "{}", vip.key);
            prop_assert_eq!(old.number, new.number);
            prop_assert_eq!(old.generation, new.generation);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(proptest_config(64))]

    #[test]
    fn flows_keep_their_real(steps in prop::collection::vec(step(), 1..200)) {
        let mut model = Model {
            services: std::array::from_fn(|vip| Some(Service::new(vip, [Some(1); REALS]))),
            flows: HashMap::new(),
        };
        let mut bench = Bench::new(&model.spec());
        for step in steps {
            let spec_before = model.spec();
            match step {
                Step::Wait { ns } => bench.now_ns += ns,
                Step::Packet { vip, client, segment } => {
                    let expected = model
                        .packet(bench.now_ns, vip, client, segment)
                        .map(|(real, selection)| (real_address(vip, real), selection));
                    let sent = bench.send(&frame(vip, client, segment));
                    let observed = sent.map(|_| (bench.last_real(), bench.last.selection));
                    prop_assert_eq!(observed, expected, "{:?}", step);
                }
                change => {
                    if model.change(change) {
                        let before = Arc::clone(bench.forwarder.table());
                        bench.apply(&model.spec());
                        other_rings_are_shared(&bench, &before, &model, &spec_before)?;
                    }
                }
            }
        }
        prop_assert_eq!(bench.forwarder.flow_count(), model.flows.len());
        prop_assert_eq!(bench.counters.unaccounted(), 0);
    }
}
