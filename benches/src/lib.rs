//! The lab of network namespaces that demo, tests and benchmarks share, the traffic that runs
//! through it, the demo itself, the workload that the forwarder is measured with, and what runs inside
//! the virtual machines of `cargo xtask vm`.
#![deny(unsafe_code)]

pub mod balancer;
pub mod bench;
pub mod demo;
pub mod guest;
pub mod lab;
pub mod traffic;
pub mod vips;

pub use workload;
