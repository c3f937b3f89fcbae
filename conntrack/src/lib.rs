//! A flow table of fixed capacity, owned by one thread, that forgets the least recently used flow.
//!
//! It answers one question: which value did this flow get last time? Keys are flow 5-tuples, the
//! value is an opaque `u32`, and time is whatever the caller passes in, in nanoseconds. The table
//! knows neither packets nor sockets nor configuration.
//!
//! # Bursts
//!
//! A lookup is split so that a burst of packets can overlap its cache misses: compute all hashes
//! with [`FlowTable::hash`], pass each to [`FlowTable::prefetch`], then look all of them up.
//!
//! ```
//! use conntrack::{FlowKeyV4, FlowTable, Lookup};
//!
//! let mut flows = FlowTable::new(1000, [1, 2, 3, 4])?; // random seeds, in earnest
//! let key = FlowKeyV4 {
//!     source: [192, 0, 2, 10],
//!     destination: [203, 0, 113, 10],
//!     source_port: 40000_u16.to_be_bytes(),
//!     destination_port: 443_u16.to_be_bytes(),
//!     protocol: 6,
//! };
//! let hash = flows.hash(&key);
//! flows.prefetch(hash);
//! assert_eq!(flows.lookup(hash, &key, 0, None), Lookup::Miss);
//! flows.insert(hash, key, 7, 0);
//! assert_eq!(flows.lookup(hash, &key, 0, None), Lookup::Hit(7));
//! # Ok::<(), conntrack::NewError>(())
//! ```
//!
//! # Memory
//!
//! [`FlowTable::new`] allocates everything and writes to every page of it; nothing is allocated,
//! moved or rehashed afterwards. Pages belong to the NUMA node of the thread that writes to them
//! first, so a table is best built by the thread that will own it.
//!
//! # Layout
//!
//! Entries lie in a slab, linked into a list in order of use. An open-addressing index of 8-byte
//! cells, at most half full, maps hashes to entries. The index is this crate's own, not
//! `hashbrown`'s, for two reasons: the cell where a probe starts has an address that can be
//! prefetched, and removal shifts cells back instead of leaving tombstones, so a table that evicts
//! on every insertion never needs a rehash.
#![deny(unsafe_code)]

mod flow;
mod index;
mod key;
#[expect(
    unsafe_code,
    reason = "the prefetch instruction is an unsafe intrinsic"
)]
mod prefetch;
mod slab;
mod table;

pub use flow::{Flow, Insertion, Lookup};
pub use key::{FlowKey, FlowKeyV4, FlowKeyV6};
pub use table::{FlowTable, MAX_CAPACITY, NewError};
