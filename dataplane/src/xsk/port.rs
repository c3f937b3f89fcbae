//! The four rings and the memory of one queue, while they are used.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    slice,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use arrayvec::ArrayVec;
use nix::{
    errno::Errno,
    net::if_::if_nameindex,
    poll::{PollFd, PollFlags},
    sys::socket::{MsgFlags, getsockopt, recv, send, sockopt::SocketError},
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

use super::{
    config::XskConfig,
    error::XskError,
    ledger::{Arrival, Ledger},
    open::{Memory, Opened, open},
    options,
    probe::SocketProbe,
};
use crate::{
    forward::BURST,
    port::{
        Activity, Census, Outgoing, QueuePort, Received, Wake,
        kick::{Drained, KickTarget, drain, suggests_loss},
        sleep::poll_for,
    },
};

/// How long a driver that has just been called may take until frames are there.
const ANSWER: Duration = Duration::from_millis(5);

/// A chunk of an [`XskPort`]'s memory in the worker's hands.
///
/// Neither `Clone` nor `Copy`, unlike the descriptor inside, and made in one place only.
#[derive(Debug)]
#[must_use = "a chunk that is dropped is lost for the queue"]
pub struct Chunk {
    descriptor: FrameDesc,
    /// Number of the port whose memory the descriptor means.
    port: u64,
}

impl Chunk {
    fn check_owner(&self, port: u64) {
        assert_eq!(self.port, port, "the chunk belongs to another port");
    }
}

/// An `AF_XDP` socket with memory of its own.
#[derive(Debug)]
pub struct XskPort {
    /// Index of the interface.
    interface: u32,
    number: u64,
    umem: Umem,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    tx_size: usize,
    /// Free chunks; never grows beyond its first capacity.
    free: Vec<FrameDesc>,
    ledger: Ledger,
    /// Descriptors on their way between a ring and the tables.
    scratch: Box<[FrameDesc; BURST]>,
    activity: Activity,
    probe: SocketProbe,
    zero_copy: bool,
    huge_pages: bool,
    busy_poll: bool,
    memory: usize,
    /// As the kernel last said.
    fill_ring_empty: u64,
    /// The error that said the interface is gone; the kernel says so only once.
    gone: Option<Errno>,
}

impl XskPort {
    /// Opens a socket on the interface's queue. No frame arrives before an XDP program redirects to
    /// it, and none before the worker's first [`QueuePort::refill`].
    ///
    /// Waits up to [`XskConfig::busy_retry`] when the queue is busy.
    pub fn open(config: &XskConfig) -> Result<Self, XskError> {
        static PORTS: AtomicU64 = AtomicU64::new(0);

        let Opened {
            interface,
            memory,
            chunk_size,
            tx,
            rx,
            fill,
            completion,
            zero_copy,
            probe,
        } = open(config)?;
        let Memory {
            umem,
            descriptors,
            bytes,
            huge_pages,
        } = memory;
        let chunks = descriptors.len();
        let frames = config.frames;
        let ring_bytes = 8 * (XskConfig::fill_ring(frames) + XskConfig::completion_ring(frames))
            + 2 * 16 * XskConfig::traffic_ring(frames);
        let table_bytes = chunks * (size_of::<FrameDesc>() + 1);
        Ok(Self {
            interface,
            number: PORTS.fetch_add(1, Ordering::Relaxed),
            umem,
            rx,
            tx,
            fill,
            completion,
            tx_size: XskConfig::traffic_ring(frames) as usize,
            free: descriptors,
            ledger: Ledger::new(chunks, chunk_size),
            scratch: Box::new([FrameDesc::default(); BURST]),
            activity: Activity::default(),
            probe,
            zero_copy,
            huge_pages,
            busy_poll: config.busy_poll,
            memory: bytes + ring_bytes as usize + table_bytes,
            fill_ring_empty: 0,
            gone: None,
        })
    }

    /// The socket, for the XDP program's map.
    pub fn socket_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the queues in `self` exist.
        unsafe { BorrowedFd::borrow_raw(self.raw_fd()) }
    }

    fn raw_fd(&self) -> RawFd {
        self.rx.fd().as_raw_fd()
    }

    /// Whether the device reads and writes the socket's memory itself.
    pub const fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Whether the memory is made of huge pages.
    pub const fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// Bytes of frames, rings and tables.
    pub const fn memory_bytes(&self) -> usize {
        self.memory
    }

    /// Reads the kernel's statistics of this socket from other threads.
    pub fn probe(&self) -> SocketProbe {
        self.probe.clone()
    }

    /// The error that ended the queue, if a kick's error suggests one.
    fn after_kick(&mut self, error: Errno) -> io::Result<()> {
        if suggests_loss(error) {
            self.check()
        } else {
            Ok(())
        }
    }

    /// Tells the driver to look at the fill ring, if it asks to be told: else the kernel does not pass
    /// the call on (`cached_need_wakeup` in `net/xdp/xsk.c`).
    fn wake_receiver(&mut self) {
        self.activity.fill_kicks += 1;
        // What it returns says nothing that the next check will not find out.
        let _ = self.call();
    }

    /// Runs the driver's poll function for this queue, whatever the driver asks for, and returns whether
    /// there is a way to.
    ///
    /// Busy polling is that way: it comes before the kernel looks at what the driver asks for. The
    /// function is that of the receive queue. In mlx5, which does not ask to be told to send while frames
    /// are on their way, it serves transmission too; igb and virtio-net always ask.
    fn poll_driver(&self) -> bool {
        let socket = self.socket_fd();
        if !options::knows_driver(socket).unwrap_or(false) {
            return false;
        }
        // `net.core.busy_read` can have turned it on, too.
        if options::busy_polls(socket).unwrap_or(false) {
            return self.call().is_ok();
        }
        if options::set_busy_poll(socket, true).is_err() {
            return false;
        }
        let is_asked = self.call().is_ok();
        // Less than before is always allowed.
        let _ = options::set_busy_poll(socket, false);
        is_asked
    }

    /// A call into the socket that moves nothing by itself.
    fn call(&self) -> nix::Result<usize> {
        recv(self.raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT)
    }
}

