//! A queue in memory, with a handle that plays kernel, driver and wire.
//!
//! [`pair`] gives a [`MemoryPort`] for the worker and a [`MemoryNic`] for the test. The port behaves
//! as a copy-mode socket does: rings of fixed size with 32-bit indices, frames that leave only when
//! the kernel is kicked, at most [`MemoryConfig::kick_budget`] for each kick. The other end decides
//! when frames arrive and complete, which errors kicks return, and how the driver misbehaves: as in the
//! kernel, a kick does not reach a driver that does not ask for it.

mod nic;
mod ring;

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arrayvec::ArrayVec;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags},
    sys::eventfd::{EfdFlags, EventFd},
};

pub use nic::{Link, MemoryNic, Refused};
pub use ring::Ring;

use super::{
    Activity, Census, Outgoing, QueuePort, Received, Wake,
    kick::{Drained, KickTarget, drain, suggests_loss},
    sleep::poll_for,
};
use crate::forward::BURST;

/// Bytes in front of a received frame, as in a chunk of a copy-mode socket.
const HEAD_ROOM: usize = 256;

/// Sizes of a queue in memory. Rings are rounded up to powers of two.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// Chunks.
    pub frames: usize,
    /// Bytes of a chunk, 256 of them in front of the received bytes.
    pub chunk_size: usize,
    /// Slots of the fill ring.
    pub fill_ring: usize,
    /// Slots of the RX ring.
    pub rx_ring: usize,
    /// Slots of the TX ring.
    pub tx_ring: usize,
    /// Slots of the completion ring.
    pub completion_ring: usize,
    /// Frames one kick moves at most.
    pub kick_budget: usize,
    /// Where all ring indices start.
    pub first_index: u32,
    /// Whether [`QueuePort::wait_for_room`] takes time or returns at once, as if the time were over.
    pub real_time: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            frames: 1024,
            chunk_size: 2048,
            fill_ring: 2048,
            rx_ring: 512,
            tx_ring: 512,
            completion_ring: 1024,
            kick_budget: 32,
            first_index: 0,
            real_time: true,
        }
    }
}

/// A chunk of a [`MemoryPort`] in the worker's hands.
#[derive(Debug)]
#[must_use = "a chunk that is dropped is lost for the queue"]
pub struct MemoryChunk {
    buffer: Box<[u8]>,
    queue: u64,
}

/// A frame on its way: chunk and length.
type Frame = (MemoryChunk, usize);

/// Everything outside the worker's hands and free list.
#[derive(Debug)]
struct Shared {
    fill: Ring<MemoryChunk>,
    rx: Ring<Frame>,
    tx: Ring<Frame>,
    completion: Ring<MemoryChunk>,
    /// Taken by the driver, which sends them at the next kick.
    held: VecDeque<Frame>,
    /// Sent; the test has not taken them yet.
    wire: VecDeque<Frame>,
    /// Taken by the test; not in the completion ring yet.
    done: VecDeque<MemoryChunk>,
    /// The worker sleeps and wants to be told of the next frame.
    sleeping: bool,
    kick_budget: usize,
    kick_errors: VecDeque<Errno>,
    link: Link,
    hold_last: usize,
    withhold_completions: bool,
    discard: bool,
    sent: u64,
    driver: Driver,
    fill_ring_empty: u64,
    /// Received by the card; the driver has not looked yet.
    in_card: VecDeque<Vec<u8>>,
}

/// Misbehaviour of the driver.
#[derive(Debug, Default)]
struct Driver {
    /// It does not ask to be told to send.
    claims_to_send: bool,
    hearing: Hearing,
    /// The kernel does not know its poll function.
    out_of_reach: bool,
}

/// Whether the driver looks at the fill ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hearing {
    /// For each frame.
    #[default]
    Good,
    /// Once more; then it takes the ring for empty and does not look until its poll function runs.
    GoesDeaf,
    /// Not until its poll function runs.
    Deaf,
}

