//! A worker on a queue in memory, with everything around it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary includes this module and uses its own part of it"
)]

use std::{
    io,
    sync::{Arc, Mutex},
};

use dataplane::{
    counters::{DropReason, WorkerCounters},
    forward::{Forwarder, ForwarderConfig},
    port::{
        PassPath,
        memory::{MemoryConfig, MemoryNic, MemoryPort, pair},
    },
    service::{Publisher, ServiceControl, ServiceSpec},
    worker::{Engine, WorkerConfig},
};
use xdp_layout::Tag;

/// Collects what goes to the kernel; refuses when told to.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    pub frames: Arc<Mutex<Vec<Vec<u8>>>>,
    pub refuse: bool,
}

impl PassPath for Kernel {
    fn pass(&mut self, frame: &[u8]) -> io::Result<()> {
        if self.refuse {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.frames.lock().unwrap().push(frame.to_vec());
        Ok(())
    }
}

/// A worker's parts, not yet put together.
pub struct Parts {
    pub control: ServiceControl,
    pub publisher: Publisher,
    pub forwarder: Forwarder,
    pub counters: Arc<WorkerCounters>,
    pub port: MemoryPort,
    pub nic: MemoryNic,
    pub kernel: Kernel,
}

impl Parts {
    pub fn new(spec: &ServiceSpec, memory: &MemoryConfig) -> Self {
        let mut control = ServiceControl::new();
        let table = control.apply(spec).expect("a valid specification");
        let publisher = Publisher::new(Arc::clone(&table));
        let counters = Arc::new(WorkerCounters::new());
        let config = ForwarderConfig {
            flow_table_capacity: 10_000,
            seeds: [1, 2, 3, 4],
        };
        let forwarder = Forwarder::new(&config, table, Arc::clone(&counters)).expect("a table");
        let (port, nic) = pair(memory).expect("two event descriptors");
        Self {
            control,
            publisher,
            forwarder,
            counters,
            port,
            nic,
            kernel: Kernel::default(),
        }
    }

    /// An engine whose rounds the test calls.
    pub fn engine(self) -> Rig {
        let engine = Engine::new(
            &WorkerConfig::default(),
            self.port,
            self.forwarder,
            self.publisher.subscribe(),
            Box::new(self.kernel.clone()),
        );
        Rig {
            engine,
            control: self.control,
            publisher: self.publisher,
            counters: self.counters,
            nic: self.nic,
            kernel: self.kernel,
        }
    }
}

/// An engine and the world around it.
pub struct Rig {
    pub engine: Engine<MemoryPort>,
    pub control: ServiceControl,
    pub publisher: Publisher,
    pub counters: Arc<WorkerCounters>,
    pub nic: MemoryNic,
    pub kernel: Kernel,
}

/// A frame as the XDP program redirects it when only the address matched: a tag, room, the frame.
pub fn redirected(frame: &[u8], room: u8) -> Vec<u8> {
    let tag = Tag {
        generation: 0,
        vip: Tag::NO_VIP,
        room,
        zero: 0,
    };
    let mut bytes = vec![0; usize::from(room)];
    bytes[..Tag::SIZE].copy_from_slice(&tag.to_bytes());
    bytes.extend_from_slice(frame);
    bytes
}

/// What was received is transmitted, passed or dropped for a reason, in packets and in bytes.
#[track_caller]
pub fn assert_accounted(counters: &WorkerCounters) {
    let (mut packets, mut bytes) = (0, 0);
    let drops = DropReason::ALL
        .iter()
        .map(|reason| counters.dropped(*reason));
    for (more_packets, more_bytes) in
        drops.chain([counters.transmitted.get(), counters.passed.get()])
    {
        packets += more_packets;
        bytes += more_bytes;
    }
    assert_eq!(
        counters.received.get(),
        (packets, bytes),
        "received = transmitted + passed + drops"
    );
    assert_eq!(counters.unaccounted(), 0);
    assert_eq!(counters.io.frames_lost.get(), 0);
}