impl Drop for XskPort {
    fn drop(&mut self) {
        // The probe's descriptor would keep the queue bound.
        self.probe.close();
    }
}

/// The TX ring as the kick policy sees it.
struct Transmission<'a> {
    tx: &'a mut TxQueue,
    size: usize,
    kicks: &'a mut u64,
}

impl KickTarget for Transmission<'_> {
    fn pending(&mut self) -> usize {
        self.size.saturating_sub(self.tx.nb_free_exact() as usize)
    }

    fn needs_kick(&self) -> bool {
        self.tx.needs_wakeup()
    }

    fn kick(&mut self) -> io::Result<()> {
        *self.kicks += 1;
        send(self.tx.fd().as_raw_fd(), &[], MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }
}

/// Asks the processor for the two cache lines that hold room and headers.
#[inline]
fn prefetch_headers(umem: &Umem, descriptor: &FrameDesc) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the ledger just gave this chunk to the worker, and nothing is read through the
        // slice: only its address is used.
        let first = unsafe { umem.data(descriptor) }.contents().as_ptr();
        // SAFETY: a hint; it reads nothing and cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(first.cast()) };
        // SAFETY: as above, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(64).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (umem, descriptor);
}

impl QueuePort for XskPort {
    type Chunk = Chunk;

    fn receive(&mut self, out: &mut ArrayVec<Received<Chunk>, BURST>) -> usize {
        let wanted = out.remaining_capacity();
        // SAFETY: the ring is this UMEM's. What it says is checked against the ledger below before
        // anything is done with it.
        let count = unsafe { self.rx.consume(&mut self.scratch[..wanted]) };
        let before = out.len();
        for &descriptor in &self.scratch[..count] {
            let len = descriptor.lengths().data();
            match self.ledger.receive(descriptor.addr(), len) {
                Arrival::Good => {
                    prefetch_headers(&self.umem, &descriptor);
                    // On a copy: what is written by parts and then read as a whole has to wait for the cache.
                    let mut descriptor = descriptor;
                    descriptor.set_options(0);
                    let chunk = Chunk {
                        descriptor,
                        port: self.number,
                    };
                    out.push(Received { chunk, len });
                }
                Arrival::BadLength => {
                    self.activity.invalid_descriptors += 1;
                    self.free.push(descriptor);
                }
                Arrival::Unknown => self.activity.invalid_descriptors += 1,
            }
        }
        out.len() - before
    }

