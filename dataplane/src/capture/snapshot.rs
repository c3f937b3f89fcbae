//! A copied packet, and its way from the worker to the reader and back.

use std::{net::IpAddr, sync::Arc};

use bitflags::bitflags;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::{
    counters::{Counter, DropReason},
    forward::{Selection, Verdict},
    service::VipKey,
};

bitflags! {
    /// What happened to a packet besides its verdict (katran-compat section 10, events).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Happened: u8 {
        /// A TCP packet without SYN missed the flow table.
        const LRU_MISS = 1;
        /// The frame is longer than frames to VIPs may be.
        const TOO_BIG = 1 << 1;
        /// It was dropped because there is no real for it.
        const NO_REAL = 1 << 2;
        /// It went to the kernel.
        const PASS = 1 << 3;
    }
}

impl Happened {
    /// Each with the name it has among events.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("lru-miss", Self::LRU_MISS),
        ("too-big", Self::TOO_BIG),
        ("no-real", Self::NO_REAL),
        ("pass", Self::PASS),
    ];

    /// What a verdict alone tells.
    pub(super) const fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::PASS,
            Verdict::Drop(DropReason::NoReal) => Self::NO_REAL,
            _ => Self::empty(),
        }
    }
}

/// A packet as it arrived, and what became of it.
#[derive(Debug)]
pub struct Snapshot {
    /// The worker's clock ([`now_ns`](crate::worker::now_ns)) when the packet's burst came.
    pub time_ns: u64,
    /// What became of it.
    pub verdict: Verdict,
    /// What else there is to say.
    pub happened: Happened,
    /// How the real was found.
    pub selection: Selection,
    /// Its VIP, if one was found.
    pub vip: Option<VipKey>,
    /// Its real, if one was found.
    pub real: Option<IpAddr>,
    /// Bytes of the arriving frame, of which [`Self::bytes`] may be the start only.
    pub frame_len: usize,
    /// Packets that matched and found no free snapshot since the one before.
    pub lost_before: u64,
    bytes: Vec<u8>,
}

impl Snapshot {
    fn new(snaplen: usize) -> Self {
        Self {
            time_ns: 0,
            verdict: Verdict::Pass,
            happened: Happened::empty(),
            selection: Selection::None,
            vip: None,
            real: None,
            frame_len: 0,
            lost_before: 0,
            bytes: Vec::with_capacity(snaplen),
        }
    }

    /// The arriving frame from its Ethernet header on, or its start.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Copies as much of the frame as there is memory for.
    pub(super) fn copy(&mut self, frame: &[u8]) {
        let len = frame.len().min(self.bytes.capacity());
        self.bytes.clear();
        self.bytes.extend_from_slice(&frame[..len]);
        self.frame_len = frame.len();
    }
}

/// The worker's end of the rings.
#[derive(Debug)]
pub(super) struct Supply {
    spare: Consumer<Box<Snapshot>>,
    filled: Producer<Box<Snapshot>>,
    lost: Arc<Counter>,
}

impl Supply {
    pub(super) fn take(&mut self) -> Option<Box<Snapshot>> {
        self.spare.pop().ok()
    }

    pub(super) fn hand_over(&mut self, snapshot: Box<Snapshot>) {
        // There is room for every snapshot there is.
        let _ = self.filled.push(snapshot);
    }

    pub(super) fn count_lost(&self) {
        self.lost.add(1);
    }

    /// Whether somebody has the other end.
    pub(super) fn is_read(&self) -> bool {
        !self.filled.is_abandoned()
    }
}

/// The reader's end. Dropping it makes the monitor copy nothing any more.
#[derive(Debug)]
pub struct Feed {
    filled: Consumer<Box<Snapshot>>,
    spare: Producer<Box<Snapshot>>,
    lost: Arc<Counter>,
}

impl Feed {
    /// The oldest packet that was not read yet. Give it back with [`Self::give_back`].
    pub fn take(&mut self) -> Option<Box<Snapshot>> {
        self.filled.pop().ok()
    }

    /// Lets the worker use a snapshot again.
    pub fn give_back(&mut self, snapshot: Box<Snapshot>) {
        // There is room for every snapshot there is.
        let _ = self.spare.push(snapshot);
    }

    /// Packets that matched and were not copied, because no snapshot was free.
    pub fn lost(&self) -> u64 {
        self.lost.get()
    }
}

/// Both ends, with `count` snapshots of `snaplen` bytes.
pub(super) fn rings(count: usize, snaplen: usize) -> (Supply, Feed) {
    let (mut spare, take) = RingBuffer::new(count);
    for _ in 0..count {
        let _ = spare.push(Box::new(Snapshot::new(snaplen)));
    }
    let (hand_over, filled) = RingBuffer::new(count);
    let lost = Arc::new(Counter::default());
    let supply = Supply {
        spare: take,
        filled: hand_over,
        lost: Arc::clone(&lost),
    };
    let feed = Feed {
        filled,
        spare,
        lost,
    };
    (supply, feed)
}
