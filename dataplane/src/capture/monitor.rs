//! The worker's side of a capture.

use arrayvec::ArrayVec;

use super::{
    Feed, Filter, Happened, Snapshot,
    filter::Seen,
    snapshot::{Supply, rings},
};
use crate::{
    counters::DropReason,
    forward::{BURST, Forwarder, Outcome, Packet, Selection, Verdict},
};

/// Copies a worker's packets. One burst at a time: [`Self::arrives`] for each frame, then
/// [`Self::decided`].
#[derive(Debug)]
pub struct Monitor {
    filter: Filter,
    supply: Supply,
    /// Snapshots that the burst before did not need.
    hand: ArrayVec<Box<Snapshot>, BURST>,
    burst: ArrayVec<Arrived, BURST>,
    lost_before: u64,
}

/// A frame of the burst under way.
#[derive(Debug)]
struct Arrived {
    /// Nothing when it cannot match, or when none was free.
    snapshot: Option<Box<Snapshot>>,
    may_match: bool,
    to_address: bool,
    /// The forwarder sees it.
    is_packet: bool,
}

/// What became of a burst.
#[derive(Clone, Copy, Debug)]
pub struct Decided<'a> {
    /// The worker's clock when the burst came.
    pub now_ns: u64,
    /// The forwarder, after the burst.
    pub forwarder: &'a Forwarder,
    /// Outcomes of the frames that are packets, in order.
    pub outcomes: &'a [Outcome],
    /// How many of those that were to be transmitted, from the last one back, found no room in the
    /// TX ring.
    pub stalled: usize,
}

impl Monitor {
    /// A monitor that keeps what `filter` asks for, up to `snaplen` bytes of each packet, with `count`
    /// snapshots in all. A burst takes up to [`BURST`] of them until its verdicts are known; the others
    /// can wait for the reader.
    pub fn new(filter: Filter, snaplen: usize, count: usize) -> (Box<Self>, Feed) {
        let (supply, feed) = rings(count, snaplen);
        let monitor = Self {
            filter,
            supply,
            hand: ArrayVec::new(),
            burst: ArrayVec::new(),
            lost_before: 0,
        };
        (Box::new(monitor), feed)
    }

    /// Whether somebody has the [`Feed`].
    pub fn is_read(&self) -> bool {
        self.supply.is_read()
    }

    /// Notes the next frame of a burst, before anything rewrites it: `received` bytes from the start
    /// of `buffer`, as the worker gets them. At most [`BURST`] frames.
    pub fn arrives(&mut self, buffer: &mut [u8], received: usize) {
        if !self.supply.is_read() || self.burst.is_full() {
            return;
        }
        let packet = Packet::tagged(buffer, received);
        let is_packet = packet.is_some();
        // Without a sensible tag nobody knows where the frame starts.
        let frame: &[u8] = match &packet {
            Some(packet) => packet.frame(),
            None => buffer.get(..received).unwrap_or_default(),
        };
        let may_match = self.filter.may_match(frame);
        let mut snapshot = None;
        if may_match {
            snapshot = self.hand.pop().or_else(|| self.supply.take());
        }
        if let Some(snapshot) = &mut snapshot {
            snapshot.copy(frame);
        }
        self.burst.push(Arrived {
            snapshot,
            may_match,
            to_address: self.filter.is_to_address(frame),
            is_packet,
        });
    }

    /// Keeps the packets of the burst that match.
    pub fn decided(&mut self, decided: &Decided<'_>) {
        let Decided {
            now_ns,
            forwarder,
            outcomes,
            stalled,
        } = *decided;
        let table = forwarder.table();
        let is_transmit = |outcome: &&Outcome| matches!(outcome.verdict, Verdict::Transmit { .. });
        let packets = self.burst.iter().filter(|frame| frame.is_packet).count();
        let transmits = outcomes.iter().take(packets).filter(is_transmit).count();
        let mut sent_left = transmits.saturating_sub(stalled);
        let mut slots = 0..;
        let Self {
            filter,
            supply,
            hand,
            burst,
            lost_before,
        } = self;
        for frame in burst.drain(..) {
            let Arrived {
                snapshot,
                may_match,
                to_address,
                is_packet,
            } = frame;
            let slot = if is_packet { slots.next() } else { None };
            let outcome = slot.and_then(|slot: usize| outcomes.get(slot));
            let verdict = match outcome.map(|outcome| outcome.verdict) {
                None => Verdict::Drop(DropReason::BadTag),
                Some(Verdict::Transmit { .. }) if sent_left == 0 => {
                    Verdict::Drop(DropReason::TxStalled)
                }
                Some(verdict @ Verdict::Transmit { .. }) => {
                    sent_left -= 1;
                    verdict
                }
                Some(verdict) => verdict,
            };
            let mut happened = Happened::of(verdict);
            if let Some(slot) = slot {
                happened.set(Happened::LRU_MISS, forwarder.events().is_lru_miss(slot));
                happened.set(Happened::TOO_BIG, forwarder.events().is_too_big(slot));
            }
            let vip = outcome.and_then(|outcome| table.vip(outcome.vip));
            let seen = Seen {
                verdict,
                happened,
                vip: vip.map(|vip| &vip.key),
                to_address,
            };
            let matches = may_match && filter.matches(&seen);
            match snapshot {
                None if matches => {
                    *lost_before += 1;
                    supply.count_lost();
                }
                None => {}
                Some(snapshot) if !matches => hand.push(snapshot),
                Some(mut snapshot) => {
                    let real = outcome.and_then(|outcome| {
                        let real = table.real(outcome.real.index())?;
                        (real.id == outcome.real).then_some(real.address)
                    });
                    snapshot.time_ns = now_ns;
                    snapshot.verdict = verdict;
                    snapshot.happened = happened;
                    snapshot.selection =
                        outcome.map_or(Selection::None, |outcome| outcome.selection);
                    snapshot.vip = vip.map(|vip| vip.key);
                    snapshot.real = real;
                    snapshot.lost_before = std::mem::take(lost_before);
                    supply.hand_over(snapshot);
                }
            }
        }
    }
}
