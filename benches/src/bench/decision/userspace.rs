//! The forwarder alone, on frames in memory.
//!
//! A burst of frames lies as in a socket's memory: each in a chunk of 2048 bytes, behind the kernel's
//! head room, with the tag that the XDP program writes. Before each burst the bytes that the forwarder
//! overwrote are restored (tag and Ethernet header, in the room of the outer header) and each frame
//! gets the flow it is to have. Only what follows is timed: reading the tags and
//! [`Forwarder::process`]. So the frames are in the CPU's caches, as frames are that the kernel has
//! just copied, and flows and flow table are not, unless there are few. A clock is read before and
//! after each burst; what that takes by itself is measured and subtracted.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use arrayvec::ArrayVec;
use dataplane::{
    counters::WorkerCounters,
    forward::{BURST, Forwarder, ForwarderConfig, Outcome, Packet, Selection, Verdict},
    service::{Protocol, RealId, ServiceControl},
    xsk::HEAD_ROOM,
};
use workload::RandomFlows;
use xdp_redirect::Tag;

use crate::bench::{
    asked::Asked,
    frame::{self, Segment},
    row::{Case, IpFamily},
    services,
};

/// Bytes of a chunk, as of an `AF_XDP` socket.
const CHUNK: usize = 2048;
const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0xcc, 3];
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0xaa, 1];
/// One frame with the memory around it, where frames lie in a socket's memory.
#[repr(align(2048))]
#[derive(Clone)]
struct Chunk([u8; CHUNK]);

/// Of so many new flows one may find a free place in a full table.
const FREE_PLACES: u64 = 100;

/// Steps in which a table is filled up, for as many flows as it has to keep.
const FILL_STEPS: u64 = 4;

/// Whether nearly each of so many new flows took the place of another.
const fn was_full(evicted: u64, new: u64) -> bool {
    evicted >= new - new / FREE_PLACES
}

/// What stands in front of the IP header when a frame arrives.
struct Restore {
    bytes: Vec<u8>,
    received: usize,
}

/// A forwarder and the frames of one burst.
pub(crate) struct Userspace {
    family: IpFamily,
    forwarder: Forwarder,
    counters: Arc<WorkerCounters>,
    chunks: Vec<Chunk>,
    restore: Restore,
    flows: u64,
    /// The next flow that was never seen.
    next_new: u64,
    /// Whether the table has no place left but those of other flows.
    is_full: bool,
    /// In an order that prefetchers do not learn.
    known: RandomFlows,
    now_ns: u64,
    clock_ns: f64,
}

impl Userspace {
    /// A forwarder whose table has room for `flows` flows and holds flows 0 to `flows`.
    pub(crate) fn new(family: IpFamily, flows: u64, burst: usize) -> Result<Self> {
        ensure!(
            (1..=BURST).contains(&burst),
            "a burst has 1 to {BURST} packets, not {burst}"
        );
        let table = ServiceControl::new().apply(&services::services(NEXT_HOP))?;
        let vip = table
            .lookup(services::vip(family), services::PORT, Protocol::Tcp)
            .context("the VIP is missing")?;
        let room = services::room(family);
        ensure!(
            vip.room == room,
            "the VIP wants {} bytes of room, not {room}",
            vip.room
        );
        let tag = Tag {
            generation: vip.generation,
            vip: vip.number,
            room,
            zero: 0,
        };
        let counters = Arc::new(WorkerCounters::new());
        let config = ForwarderConfig {
            flow_table_capacity: flows as usize,
            seeds: [11, 12, 13, 14],
        };
        let forwarder = Forwarder::new(&config, table, Arc::clone(&counters))?;
        let frame = frame::template(family, Segment::Ack, OWN_MAC, NEXT_HOP);
        let room = usize::from(room);
        let received = room + frame.len();
        let mut chunk = Chunk([0; CHUNK]);
        chunk.0[HEAD_ROOM + room..HEAD_ROOM + received].copy_from_slice(&frame);
        let mut bytes = vec![0; room];
        bytes[..Tag::SIZE].copy_from_slice(&tag.to_bytes());
        bytes.extend_from_slice(&frame[..14]);
        let mut bench = Self {
            family,
            forwarder,
            counters,
            chunks: vec![chunk; burst],
            restore: Restore { bytes, received },
            flows,
            next_new: flows,
            is_full: false,
            known: RandomFlows::below(flows),
            now_ns: 1_000_000_000_000,
            clock_ns: clock_cost(),
        };
        bench.fill()?;
        Ok(bench)
    }

    /// Every flow once, so that the table has them.
    fn fill(&mut self) -> Result<()> {
        self.set_segment(Segment::Ack);
        let (mut flow, flows) = (0, self.flows);
        while flow < flows {
            self.prepare(|_| {
                let this = flow % flows;
                flow += 1;
                this
            });
            self.decide()?;
        }
        Ok(())
    }