    fn bytes<'a>(&'a self, chunk: &'a mut Chunk) -> &'a mut [u8] {
        chunk.check_owner(self.number);
        // SAFETY: the descriptor is inside this UMEM (the ledger checked it, the owner was checked
        // now) and its bytes are accessed by nobody else: a `Chunk` exists only while the ledger
        // says that the chunk is in the worker's hands, there is one per chunk, and it is borrowed
        // mutably for as long as the slice lives.
        let mut data = unsafe { self.umem.data_mut(&mut chunk.descriptor) };
        // The segment's length counts as its contents; the position stops at the chunk's end.
        data.cursor().set_pos(usize::MAX);
        let bytes = data.contents_mut();
        let (first, len) = (bytes.as_mut_ptr(), bytes.len());
        // SAFETY: the same bytes, for the lifetime that `data_mut` gave them; `DataMut` offers them
        // only for its own. It is not used again.
        unsafe { slice::from_raw_parts_mut(first, len) }
    }

    fn transmit(&mut self, frames: &mut ArrayVec<Outgoing<Chunk>, BURST>) -> usize {
        if frames.is_empty() {
            return 0;
        }
        let room = self.tx.nb_free(frames.len() as u32) as usize;
        let accepted = frames.len().min(room);
        for (frame, slot) in frames.iter_mut().zip(&mut self.scratch[..accepted]) {
            frame.chunk.check_owner(self.number);
            // On a copy, as in `receive`.
            let mut descriptor = frame.chunk.descriptor;
            // SAFETY: as in `bytes`: a chunk in the worker's hands, borrowed mutably. Only the
            // length in the descriptor is changed.
            let mut data = unsafe { self.umem.data_mut(&mut descriptor) };
            data.cursor().set_pos(usize::from(frame.len));
            *slot = descriptor;
        }
        // SAFETY: the descriptors are of this UMEM, and the chunks they name are given up below: the
        // worker's tokens end here and the ledger has the kernel as their holder.
        let produced = unsafe { self.tx.produce(&self.scratch[..accepted]) };
        for frame in frames.drain(..produced) {
            self.ledger.send(frame.chunk.descriptor.addr());
        }
        produced
    }

    fn recycle(&mut self, chunk: Chunk) {
        chunk.check_owner(self.number);
        self.ledger.recycle(chunk.descriptor.addr());
        self.free.push(chunk.descriptor);
    }

    fn reap(&mut self) -> usize {
        let before = self.free.len();
        loop {
            // SAFETY: the ring is this UMEM's. Addresses are checked against the ledger below.
            let count = unsafe { self.completion.consume(&mut self.scratch[..]) };
            for descriptor in &self.scratch[..count] {
                if self.ledger.complete(descriptor.addr()) {
                    self.free.push(*descriptor);
                } else {
                    self.activity.invalid_descriptors += 1;
                }
            }
            if count < BURST {
                return self.free.len() - before;
            }
        }
    }

