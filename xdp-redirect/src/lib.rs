//! Loader of the eBPF programs that stand before the kernel's network stack.
//!
//! - [`Redirect`] sends the packets of VIPs, and tunnels to decap destinations, to `AF_XDP` sockets
//!   and passes everything else.
//! - [`Balancer`] does the whole job in the kernel, without sockets.
//! - [`BalancerTestBed`] measures what its decisions cost.
//! - [`Decap`] runs on real servers and takes the outer header off encapsulated packets.
//! - [`HealthCheck`] encapsulates what this host sends with certain marks.
//! - [`PassProgram`] changes nothing; a veth whose peer transmits by XDP needs one on its own end.
//! - [`Generator`], [`ReflectProgram`] and [`CountProgram`] are for benchmarks.
//!
//! The objects are committed in `objects/` and embedded here; `cargo xtask bpf` builds them from
//! `ebpf/`. A program is attached through a link that this process holds, so the kernel detaches it
//! when the process ends, however it ends; the exception is [`TcHook::Filter`]. Nothing here starts a thread: interfaces are looked up
//! in the network namespace of the calling thread.
//!
//! Needs Linux 5.15 with `CAP_NET_ADMIN` and `CAP_BPF`.
#![forbid(unsafe_code)]

mod attach;
mod balancer;
mod balancer_counters;
mod clsact;
mod count;
mod counters;
mod decap;
mod error;
mod generator;
mod health_check;
mod interface;
mod loaded;
mod mode;
mod object;
mod pass;
mod redirect;
mod reflect;
mod tc;
mod test_bed;
mod test_run;
mod tunnels;
mod vips;

pub use balancer::{Balancer, BalancerError, BalancerOptions, KernelFlow};
pub use balancer_counters::{BalancerCounters, FlowTraffic};
pub use count::{CountProgram, Latencies};
pub use counters::{DecapCounters, HealthCheckCounters, RedirectCounters, Traffic};
pub use decap::{Decap, DecapError, DecapOptions};
pub use error::AttachError;
pub use generator::{Generator, GeneratorLoad, GeneratorRunner, Pace};
pub use health_check::{HealthCheck, HealthCheckError, HealthCheckOptions};
pub use interface::{AttachedProgram, attached_program};
pub use loaded::loaded;
pub use mode::{AttachedMode, UnknownMode, XdpMode};
pub use pass::PassProgram;
pub use redirect::{QueueError, Redirect};
pub use reflect::ReflectProgram;
pub use tc::TcHook;
pub use test_bed::{BalancerTestBed, Case, DecisionCost, TestBedError};
pub use test_run::{Ingress, TcTestRun, TcVerdict, TestRun, Verdict};
pub use tunnels::Tunnels;
pub use vips::{VipEntry, VipError};
pub use xdp_layout::{
    DEFAULT_GUE_PORT, MAX_DECAP_DESTINATIONS, MAX_HEALTH_CHECKS, MAX_QUEUES, MAX_VIPS, Tag,
    balancer::{FlowKey, FlowValue, Real, Settings, Vip},
    bench::ETHERTYPE_REFLECTED,
    counter::{
        BalancerEvent, BalancerOutcome, CountCounter, DecapCounter, HealthCheckCounter,
        RedirectCounter,
    },
};
