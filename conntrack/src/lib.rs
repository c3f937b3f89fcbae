//! A flow table of fixed capacity, owned by one thread, that forgets flows when it is full; and beside
//! it a [`SharedTable`], in which threads leave flows for each other.
//!
//! It answers one question: which value did this flow get last time? Keys are flow 5-tuples, the
//! value is an opaque `u32`, and time is whatever the caller passes in, in nanoseconds. The table
//! knows neither packets nor sockets nor configuration.
//!
//! # Bursts
//!
//! A lookup is split so that a burst of packets can overlap its cache misses: compute all hashes
//! with [`FlowTable::hash`], pass each to [`FlowTable::prefetch`], then each to
//! [`FlowTable::prefetch_entry`], then ask for each with [`FlowTable::hit_at`], and
//! [`FlowTable::lookup`] those that are not where the hint says.
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
//! let hint = flows.prefetch(hash);
//! let hint = flows.prefetch_entry(hint, hash);
//! assert_eq!(flows.hit_at(hint, &key, 0, None), None);
//! assert_eq!(flows.lookup(hash, &key, 0, None), Lookup::Miss);
//! flows.insert_missed(hash, key, 7, 0);
//! assert_eq!(flows.lookup(hash, &key, 0, None), Lookup::Hit(7));
//! # Ok::<(), conntrack::NewError>(())
//! ```
//!
//! # Memory
//!
//! [`FlowTable::new`] allocates everything and writes to every page of it; nothing is allocated,
//! moved or rehashed afterwards. Pages belong to the NUMA node of the thread that writes to them
//! first, so a table is best built by the thread that will own it. The kernel is asked for huge
//! pages. An IPv4 flow of the capacity takes 39 bytes, an IPv6 flow 63.
//!
//! # Layout
//!
//! A bucket is one cache line: tags (parts of hashes) and stamps of sixteen slots. Behind it lie their
//! keys and values, in entries of 24 or 48 bytes, so that a look-up compares sixteen tags with a few
//! vector instructions and then reads one entry, mostly of the same page. A flow can be in either of
//! two buckets, which its hash names. It goes into the first unless that is crowded, else into the
//! one with more room (Azar et al., "Balanced Allocations", 1994; Vöcking's variants). What counts as
//! crowded and how many slots there are decide how many flows are found at the second look only, and how
//! many find no room: [`FlowKey::CROWDED`] has the figures.
//!
//! # Which flow goes
//!
//! Where both buckets are full, a new flow takes the place of another. First goes one that was not
//! used while a whole capacity of other flows proved themselves: a strict order of use would have
//! dropped it by then. Then one on trial, which was never used after it came, the oldest first; so a
//! flood of packets that open flows and never use them fights over the slots that established flows
//! leave, and takes none of theirs. Last goes the proved flow that was not used for longest.
#![deny(unsafe_code)]

mod bucket;
mod entry;
mod flow;
mod key;
#[expect(unsafe_code, reason = "advice about memory takes a raw pointer")]
mod memory;
#[expect(
    unsafe_code,
    reason = "the prefetch instruction is an unsafe intrinsic"
)]
mod prefetch;
mod shared;
mod table;
#[expect(unsafe_code, reason = "vector instructions are unsafe intrinsics")]
mod ways;

pub use flow::{Flow, Insertion, Lookup};
pub use key::{AnyKey, FlowKey, FlowKeyV4, FlowKeyV6, SharedKey};
pub use memory::filled as filled_array;
pub use shared::{SharedFlow, SharedInsertion, SharedTable};
pub use table::{FlowTable, Hint, MAX_CAPACITY, NewError};
