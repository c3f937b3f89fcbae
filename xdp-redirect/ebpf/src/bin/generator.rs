//! XDP program `generator`, for benchmarks: run over live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`), it
//! makes each of them a packet of the next flow and sends it to the peer of a veth interface. Frames for
//! which it is too early are dropped at once: that is how it waits.
//!
//! The kernel gives it the same pages again and again as they come back, so it writes all that
//! balancers change or that it changes itself.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action::XDP_DROP,
    helpers::{bpf_ktime_get_ns, bpf_redirect},
    macros::{map, xdp},
    maps::{Array, PerCpuArray},
    programs::XdpContext,
};
use xdp_layout::bench::{DEPARTURE_IN_TCP, GeneratorConfig, INTERVAL_FRACTION_BITS, PAUSED};
use xdp_programs::{header, packet::Packet};

/// What to send.
#[map]
static CONFIG: Array<GeneratorConfig> = Array::with_max_entries(1, 0);
/// The Ethernet header of all packets.
#[map]
static ETHERNET: Array<[u8; header::ETHERNET]> = Array::with_max_entries(1, 0);
/// Packets sent.
#[map]
static SENT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// When the next packet is due, with [`INTERVAL_FRACTION_BITS`] bits behind the point.
#[map]
static DUE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// What was late for longer than this is not caught up with: a burst would be no steady rate.
const SLACK: u64 = 20_000 << INTERVAL_FRACTION_BITS;
/// 2^32 divided by the golden ratio: its multiples visit flows evenly, and in no order that helps a
/// prefetcher.
const GOLDEN: u32 = 0x9e37_79b1;
const TCP: usize = header::ETHERNET + header::IPV4;
/// The last three bytes of the source address.
const HOST: usize = header::ETHERNET + 13;

/// Entry point.
#[xdp]
pub fn generator(context: XdpContext) -> u32 {
    let Some(config) = CONFIG.get(0) else {
        return XDP_DROP;
    };
    let mut now = 0;
    if config.interval == PAUSED {
        return XDP_DROP;
    }
    if config.interval != 0 {
        // SAFETY: the helper has no precondition.
        now = unsafe { bpf_ktime_get_ns() };
        if !is_due(now, config.interval) {
            return XDP_DROP;
        }
    }
    let (Some(sent), Some(ethernet)) = (SENT.get_ptr_mut(0), ETHERNET.get(0)) else {
        return XDP_DROP;
    };
    // SAFETY: the kernel gave a pointer to this CPU's value, and nothing else on this CPU writes it
    // while the program runs.
    let number = unsafe { *sent };
    let scattered = (number as u32).wrapping_mul(GOLDEN);
    let flow = (scattered as u64 * config.flows) >> 32;
    let port = 1024 + (flow as u16 & 0x7fff);
    let [_, host @ ..] = ((flow >> 15) as u32).to_be_bytes();
    let packet = Packet::new(&context);
    let written = packet.write(0, *ethernet)
        && packet.write(HOST, host)
        && packet.write(TCP, port.to_be_bytes())
        && packet.write(TCP + DEPARTURE_IN_TCP, now.to_ne_bytes());
    if !written {
        return XDP_DROP;
    }
    // SAFETY: as above.
    unsafe { *sent = number.wrapping_add(1) };
    // SAFETY: the helper has no precondition; an interface that is not there makes it an error.
    unsafe { bpf_redirect(config.interface, 0) as u32 }
}

/// Whether the next packet may leave; then the one after it is due an interval later.
#[inline(always)]
fn is_due(now: u64, interval: u64) -> bool {
    let Some(due) = DUE.get_ptr_mut(0) else {
        return false;
    };
    let now = now << INTERVAL_FRACTION_BITS;
    // SAFETY: the kernel gave a pointer to this CPU's value, and nothing else on this CPU writes it
    // while the program runs.
    let mut next = unsafe { *due };
    if next > now.wrapping_add(interval) {
        // From a time when the interval was longer.
        next = now;
    }
    if next > now {
        return false;
    }
    if next < now.wrapping_sub(SLACK) {
        next = now.wrapping_sub(SLACK);
    }
    // SAFETY: as above.
    unsafe { *due = next.wrapping_add(interval) };
    true
}

/// Licence that the kernel reads.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
