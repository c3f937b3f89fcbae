//! The real program between real programs, in network namespaces.
//!
//! Needs root and Debian's nginx, curl and iperf3. Where one is missing, a test says `SKIPPED` and
//! why; with `CI` or `KATRAN_XSK_REQUIRE_ROOT` set it fails instead.

mod http;
mod iperf;
mod lifecycle;
mod own_traffic;
mod stickiness;
mod support;