    fn refill(&mut self) {
        if !self.free.is_empty() {
            let wanted = self.free.len();
            let count = wanted.min(self.fill.nb_free(wanted as u32) as usize);
            let first = self.free.len() - count;
            // SAFETY: free chunks of this UMEM: no `Chunk` names them, the kernel has none of them,
            // and they leave the free list below.
            let produced = unsafe { self.fill.produce(&self.free[first..]) };
            for descriptor in self.free.drain(self.free.len() - produced..) {
                self.ledger.fill(descriptor.addr());
            }
            if produced < wanted {
                self.activity.fill_ring_full += 1;
            }
        }
        if self.ledger.kernel() > 0 && self.fill.needs_wakeup() {
            self.wake_receiver();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let drained = drain(&mut Transmission {
            tx: &mut self.tx,
            size: self.tx_size,
            kicks: &mut self.activity.tx_kicks,
        });
        match drained {
            Drained::Refused(Some(errno)) => self.after_kick(errno),
            Drained::Refused(None) | Drained::Empty => Ok(()),
        }
    }

    fn kick(&mut self) -> io::Result<()> {
        if !self.tx.needs_wakeup() {
            return Ok(());
        }
        self.activity.tx_kicks += 1;
        match send(self.raw_fd(), &[], MsgFlags::MSG_DONTWAIT) {
            Err(errno) => self.after_kick(errno),
            Ok(_) => Ok(()),
        }
    }

    fn rouse_sender(&mut self) -> io::Result<bool> {
        let asks = self.tx.needs_wakeup();
        self.kick()?;
        Ok(self.poll_driver() || asks)
    }

    fn unfinished(&self) -> usize {
        self.ledger.transmit()
    }

    fn spin(&mut self) {
        if self.busy_poll {
            // As any call into the socket, it polls the device.
            let _ = self.call();
        } else {
            std::hint::spin_loop();
        }
    }

    fn wait(&mut self, timeout: Duration, waker: BorrowedFd<'_>) -> io::Result<Wake> {
        let mut fds = [
            PollFd::new(self.socket_fd(), PollFlags::POLLIN),
            PollFd::new(waker, PollFlags::POLLIN),
        ];
        poll_for(&mut fds, timeout)?;
        let [socket, waker] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        self.check_events(socket)?;
        Ok(Wake {
            received: socket.contains(PollFlags::POLLIN),
            called: !waker.is_empty(),
        })
    }

    fn wait_for_room(&mut self, timeout: Duration) -> io::Result<()> {
        let mut fds = [PollFd::new(self.socket_fd(), PollFlags::POLLOUT)];
        poll_for(&mut fds, timeout)?;
        let [socket] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        self.check_events(socket)
    }

    fn fill_ring_empty(&mut self) -> u64 {
        // Where the kernel copies it takes chunks itself, when it has a frame: no driver waits for any.
        if !self.zero_copy {
            return 0;
        }
        // What cannot be asked any more has not risen.
        if let Ok(statistics) = options::statistics(self.socket_fd()) {
            self.fill_ring_empty = statistics.rx_fill_ring_empty_descs;
        }
        self.fill_ring_empty
    }

    fn rouse_receiver(&mut self) -> io::Result<bool> {
        // What is there already came without.
        if self.rx.nb_avail_exact() > 0 || !self.poll_driver() {
            return Ok(false);
        }
        self.activity.fill_kicks += 1;
        let mut fds = [PollFd::new(self.socket_fd(), PollFlags::POLLIN)];
        poll_for(&mut fds, ANSWER)?;
        let [socket] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        self.check_events(socket)?;
        Ok(socket.contains(PollFlags::POLLIN))
    }

    fn check(&mut self) -> io::Result<()> {
        if self.gone.is_none() {
            self.gone = match getsockopt(&self.socket_fd(), SocketError) {
                Ok(0) => None,
                Ok(error) => Some(Errno::from_raw(error)),
                Err(error) => Some(error),
            };
        }
        self.gone.map_or(Ok(()), |error| Err(error.into()))
    }

    fn interface_removed(&self) -> bool {
        // By index: one that was removed and made again has another. A list that is not to be had says
        // nothing.
        if_nameindex().is_ok_and(|all| all.iter().all(|other| other.index() != self.interface))
    }

    fn activity(&self) -> Activity {
        self.activity
    }

    fn census(&mut self) -> Census {
        let rx = (self.rx.nb_avail_exact() as usize).min(self.ledger.kernel());
        let completion = (self.completion.nb_avail_exact() as usize).min(self.ledger.transmit());
        Census {
            total: self.ledger.total(),
            free: self.free.len(),
            fill: self.ledger.kernel() - rx,
            rx,
            hands: self.ledger.hands(),
            tx: self.ledger.transmit() - completion,
            completion,
        }
    }
}

impl XskPort {
    /// An error event on the socket would end every sleep at once, so it ends the queue.
    fn check_events(&mut self, events: PollFlags) -> io::Result<()> {
        let errors = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        if events.intersects(errors) {
            self.check()?;
            return Err(io::Error::other("poll reports an error on the socket"));
        }
        Ok(())
    }
}
