//! The lab of network namespaces that demo, tests and benchmarks share, the traffic that runs
//! through it, and the demo itself.
#![deny(unsafe_code)]

pub mod balancer;
pub mod demo;
pub mod lab;
pub mod traffic;
