//! `AF_XDP` sockets: the [`QueuePort`](crate::port::QueuePort) that real traffic takes, and what
//! belongs around it.
//!
//! - [`XskPort`]: UMEM, four rings and the socket of one queue.
//! - [`SocketProbe`]: the kernel's statistics of a socket, for others than its worker.
//! - [`Tap`]: the way back to the kernel for frames that turn out to be the kernel's.
//! - [`Interface`]: what has to be known of an interface before a socket is opened on it.
//!
//! All `unsafe` of this crate is below this module. It rests on one invariant, kept by the ledger of
//! each port: **a [`Chunk`] exists if and only if the ledger says that this chunk is in the worker's
//! hands.** Chunks are made when the RX ring names one that the kernel had, and end when they go to
//! the TX ring or the free list, so no two of them name the same memory and the kernel has none of
//! theirs. Descriptors that contradict the ledger are counted and dropped, in release builds too.

mod config;
mod error;
mod interface;
mod ledger;
mod link_request;
mod open;
mod options;
mod port;
mod probe;
mod tap;

pub use config::{
    HEAD_ROOM, OLDEST_KERNEL, SocketMode, TUNNEL_ROOM, XskConfig, chunk_size, chunk_size_under,
};
pub use error::XskError;
pub use interface::{Interface, kernel_release};
pub use port::{Chunk, XskPort};
pub use probe::{SocketProbe, SocketStatistics};
pub use tap::{Tap, TapError};
