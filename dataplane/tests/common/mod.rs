//! A forwarder on a bench: frames in, frames out.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary includes this module and uses its own part of it"
)]

pub mod frames;
pub mod model;
pub mod services;

use std::{fmt::Write, sync::Arc};

use dataplane::{
    counters::{DropReason, WorkerCounters},
    forward::{BURST, Forwarder, ForwarderConfig, Outcome, Packet, Selection, Verdict},
    service::{
        HashFunction, Protocol, RealId, RealSpec, ServiceControl, ServiceSpec, Settings, VipFlags,
        VipKey, VipSpec,
    },
};

/// Why nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// For the kernel.
    Passed,
    /// Dropped.
    Dropped(DropReason),
}

/// A forwarder and what it needs to be called.
pub struct Bench {
    pub control: ServiceControl,
    pub forwarder: Forwarder,
    pub counters: Arc<WorkerCounters>,
    pub now_ns: u64,
    pub last: Outcome,
    /// What went to the kernel last.
    pub passed: Vec<u8>,
}

impl Bench {
    pub fn new(spec: &ServiceSpec) -> Self {
        Self::with_capacity(spec, 1000)
    }

    pub fn with_capacity(spec: &ServiceSpec, flow_table_capacity: usize) -> Self {
        let mut control = ServiceControl::new();
        let table = control.apply(spec).expect("a valid specification");
        let counters = Arc::new(WorkerCounters::new());
        let config = ForwarderConfig {
            flow_table_capacity,
            seeds: [1, 2, 3, 4],
        };
        let forwarder = Forwarder::new(&config, table, Arc::clone(&counters)).expect("a table");
        Self {
            control,
            forwarder,
            counters,
            now_ns: 1_000_000_000_000,
            last: no_outcome(),
            passed: Vec::new(),
        }
    }

    /// Changes the services as the control plane does.
    pub fn apply(&mut self, spec: &ServiceSpec) {
        let table = self.control.apply(spec).expect("a valid specification");
        self.forwarder.set_table(table);
    }

    /// What is sent for a frame that arrives with the head room that most VIPs get.
    pub fn send(&mut self, frame: &[u8]) -> Result<Vec<u8>, NotSent> {
        self.send_with_room(frame, 20)
    }

    pub fn send_with_room(&mut self, frame: &[u8], room: usize) -> Result<Vec<u8>, NotSent> {
        let mut buffer = vec![0xa5; room + frame.len() + 64];
        buffer[room..room + frame.len()].copy_from_slice(frame);
        self.send_in(&mut buffer, room, frame.len())
    }

    /// As [`Self::send`], for a frame of `len` bytes at `room` of a buffer.
    pub fn send_in(
        &mut self,
        buffer: &mut [u8],
        room: usize,
        len: usize,
    ) -> Result<Vec<u8>, NotSent> {
        self.process(Packet::untagged(buffer, room, len).expect("it fits"))
    }

    /// As [`Self::send`], for the first `received` bytes of a buffer that starts with a tag. `None`
    /// when the tag's room is impossible.
    pub fn send_tagged(
        &mut self,
        buffer: &mut [u8],
        received: usize,
    ) -> Option<Result<Vec<u8>, NotSent>> {
        Packet::tagged(buffer, received).map(|packet| self.process(packet))
    }

    fn process(&mut self, packet: Packet<'_>) -> Result<Vec<u8>, NotSent> {
        let arriving = packet.frame().to_vec();
        let mut burst = [packet];
        let mut outcomes = [no_outcome(); BURST];
        self.forwarder
            .process(self.now_ns, &mut burst, &mut outcomes);
        self.last = outcomes[0];
        match self.last.verdict {
            Verdict::Transmit { len } => {
                self.counters.transmitted.count(arriving.len() as u64);
                Ok(burst[0].buffer()[..usize::from(len)].to_vec())
            }
            Verdict::Pass => {
                self.counters.passed.count(arriving.len() as u64);
                self.passed = burst[0].frame().to_vec();
                if burst[0].stripped_len() == 0 {
                    assert_eq!(
                        self.passed, arriving,
                        "a frame for the kernel is not touched"
                    );
                }
                Err(NotSent::Passed)
            }
            Verdict::Drop(reason) => Err(NotSent::Dropped(reason)),
        }
    }

    /// The real's address of the last outcome, as text; empty without a real.
    pub fn last_real(&self) -> String {
        self.forwarder
            .table()
            .real(self.last.real.index())
            .map(|real| real.address.to_string())
            .unwrap_or_default()
    }
}

pub const fn no_outcome() -> Outcome {
    Outcome {
        verdict: Verdict::Pass,
        vip: 0,
        real: RealId::NONE,
        selection: Selection::None,
    }
}

pub fn hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub fn settings() -> Settings {
    Settings {
        next_hop_mac: Some("02:00:00:00:cc:03".parse().unwrap()),
        ..Settings::default()
    }
}

/// A VIP `address:port/protocol`; a prefix VIP is `prefix/bits`.
pub fn vip(
    address: &str,
    port: u16,
    protocol: Protocol,
    flags: VipFlags,
    reals: &[&str],
) -> VipSpec {
    let key = match address.split_once('/') {
        Some((network, bits)) => VipKey {
            address: network.parse().unwrap(),
            prefix_len: bits.parse().unwrap(),
            port,
            protocol,
        },
        None => VipKey::exact(address.parse().unwrap(), port, protocol),
    };
    VipSpec {
        key,
        hash: HashFunction::MaglevV1,
        flags,
        reals: reals.iter().map(|address| real(address, 1)).collect(),
    }
}

pub fn real(address: &str, weight: u32) -> RealSpec {
    RealSpec {
        address: address.parse().unwrap(),
        weight,
        local: false,
        down: false,
    }
}

pub const V4_REALS: &[&str] = &["198.51.100.11", "198.51.100.12", "198.51.100.13"];
pub const V6_REALS: &[&str] = &["2001:db8:f::1", "2001:db8:f::2", "2001:db8:f::3"];

/// The services that the packet vectors were made with.
pub fn vector_services(settings: Settings) -> ServiceSpec {
    use Protocol::{Tcp, Udp};
    let none = VipFlags::empty();
    ServiceSpec {
        settings,
        vips: vec![
            vip("203.0.113.10", 80, Tcp, none, V4_REALS),
            vip("203.0.113.10", 53, Udp, none, V4_REALS),
            vip("203.0.113.20", 80, Tcp, none, V6_REALS),
            vip("203.0.113.33", 443, Tcp, VipFlags::NO_SRC_PORT, V6_REALS),
            vip("203.0.113.32", 0, Udp, VipFlags::DPORT_ONLY, V4_REALS),
            vip("2001:db8:a::10", 80, Tcp, none, V6_REALS),
        ],
        ..ServiceSpec::default()
    }
}

/// As many cases as `PROPTEST_CASES` asks for, or `default`; nothing is written beside the tests.
pub fn proptest_config(default: u32) -> proptest::test_runner::Config {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(default);
    proptest::test_runner::Config {
        cases,
        failure_persistence: None,
        ..Default::default()
    }
}
