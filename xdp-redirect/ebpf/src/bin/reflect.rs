//! XDP program `reflect`, for benchmarks: sends every frame back with its Ethernet addresses swapped,
//! which is as little as a program that forwards can do.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_TX},
    macros::{map, xdp},
    maps::PerCpuArray,
    programs::XdpContext,
};
use xdp_programs::{count, packet::Packet};

/// Frames sent back.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Entry point.
#[xdp]
pub fn reflect(context: XdpContext) -> u32 {
    let packet = Packet::new(&context);
    let (Some(destination), Some(source)) = (packet.bytes::<6>(0), packet.bytes::<6>(6)) else {
        return XDP_DROP;
    };
    let (destination, source) = (destination.array(), source.array());
    packet.write(0, source);
    packet.write(6, destination);
    count(&COUNTERS, 0);
    XDP_TX
}

/// Licence that the kernel reads.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
