//! The far end of a queue in memory: kernel, driver and wire at once.

use std::sync::Arc;

use nix::errno::Errno;

use super::{HEAD_ROOM, Hearing, Queue};

/// State of the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// Frames move.
    #[default]
    Up,
    /// Administratively down: kicks return `ENETDOWN`, nothing arrives.
    Down,
    /// The interface is there and the socket is not: kicks return `EBADF`, for ever.
    Broken,
    /// The interface was removed: kicks return `ENXIO`, for ever.
    Gone,
}

/// Why a frame did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The fill ring is empty.
    FillRingEmpty,
    /// The RX ring is full.
    RxRingFull,
    /// The frame does not fit a chunk.
    TooLong,
    /// The link is not up.
    LinkDown,
}

/// Plays the part of kernel, driver and wire for a [`MemoryPort`](super::MemoryPort). Clones act on
/// the same queue.
#[derive(Clone, Debug)]
pub struct MemoryNic {
    queue: Arc<Queue>,
}

impl MemoryNic {
    pub(super) const fn new(queue: Arc<Queue>) -> Self {
        Self { queue }
    }

    /// Lets a frame arrive: `bytes` as the socket would receive them, tag and room included.
    pub fn inject(&self, bytes: &[u8]) -> Result<(), Refused> {
        let mut shared = self.queue.lock();
        shared.arrive(bytes)?;
        if std::mem::take(&mut shared.sleeping) {
            // Fails only when the counter is full, and then the worker wakes anyway.
            let _ = self.queue.arrival.write(1);
        }
        Ok(())
    }

    /// The oldest frame on the wire. Its chunk completes, unless completions are withheld.
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut shared = self.queue.lock();
        let (chunk, len) = shared.wire.pop_front()?;
        let bytes = chunk.buffer[HEAD_ROOM..HEAD_ROOM + len].to_vec();
        shared.done.push_back(chunk);
        if !shared.withhold_completions {
            shared.complete(usize::MAX);
        }
        Some(bytes)
    }

    /// Moves up to `max` chunks of frames taken from the wire to the completion ring; returns how
    /// many moved.
    pub fn complete(&self, max: usize) -> usize {
        self.queue.lock().complete(max)
    }

    /// Whether chunks wait for [`Self::complete`] instead of completing when they are taken.
    pub fn withhold_completions(&self, withhold: bool) {
        self.queue.lock().withhold_completions = withhold;
    }

    /// Whether frames are thrown away and completed as soon as they leave.
    pub fn discard(&self, discard: bool) {
        self.queue.lock().discard = discard;
    }

    /// The next kicks move nothing and return these errors, one each.
    pub fn fail_kicks(&self, errors: impl IntoIterator<Item = Errno>) {
        self.queue.lock().kick_errors.extend(errors);
    }

    /// Forgets errors that kicks have not returned yet.
    pub fn clear_kick_errors(&self) {
        self.queue.lock().kick_errors.clear();
    }

    /// Frames one kick moves at most; zero stops transmission.
    pub fn set_kick_budget(&self, budget: usize) {
        self.queue.lock().kick_budget = budget;
    }

    /// The driver keeps the newest `frames` frames of a kick until the next kick.
    pub fn hold_last(&self, frames: usize) {
        self.queue.lock().hold_last = frames;
    }

    /// Whether the driver says that it sends by itself, so that kicks do not reach it.
    pub fn claim_to_send(&self, claim: bool) {
        self.queue.lock().driver.claims_to_send = claim;
    }

    /// The driver finds the fill ring empty at the next frame, and does not look again until its poll
    /// function runs.
    pub fn go_deaf(&self) {
        self.queue.lock().driver.hearing = Hearing::GoesDeaf;
    }

    /// Lets a frame arrive that stays in the card until the driver's poll function runs.
    pub fn keep_in_card(&self, bytes: &[u8]) {
        self.queue.lock().in_card.push_back(bytes.to_vec());
    }

    /// Whether the kernel does not know the driver's poll function.
    pub fn put_out_of_reach(&self, out_of_reach: bool) {
        self.queue.lock().driver.out_of_reach = out_of_reach;
    }

    /// Changes the state of the interface.
    pub fn set_link(&self, link: Link) {
        self.queue.lock().link = link;
    }

    /// Frames that left so far.
    pub fn sent(&self) -> u64 {
        self.queue.lock().sent
    }

    /// Chunks in the fill ring: frames that can arrive.
    pub fn fillable(&self) -> usize {
        self.queue.lock().fill.len()
    }

    /// Frames in the RX ring.
    pub fn waiting(&self) -> usize {
        self.queue.lock().rx.len()
    }
}