impl Shared {
    /// What `sendto` does while the driver asks to be told.
    fn kick(&mut self) -> Result<(), Errno> {
        match self.link {
            Link::Up => {}
            Link::Down => return Err(Errno::ENETDOWN),
            Link::Broken => return Err(Errno::EBADF),
            Link::Gone => return Err(Errno::ENXIO),
        }
        if let Some(error) = self.kick_errors.pop_front() {
            return Err(error);
        }
        self.transmit();
        if self.tx.is_empty() {
            Ok(())
        } else {
            Err(Errno::EAGAIN)
        }
    }

    /// Sends what the driver held, takes up to the budget from the TX ring.
    fn transmit(&mut self) {
        while let Some(frame) = self.held.pop_front() {
            self.send(frame);
        }
        for _ in 0..self.kick_budget {
            let Some(frame) = self.tx.pop() else {
                break;
            };
            self.held.push_back(frame);
        }
        while self.held.len() > self.hold_last {
            if let Some(frame) = self.held.pop_front() {
                self.send(frame);
            }
        }
    }

    /// What the driver's poll function does, if the kernel knows it; returns whether it does.
    fn poll_driver(&mut self) -> bool {
        if self.driver.out_of_reach || self.link != Link::Up {
            return false;
        }
        self.driver.hearing = Hearing::Good;
        while let Some(frame) = self.in_card.pop_front() {
            if self.arrive(&frame).is_err() {
                break;
            }
        }
        self.transmit();
        true
    }

    /// Moves a frame to the RX ring, in a chunk from the fill ring.
    fn arrive(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        if self.link != Link::Up {
            return Err(Refused::LinkDown);
        }
        if self.rx.free() == 0 {
            return Err(Refused::RxRingFull);
        }
        let hearing = self.driver.hearing;
        let chunk = match hearing {
            Hearing::Good => self.fill.pop(),
            Hearing::GoesDeaf | Hearing::Deaf => None,
        };
        let Some(mut chunk) = chunk else {
            // The kernel counts when the driver looks, not when a frame arrives.
            if hearing != Hearing::Deaf {
                self.fill_ring_empty += 1;
            }
            if hearing == Hearing::GoesDeaf {
                self.driver.hearing = Hearing::Deaf;
            }
            return Err(Refused::FillRingEmpty);
        };
        let place = chunk.buffer.get_mut(HEAD_ROOM..HEAD_ROOM + bytes.len());
        let refused = if let Some(place) = place {
            place.copy_from_slice(bytes);
            self.rx
                .push((chunk, bytes.len()))
                .err()
                .map(|(chunk, _)| (chunk, Refused::RxRingFull))
        } else {
            Some((chunk, Refused::TooLong))
        };
        if let Some((chunk, reason)) = refused {
            let pushed = self.fill.push(chunk);
            debug_assert!(pushed.is_ok(), "the slot was taken above");
            return Err(reason);
        }
        Ok(())
    }

    fn send(&mut self, frame: Frame) {
        self.sent += 1;
        if self.discard {
            self.done.push_back(frame.0);
            self.complete(usize::MAX);
        } else {
            self.wire.push_back(frame);
        }
    }

    /// Moves up to `max` finished chunks to the completion ring; returns how many moved.
    fn complete(&mut self, max: usize) -> usize {
        let mut moved = 0;
        while moved < max && self.completion.free() > 0 {
            let Some(chunk) = self.done.pop_front() else {
                break;
            };
            if let Err(chunk) = self.completion.push(chunk) {
                self.done.push_front(chunk);
                break;
            }
            moved += 1;
        }
        moved
    }

    fn in_transmission(&self) -> usize {
        self.tx.len() + self.held.len() + self.wire.len() + self.done.len()
    }
}

