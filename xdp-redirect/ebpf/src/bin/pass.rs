//! XDP program `pass`: hands every packet to the kernel. A veth whose peer sends by XDP needs some
//! program on its own side; this is the one that changes nothing.
#![no_std]
#![no_main]

use aya_ebpf::{bindings::xdp_action::XDP_PASS, macros::xdp, programs::XdpContext};
// Brings the panic handler.
use xdp_programs as _;

/// Entry point.
#[xdp]
pub fn pass(_context: XdpContext) -> u32 {
    XDP_PASS
}

/// Licence that the kernel reads.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
