//! The kernel's statistics of a socket, read by others than its worker.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::options;

/// The kernel's counters of one socket since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketStatistics {
    /// Frames dropped for other reasons than a full ring, as frames too long for a chunk.
    pub rx_dropped: u64,
    /// Descriptors in the fill ring that the kernel did not accept.
    pub rx_invalid_descriptors: u64,
    /// Descriptors in the TX ring that the kernel did not accept.
    pub tx_invalid_descriptors: u64,
    /// Frames dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Times the fill ring had no chunk for a frame.
    pub fill_ring_empty: u64,
    /// Times the kernel looked into an empty TX ring.
    pub tx_ring_empty: u64,
}

#[derive(Debug)]
enum State {
    /// The socket is open; a second descriptor of it.
    Open(OwnedFd),
    /// The socket was closed with these statistics.
    Closed(SocketStatistics),
}

/// Reads the statistics of a socket, also after its worker closed it. Clones read the same socket.
#[derive(Clone, Debug)]
pub struct SocketProbe {
    state: Arc<Mutex<State>>,
}

impl SocketProbe {
    /// A probe of this socket.
    pub(super) fn new(socket: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            state: Arc::new(Mutex::new(State::Open(socket.try_clone_to_owned()?))),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Statistics now, or those at the time the socket was closed.
    pub fn statistics(&self) -> io::Result<SocketStatistics> {
        match &*self.lock() {
            State::Open(fd) => read(fd.as_fd()),
            State::Closed(last) => Ok(*last),
        }
    }

    /// Keeps the last statistics and lets go of the socket, which otherwise would stay bound.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if let State::Open(fd) = &*state {
            *state = State::Closed(read(fd.as_fd()).unwrap_or_default());
        }
    }
}

fn read(socket: BorrowedFd<'_>) -> io::Result<SocketStatistics> {
    let statistics = options::statistics(socket)?;
    Ok(SocketStatistics {
        rx_dropped: statistics.rx_dropped,
        rx_invalid_descriptors: statistics.rx_invalid_descs,
        tx_invalid_descriptors: statistics.tx_invalid_descs,
        rx_ring_full: statistics.rx_ring_full,
        fill_ring_empty: statistics.rx_fill_ring_empty_descs,
        tx_ring_empty: statistics.tx_ring_empty_descs,
    })
}