/// What the two ends share.
#[derive(Debug)]
struct Queue {
    /// Tells this queue's chunks from others'.
    number: u64,
    shared: Mutex<Shared>,
    /// Readable when a frame arrived while the worker slept.
    arrival: EventFd,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The worker's end of a queue in memory.
#[derive(Debug)]
pub struct MemoryPort {
    queue: Arc<Queue>,
    total: usize,
    free: Vec<MemoryChunk>,
    hands: usize,
    real_time: bool,
    activity: Activity,
}

/// A queue: the worker's end and the other one. All chunks are on the free list.
pub fn pair(config: &MemoryConfig) -> io::Result<(MemoryPort, MemoryNic)> {
    static QUEUES: AtomicU64 = AtomicU64::new(0);
    let number = QUEUES.fetch_add(1, Ordering::Relaxed);
    let first = config.first_index;
    let queue = Arc::new(Queue {
        number,
        shared: Mutex::new(Shared {
            fill: Ring::new(config.fill_ring, first),
            rx: Ring::new(config.rx_ring, first),
            tx: Ring::new(config.tx_ring, first),
            completion: Ring::new(config.completion_ring, first),
            held: VecDeque::with_capacity(config.frames),
            wire: VecDeque::with_capacity(config.frames),
            done: VecDeque::with_capacity(config.frames),
            sleeping: false,
            kick_budget: config.kick_budget,
            kick_errors: VecDeque::new(),
            link: Link::Up,
            hold_last: 0,
            withhold_completions: false,
            discard: false,
            sent: 0,
            driver: Driver::default(),
            fill_ring_empty: 0,
            in_card: VecDeque::new(),
        }),
        arrival: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
    });
    let free = (0..config.frames)
        .map(|_| MemoryChunk {
            buffer: vec![0; config.chunk_size.max(HEAD_ROOM)].into_boxed_slice(),
            queue: number,
        })
        .collect();
    let port = MemoryPort {
        queue: Arc::clone(&queue),
        total: config.frames,
        free,
        hands: 0,
        real_time: config.real_time,
        activity: Activity::default(),
    };
    Ok((port, MemoryNic::new(queue)))
}

/// The TX ring as the kick policy sees it.
struct Transmission<'a> {
    shared: &'a mut Shared,
    kicks: &'a mut u64,
}

impl KickTarget for Transmission<'_> {
    fn pending(&mut self) -> usize {
        self.shared.tx.len()
    }

    fn needs_kick(&self) -> bool {
        !self.shared.driver.claims_to_send
    }

    fn kick(&mut self) -> io::Result<()> {
        *self.kicks += 1;
        Ok(self.shared.kick()?)
    }
}

impl MemoryPort {
    fn check_owner(&self, chunk: &MemoryChunk) {
        assert_eq!(
            chunk.queue, self.queue.number,
            "the chunk belongs to another queue"
        );
    }
}

impl QueuePort for MemoryPort {
    type Chunk = MemoryChunk;

    fn receive(&mut self, out: &mut ArrayVec<Received<MemoryChunk>, BURST>) -> usize {
        let mut shared = self.queue.lock();
        let mut received = 0;
        while out.remaining_capacity() > 0 {
            let Some((chunk, len)) = shared.rx.pop() else {
                break;
            };
            out.push(Received { chunk, len });
            received += 1;
        }
        self.hands += received;
        received
    }

    fn bytes<'a>(&'a self, chunk: &'a mut MemoryChunk) -> &'a mut [u8] {
        self.check_owner(chunk);
        &mut chunk.buffer[HEAD_ROOM..]
    }

    fn transmit(&mut self, frames: &mut ArrayVec<Outgoing<MemoryChunk>, BURST>) -> usize {
        for frame in &*frames {
            self.check_owner(&frame.chunk);
        }
        let mut shared = self.queue.lock();
        let accepted = frames.len().min(shared.tx.free());
        for frame in frames.drain(..accepted) {
            let pushed = shared.tx.push((frame.chunk, usize::from(frame.len)));
            debug_assert!(pushed.is_ok(), "room was checked");
        }
        self.hands -= accepted;
        accepted
    }

    fn recycle(&mut self, chunk: MemoryChunk) {
        self.check_owner(&chunk);
        self.hands -= 1;
        self.free.push(chunk);
    }

