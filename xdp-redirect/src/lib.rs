//! Loader of the eBPF programs that stand before the kernel's network stack.
//!
//! - [`Redirect`] sends the packets of VIPs to `AF_XDP` sockets and passes everything else.
//! - [`Decap`] runs on real servers and takes the outer header off encapsulated packets.
//! - [`PassProgram`] changes nothing; a veth whose peer transmits by XDP needs one on its own end.
//!
//! The objects are committed in `objects/` and embedded here; `cargo xtask bpf` builds them from
//! `ebpf/`. A program is attached through a link that this process holds, so the kernel detaches it
//! when the process ends, however it ends. Nothing here starts a thread: interfaces are looked up
//! in the network namespace of the calling thread.
//!
//! Needs Linux 5.15 with `CAP_NET_ADMIN` and `CAP_BPF`.
#![forbid(unsafe_code)]

mod attach;
mod counters;
mod decap;
mod error;
mod interface;
mod mode;
mod object;
mod pass;
mod redirect;
mod test_run;
mod vips;

pub use counters::{DecapCounters, RedirectCounters, Traffic};
pub use decap::{Decap, DecapError, DecapOptions};
pub use error::AttachError;
pub use interface::{AttachedProgram, attached_program};
pub use mode::{AttachedMode, UnknownMode, XdpMode};
pub use pass::PassProgram;
pub use redirect::{QueueError, Redirect};
pub use test_run::{Ingress, TestRun, Verdict};
pub use vips::{VipEntry, VipError};
pub use xdp_layout::{
    DEFAULT_GUE_PORT, MAX_DECAP_DESTINATIONS, MAX_QUEUES, MAX_VIPS, Tag,
    counter::{DecapCounter, RedirectCounter},
};
