//! The real program between real programs, in network namespaces.
//!
//! Needs root and Debian's nginx, curl, iperf3, iproute2 and util-linux. Where one is missing, a test says `SKIPPED` and
//! why; with `CI` or `KATRAN_XSK_REQUIRE_ROOT` set it fails instead.

mod capture;
mod churn;
mod conversation;
mod cross_pop;
mod gue;
mod health_check;
mod http;
mod iperf;
mod kernel;
mod lifecycle;
mod local_vip;
mod own_traffic;
mod path_mtu;
mod queue_change;
mod reload;
mod stickiness;
mod support;
