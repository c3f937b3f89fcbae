//! The four rings of one queue behind a trait, so that the worker that runs on `AF_XDP` sockets is the
//! same code that runs on memory in tests.
//!
//! ```text
//!              fill                rx
//!  free list ───────► the kernel ──────► hands ──┐ recycle
//!      ▲                                   │     ├────────► free list
//!      │ reap        completion          tx│     ┘
//!      └──────────── the kernel ◄──────────┘
//! ```
//!
//! A chunk of buffer memory is in exactly one of those places. While it is in the worker's hands it
//! is a [`QueuePort::Chunk`]: a token that can be neither cloned nor made, only given back by
//! [`QueuePort::transmit`] or [`QueuePort::recycle`]. [`Census`] says how many chunks are where.

use std::{io, os::fd::BorrowedFd, time::Duration};

use arrayvec::ArrayVec;

use crate::forward::BURST;

pub mod kick;
pub mod memory;
pub(crate) mod sleep;

/// A chunk with a frame that arrived.
#[derive(Debug)]
#[must_use = "a chunk that is dropped is lost for the queue"]
pub struct Received<C> {
    /// The chunk.
    pub chunk: C,
    /// Bytes the kernel wrote, from the first of [`QueuePort::bytes`]; room in front of the frame
    /// included.
    pub len: usize,
}

/// A chunk with a frame that is to leave.
#[derive(Debug)]
#[must_use = "a chunk that is dropped is lost for the queue"]
pub struct Outgoing<C> {
    /// The chunk.
    pub chunk: C,
    /// Bytes to send, from the first of [`QueuePort::bytes`].
    pub len: u16,
}

/// Why [`QueuePort::wait`] returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake {
    /// Frames may have arrived.
    pub received: bool,
    /// The waker is readable.
    pub called: bool,
}

/// What a port did besides moving chunks; each number only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// System calls that asked the kernel to transmit.
    pub tx_kicks: u64,
    /// System calls that asked the kernel to look at the fill ring.
    pub fill_kicks: u64,
    /// Times the fill ring could not take every free chunk at once.
    pub fill_ring_full: u64,
    /// Descriptors from the kernel that name no chunk it had, or bytes outside the chunk.
    pub invalid_descriptors: u64,
}

/// Where a queue's chunks are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All chunks of the queue.
    pub total: usize,
    /// On the free list.
    pub free: usize,
    /// In the fill ring, or with the driver for frames to come.
    pub fill: usize,
    /// In the RX ring.
    pub rx: usize,
    /// In the worker's hands.
    pub hands: usize,
    /// In the TX ring, or with the driver on their way out.
    pub tx: usize,
    /// In the completion ring.
    pub completion: usize,
}

impl Census {
    /// Chunks in all six places.
    pub const fn sum(&self) -> usize {
        self.free + self.fill + self.rx + self.hands + self.tx + self.completion
    }

    /// Chunks that are nowhere, when the worker really holds `held` of them: zero unless there is a
    /// bug here or in the driver. A chunk that turned up twice counts as well.
    pub const fn lost(&self, held: usize) -> usize {
        (self.sum() - self.hands + held).abs_diff(self.total)
    }
}

/// One queue: its rings, its chunks and the way to sleep until something arrives.
///
/// Errors are final: the queue is gone. What passes by itself (a busy driver, a link that is down)
/// is no error; frames stay where they are and [`QueuePort::transmit`] accepts fewer.
pub trait QueuePort {
    /// A chunk in the worker's hands. Works only with the port it came from.
    type Chunk;

    /// Takes frames from the RX ring until it is empty or `out` is full; returns how many.
    fn receive(&mut self, out: &mut ArrayVec<Received<Self::Chunk>, BURST>) -> usize;

    /// The chunk's memory, from the first byte the kernel wrote to the end of the chunk.
    ///
    /// # Panics
    /// If the chunk is another port's.
    fn bytes<'a>(&'a self, chunk: &'a mut Self::Chunk) -> &'a mut [u8];

    /// Moves frames from the front of `frames` to the TX ring, as many as it has room for, and
    /// leaves the rest; returns how many went. They move when [`QueuePort::flush`] is called.
    ///
    /// # Panics
    /// If a chunk is another port's.
    fn transmit(&mut self, frames: &mut ArrayVec<Outgoing<Self::Chunk>, BURST>) -> usize;

    /// Puts a chunk on the free list.
    ///
    /// # Panics
    /// If the chunk is another port's.
    fn recycle(&mut self, chunk: Self::Chunk);

    /// Moves the completion ring to the free list; returns how many chunks moved.
    fn reap(&mut self) -> usize;

    /// Moves the free list to the fill ring, as far as it has room, and tells a driver that sleeps.
    fn refill(&mut self);

    /// Tells the kernel to transmit, until the TX ring is empty or the kernel takes no more for now.
    /// Does nothing when the kernel takes frames by itself.
    fn flush(&mut self) -> io::Result<()>;

    /// Tells the kernel once more to transmit, if it asks to be told, though the TX ring may be empty:
    /// some drivers keep the last frames until then.
    fn kick(&mut self) -> io::Result<()>;

    /// Has the driver serve its side of transmission now, even if it does not ask to be told; returns
    /// whether the kernel offers a way to the driver.
    fn rouse_sender(&mut self) -> io::Result<bool>;

    /// Frames handed to the kernel that have not been reaped.
    fn unfinished(&self) -> usize;

    /// Called between two receives while the worker spins instead of sleeping.
    fn spin(&mut self) {
        std::hint::spin_loop();
    }

    /// Sleeps until a frame arrives, `waker` is readable or the time is over.
    fn wait(&mut self, timeout: Duration, waker: BorrowedFd<'_>) -> io::Result<Wake>;

    /// Sleeps until the TX ring has room or the time is over.
    fn wait_for_room(&mut self, timeout: Duration) -> io::Result<()>;

    /// Times that a driver wanted chunks from the fill ring and found none. It may ask the kernel;
    /// called about once a second.
    fn fill_ring_empty(&mut self) -> u64;

    /// Has the driver look now at what has arrived and at the fill ring, even if it does not ask to be
    /// told, if the kernel offers a way to it, and waits a few milliseconds for frames; returns whether
    /// any came of it. For a queue that has been silent.
    fn rouse_receiver(&mut self) -> io::Result<bool>;

    /// Whether the queue is still there. Called about once a second.
    fn check(&mut self) -> io::Result<()>;

    /// Whether the interface is known to be gone. Asked when the queue has failed.
    fn interface_removed(&self) -> bool;

    /// What the port did so far.
    fn activity(&self) -> Activity;

    /// Where the chunks are.
    fn census(&mut self) -> Census;
}

/// Where packets go that belong to the kernel although they came to us.
pub trait PassPath {
    /// Hands one frame, Ethernet header first, to the kernel.
    fn pass(&mut self, frame: &[u8]) -> io::Result<()>;
}

/// A queue without a way to the kernel: every frame that should go there is refused, and the worker
/// counts it as dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPassPath;

impl PassPath for NoPassPath {
    fn pass(&mut self, _frame: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
