//! Copies of packets for an operator who wants to see why they went where they went.
//!
//! A [`Monitor`] sits in a worker's loop while somebody watches; without one the loop pays a test per
//! burst. It copies the first bytes of the arriving frames before the forwarder rewrites them, and
//! once the verdicts are known keeps the copies that the [`Filter`] asks for. A [`Feed`] is the other
//! end, for a thread that writes them down.
//!
//! All memory is taken before the worker gets its monitor: a fixed number of [`Snapshot`]s goes round
//! between the two ends through two wait-free rings. A reader that is slow, or does not read at all,
//! costs the worker nothing: when no snapshot is free, packets that match are counted as lost.

mod filter;
mod monitor;
mod snapshot;

pub use filter::{Event, Filter};
pub use monitor::{Decided, Monitor};
pub use snapshot::{Feed, Happened, Snapshot};
