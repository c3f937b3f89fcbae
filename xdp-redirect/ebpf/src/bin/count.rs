//! XDP program `count`, for benchmarks: counts what arrives by its kind, takes the time that it was on
//! its way if asked to, and drops it.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action::XDP_DROP,
    helpers::bpf_ktime_get_ns,
    macros::{map, xdp},
    maps::{Array, PerCpuArray},
    programs::XdpContext,
};
use xdp_layout::{
    bench::{BUCKETS, COUNT_LATENCY, DEPARTURE_IN_TCP, ETHERTYPE_REFLECTED, bucket},
    counter::CountCounter::{self, *},
};
use xdp_programs::{count as add_one, header, packet::Packet};

/// [`COUNT_LATENCY`] or nothing.
#[map]
static SETTINGS: Array<u32> = Array::with_max_entries(1, 0);
/// Frames by kind.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(CountCounter::COUNT as u32, 0);
/// Frames by the time that they were on their way.
#[map]
static LATENCIES: PerCpuArray<u64> = PerCpuArray::with_max_entries(BUCKETS, 0);

/// Entry point.
#[xdp]
pub fn count(context: XdpContext) -> u32 {
    let packet = Packet::new(&context);
    let kind = classify(&packet);
    add_one(&COUNTERS, kind.index());
    if SETTINGS.get(0).copied().unwrap_or(0) & COUNT_LATENCY != 0 {
        take_time(&packet, kind);
    }
    XDP_DROP
}

#[inline(always)]
fn classify(packet: &Packet) -> CountCounter {
    let Some(headers) = packet.bytes::<{ header::ETHERNET + header::IPV4 }>(0) else {
        return Other;
    };
    let protocol = headers.byte::<{ header::ETHERNET + 9 }>();
    match (
        u16::from_be(headers.half::<{ header::ETHERTYPE_AT }>()),
        protocol,
    ) {
        (ETHERTYPE_REFLECTED, _) => Reflected,
        (header::ETHERTYPE_IPV4, header::PROTOCOL_IPV4) => Encapsulated,
        (header::ETHERTYPE_IPV4, header::PROTOCOL_TCP) => Returned,
        _ => Other,
    }
}

/// Counts the time since the generator sent the frame. Workers leave an outer header, or the room for
/// one, in front of the packet.
#[inline(always)]
fn take_time(packet: &Packet, kind: CountCounter) {
    const AT: usize = header::ETHERNET + header::IPV4 + DEPARTURE_IN_TCP;
    let departure = match kind {
        Returned => packet.bytes::<8>(AT),
        Encapsulated | Reflected => packet.bytes::<8>(AT + header::IPV4),
        Other => None,
    };
    let Some(departure) = departure else {
        return;
    };
    let departure = u64::from_ne_bytes(departure.array());
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    add_one(&LATENCIES, bucket(now.wrapping_sub(departure)));
}

/// Licence that the kernel reads.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