    fn reap(&mut self) -> usize {
        let mut shared = self.queue.lock();
        let before = self.free.len();
        while let Some(chunk) = shared.completion.pop() {
            self.free.push(chunk);
        }
        if !shared.withhold_completions {
            shared.complete(usize::MAX);
        }
        self.free.len() - before
    }

    fn refill(&mut self) {
        let mut shared = self.queue.lock();
        while let Some(chunk) = self.free.pop() {
            if let Err(chunk) = shared.fill.push(chunk) {
                self.free.push(chunk);
                self.activity.fill_ring_full += 1;
                break;
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut shared = self.queue.lock();
        let drained = drain(&mut Transmission {
            shared: &mut shared,
            kicks: &mut self.activity.tx_kicks,
        });
        drop(shared);
        match drained {
            Drained::Refused(Some(errno)) if suggests_loss(errno) => self.check(),
            Drained::Refused(_) | Drained::Empty => Ok(()),
        }
    }

    fn kick(&mut self) -> io::Result<()> {
        let result = {
            let mut shared = self.queue.lock();
            if shared.driver.claims_to_send {
                return Ok(());
            }
            shared.kick()
        };
        self.activity.tx_kicks += 1;
        match result {
            Err(errno) if suggests_loss(errno) => self.check(),
            Err(_) | Ok(()) => Ok(()),
        }
    }

    fn rouse_sender(&mut self) -> io::Result<bool> {
        self.kick()?;
        let mut shared = self.queue.lock();
        Ok(shared.poll_driver() || !shared.driver.claims_to_send)
    }

    fn unfinished(&self) -> usize {
        let shared = self.queue.lock();
        shared.in_transmission() + shared.completion.len()
    }

    fn wait(&mut self, timeout: Duration, waker: BorrowedFd<'_>) -> io::Result<Wake> {
        {
            let mut shared = self.queue.lock();
            if !shared.rx.is_empty() {
                return Ok(Wake {
                    received: true,
                    called: false,
                });
            }
            shared.sleeping = true;
        }
        let mut fds = [
            PollFd::new(self.queue.arrival.as_fd(), PollFlags::POLLIN),
            PollFd::new(waker, PollFlags::POLLIN),
        ];
        poll_for(&mut fds, timeout)?;
        let [arrival, waker] = fds.map(|fd| fd.any().unwrap_or(false));
        self.queue.lock().sleeping = false;
        if arrival {
            self.queue.arrival.read()?;
        }
        Ok(Wake {
            received: arrival,
            called: waker,
        })
    }

    fn wait_for_room(&mut self, timeout: Duration) -> io::Result<()> {
        if self.real_time && self.queue.lock().tx.free() == 0 {
            std::thread::sleep(timeout);
        }
        Ok(())
    }

    fn fill_ring_empty(&mut self) -> u64 {
        self.queue.lock().fill_ring_empty
    }

    fn rouse_receiver(&mut self) -> io::Result<bool> {
        let mut shared = self.queue.lock();
        if !shared.rx.is_empty() || !shared.poll_driver() {
            return Ok(false);
        }
        self.activity.fill_kicks += 1;
        Ok(!shared.rx.is_empty())
    }

    fn check(&mut self) -> io::Result<()> {
        match self.queue.lock().link {
            Link::Up | Link::Down => Ok(()),
            Link::Broken => Err(Errno::EBADF.into()),
            Link::Gone => Err(Errno::ENXIO.into()),
        }
    }

    fn interface_removed(&self) -> bool {
        self.queue.lock().link == Link::Gone
    }

    fn activity(&self) -> Activity {
        self.activity
    }

    fn census(&mut self) -> Census {
        let shared = self.queue.lock();
        Census {
            total: self.total,
            free: self.free.len(),
            fill: shared.fill.len(),
            rx: shared.rx.len(),
            hands: self.hands,
            tx: shared.in_transmission(),
            completion: shared.completion.len(),
        }
    }
}