    /// Decides `packets` packets, rounded up to bursts; nanoseconds per packet.
    pub(crate) fn sample(&mut self, case: Case, packets: u64) -> Result<f64> {
        let burst = self.chunks.len() as u64;
        let bursts = packets.div_ceil(burst);
        self.make_ready(case)?;
        let before = self.asked();
        let evicted = self.counters.flow_evictions.get();
        let mut spent_ns = 0.0;
        for _ in 0..bursts {
            match case {
                Case::Hit => {
                    self.prepare(|known| known.next().unwrap_or_default());
                }
                Case::New => self.prepare_new(),
            }
            spent_ns += self.decide()?;
        }
        let packets = bursts * burst;
        self.asked().check(before, case, packets)?;
        let evicted = self.counters.flow_evictions.get() - evicted;
        ensure!(
            case == Case::Hit || was_full(evicted, packets),
            "the table was not full: {evicted} flows were evicted for {packets} new ones"
        );
        ensure!(spent_ns > 0.0, "the clock is too coarse for decisions");
        Ok(spent_ns / packets as f64)
    }

    /// Has the frames and the table that the case needs.
    pub(crate) fn make_ready(&mut self, case: Case) -> Result<()> {
        self.set_segment(match case {
            Case::Hit => Segment::Ack,
            Case::New => Segment::Syn,
        });
        if case == Case::New && !self.is_full {
            self.fill_up()?;
        }
        Ok(())
    }

    /// New flows until there is no place left for them but those of others: the table has more places than
    /// the flows that it promises to keep.
    fn fill_up(&mut self) -> Result<()> {
        let bursts = self
            .flows
            .div_ceil(FILL_STEPS)
            .div_ceil(self.chunks.len() as u64);
        for _ in 0..4 * FILL_STEPS {
            let before = self.counters.flow_evictions.get();
            for _ in 0..bursts {
                self.prepare_new();
                self.decide()?;
            }
            let evicted = self.counters.flow_evictions.get() - before;
            if was_full(evicted, bursts * self.chunks.len() as u64) {
                self.is_full = true;
                return Ok(());
            }
        }
        bail!("the table does not get full with four times as many flows as it has to keep");
    }

    /// The next burst of flows that were never seen.
    fn prepare_new(&mut self) {
        let mut next = self.next_new;
        self.prepare(|_| {
            let flow = next;
            next += 1;
            flow
        });
        self.next_new = next;
    }

    fn set_segment(&mut self, segment: Segment) {
        let frame = frame::template(self.family, segment, OWN_MAC, NEXT_HOP);
        let room = self.restore.bytes.len() - 14;
        for chunk in &mut self.chunks {
            let at = HEAD_ROOM + room;
            chunk.0[at..at + frame.len()].copy_from_slice(&frame);
        }
    }

    /// Makes the frames what they are when they arrive.
    fn prepare(&mut self, mut flow: impl FnMut(&mut RandomFlows) -> u64) {
        let Restore { bytes, received } = &self.restore;
        let room = bytes.len() - 14;
        for chunk in &mut self.chunks {
            let buffer = &mut chunk.0[HEAD_ROOM..];
            buffer[..bytes.len()].copy_from_slice(bytes);
            frame::set_flow(
                &mut buffer[room..*received],
                self.family,
                flow(&mut self.known),
            );
        }
    }

    /// Decides the burst; nanoseconds for all of it.
    fn decide(&mut self) -> Result<f64> {
        let mut outcomes = [Outcome {
            verdict: Verdict::Pass,
            vip: 0,
            real: RealId::NONE,
            selection: Selection::None,
        }; BURST];
        let received = self.restore.received;
        let offered = self.chunks.len();
        let started = Instant::now();
        let mut packets = ArrayVec::<Packet<'_>, BURST>::new();
        for chunk in &mut self.chunks {
            if let Some(packet) = Packet::tagged(&mut chunk.0[HEAD_ROOM..], received) {
                packets.push(packet);
            }
        }
        self.forwarder
            .process(self.now_ns, &mut packets, &mut outcomes);
        let spent = started.elapsed();
        let decided = packets.len();
        let sent = outcomes[..decided].iter().all(|outcome| {
            outcome.verdict
                == Verdict::Transmit {
                    len: received as u16,
                }
        });
        ensure!(
            decided == offered && sent,
            "the forwarder does not send every packet: {:?}",
            outcomes[0]
        );
        // As long as a burst takes; the table's clock need not be exact.
        self.now_ns += 2_000;
        Ok(spent.as_nanos() as f64 - self.clock_ns)
    }

    fn asked(&self) -> Asked {
        Asked {
            received: self.counters.received.packets.get(),
            ring: self.counters.ring_selections.get(),
        }
    }
}

/// What two readings of the clock take at least, in nanoseconds.
fn clock_cost() -> f64 {
    let costs = (0..1001).map(|_| {
        let started = Instant::now();
        started.elapsed().as_nanos()
    });
    costs.min().unwrap_or_default() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_hit_and_new_flows_are_new() {
        for &family in IpFamily::ALL {
            for burst in [1, BURST] {
                let mut bench = Userspace::new(family, 1000, burst).expect("a forwarder");
                for case in [Case::Hit, Case::New, Case::New] {
                    let ns = bench.sample(case, 1000).expect("counters add up");
                    assert!(ns.is_finite(), "{family} {case}");
                }
            }
        }
    }
}
