//! What becomes of a burst of frames.
//!
//! Three layers that can be used alone:
//!
//! 1. [`packet`]: views over bytes and checksums. Pure functions.
//! 2. [`forward`]: a [`forward::Forwarder`] takes a burst of packets and gives each a verdict. No
//!    I/O, no clock, no allocation after construction.
//! 3. [`port`], [`xsk`] and [`worker`]: the four rings of a queue behind a trait, `AF_XDP` sockets
//!    that implement it, and the pinned thread that moves frames between the two.
//!
//! [`capture`] copies packets of a worker for whoever asks to see them.
//!
//! [`service`] holds what the forwarder reads: the desired state, its compiled form, and how a new
//! one reaches the workers.
#![deny(unsafe_code)]

pub mod capture;
pub mod counters;
pub mod forward;
pub mod packet;
pub mod port;
pub mod service;
pub mod worker;
#[expect(
    unsafe_code,
    reason = "the only place that touches UMEM memory and socket options"
)]
pub mod xsk;
