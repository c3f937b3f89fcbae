//! tc program `healthcheck` (`kx_healthcheck` to the kernel), at the egress of the interface that probes leave by: a packet whose mark
//! names a real is encapsulated to it, whatever its destination, so that a probe to a VIP reaches one
//! particular real server. Every other packet leaves as it came (katran-compat section 11, direct mode).
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::bpf_get_prandom_u32,
    macros::{classifier, map},
    maps::{HashMap, PerCpuArray, PerCpuHashMap},
    programs::TcContext,
};
use xdp_layout::{
    AddressKey, FAMILY_V4, HEALTH_CHECK_MAP_CAPACITY, HealthCheckConfig,
    counter::HealthCheckCounter::{self, *},
};
use xdp_programs::{
    count, header,
    skb::{self, Room, Skb},
};

/// How to encapsulate. A hash table, because it replaces a value as a whole: packets flow while the
/// next hop changes.
#[map]
static CONFIG: HashMap<u32, HealthCheckConfig> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
/// The real that a mark names.
#[map]
static REALS: HashMap<u32, AddressKey> =
    HashMap::with_max_entries(HEALTH_CHECK_MAP_CAPACITY, BPF_F_NO_PREALLOC);
/// Packets, and bytes of the frames before they were encapsulated, by mark.
#[map]
static TRAFFIC: PerCpuHashMap<u32, [u64; 2]> =
    PerCpuHashMap::with_max_entries(HEALTH_CHECK_MAP_CAPACITY, 0);
/// Packets by outcome.
#[map]
static COUNTERS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(HealthCheckCounter::COUNT as u32, 0);

/// Halves of the longest header: Ethernet, IPv6 and UDP.
const LONGEST: usize = (header::ETHERNET + header::IPV6 + header::UDP) / 2;
/// Halves of an Ethernet header.
const ETHERNET: usize = header::ETHERNET / 2;
/// Hop limit of outer headers.
const TTL: u8 = 64;
/// A bit that every source port of GUE has, so that none is below 1024.
const PORT_BIT: u16 = 0x400;

/// Ethernet, IP and UDP header as halves in memory order, of which the first `length` bytes are used.
struct Outer {
    halves: [u16; LONGEST],
    room: Room,
}

/// Entry point; `tc` and `bpftool` show its name.
#[classifier]
pub fn kx_healthcheck(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let (counter, action) = match probe(&skb) {
        Ok(0) => (Processed, TC_ACT_UNSPEC),
        Ok(interface) => (Processed, skb::redirect(interface)),
        Err(Skipped) => (Skipped, TC_ACT_UNSPEC),
        Err(reason) => (reason, TC_ACT_SHOT as i32),
    };
    count(&COUNTERS, counter.index());
    action
}

/// Encapsulates a probe and says where it leaves.
#[inline(always)]
fn probe(skb: &Skb<'_>) -> Result<u32, HealthCheckCounter> {
    let mark = skb.mark();
    if mark == 0 {
        return Err(Skipped);
    }
    // SAFETY: userspace replaces values and never writes into one.
    let real = unsafe { REALS.get(mark) }.ok_or(Skipped)?;
    // SAFETY: as above.
    let config = unsafe { CONFIG.get(0) }.ok_or(Skipped)?;
    if skb.has_vlan_tag() {
        return Err(Skipped);
    }
    let is_v6 = match skb.ethertype() {
        header::ETHERTYPE_IPV4 => false,
        header::ETHERTYPE_IPV6 => true,
        _ => return Err(Skipped),
    };
    let length = skb.length();
    if config.max_frame != 0 && length > config.max_frame {
        return Err(TooBig);
    }
    if config.destination_mac == [0; 6] {
        return Err(DroppedNoNextHop);
    }
    let inner = length.wrapping_sub(header::ETHERNET as u32);
    let outer = if real.family == FAMILY_V4 {
        if is_v6 {
            return Err(DroppedFamilyMismatch);
        }
        outer_v4(config, real, inner)
    } else {
        outer_v6(config, real, inner, is_v6)
    };
    let outer = outer.ok_or(TooBig)?;
    if !skb.make_room(outer.room)
        || !skb.write_start(&outer.halves, header::ETHERNET as u32 + outer.room.length)
    {
        return Err(DroppedNoRoom);
    }
    // Or the packet would be taken for a probe once more where it is redirected to.
    skb.set_mark(0);
    if let Some(traffic) = TRAFFIC.get_ptr_mut(mark) {
        // SAFETY: the kernel gave a pointer to this CPU's value, and nothing else on this CPU writes it
        // while the program runs; userspace writes it before packets have this mark.
        unsafe {
            (*traffic)[0] = (*traffic)[0].wrapping_add(1);
            (*traffic)[1] = (*traffic)[1].wrapping_add(length.into());
        }
    }
    Ok(config.interface)
}

/// A header in front of `inner` bytes; nothing if its length fields cannot say how many.
#[inline(always)]
fn outer_v4(config: &HealthCheckConfig, real: &AddressKey, inner: u32) -> Option<Outer> {
    const IP: usize = ETHERNET;
    const UDP: usize = IP + header::IPV4 / 2;
    let has_udp = config.gue_port != [0; 2];
    let length = (header::IPV4 + if has_udp { header::UDP } else { 0 }) as u32;
    let total = fits(inner + length)?;
    let protocol = if has_udp {
        header::PROTOCOL_UDP
    } else {
        header::PROTOCOL_IPV4
    };
    let mut halves = ethernet(config, header::ETHERTYPE_IPV4);
    halves[IP] = half(0x45, 0);
    halves[IP + 1] = total.to_be();
    halves[IP + 4] = half(TTL, protocol);
    let source = config.source_v4;
    halves[IP + 6] = half(source[0], source[1]);
    halves[IP + 7] = half(source[2], source[3]);
    halves[IP + 8] = half(real.address[0], real.address[1]);
    halves[IP + 9] = half(real.address[2], real.address[3]);
    halves[IP + 5] = checksum(&halves, IP);
    if has_udp {
        udp(&mut halves, UDP, config, fits(inner + header::UDP as u32)?);
    }
    Some(Outer {
        halves,
        room: Room {
            length,
            is_v6: false,
            has_udp,
        },
    })
}

/// As [`outer_v4`], for a packet that is IPv6 itself or not.
#[inline(always)]
fn outer_v6(
    config: &HealthCheckConfig,
    real: &AddressKey,
    inner: u32,
    is_v6: bool,
) -> Option<Outer> {
    const IP: usize = ETHERNET;
    const UDP: usize = IP + header::IPV6 / 2;
    let has_udp = config.gue_port != [0; 2];
    let udp_length = if has_udp { header::UDP as u32 } else { 0 };
    let payload = fits(inner + udp_length)?;
    let next = match (has_udp, is_v6) {
        (true, _) => header::PROTOCOL_UDP,
        (false, false) => header::PROTOCOL_IPV4,
        (false, true) => header::PROTOCOL_IPV6,
    };
    let mut halves = ethernet(config, header::ETHERTYPE_IPV6);
    halves[IP] = half(0x60, 0);
    halves[IP + 2] = payload.to_be();
    halves[IP + 3] = half(next, TTL);
    let mut at = 0;
    while at < 8 {
        halves[IP + 4 + at] = half(config.source_v6[2 * at], config.source_v6[2 * at + 1]);
        halves[IP + 12 + at] = half(real.address[2 * at], real.address[2 * at + 1]);
        at += 1;
    }
    if has_udp {
        udp(&mut halves, UDP, config, payload);
    }
    Some(Outer {
        halves,
        room: Room {
            length: header::IPV6 as u32 + udp_length,
            is_v6: true,
            has_udp,
        },
    })
}

/// A header that starts with Ethernet; the rest is zero.
#[inline(always)]
fn ethernet(config: &HealthCheckConfig, ethertype: u16) -> [u16; LONGEST] {
    let mut halves = [0; LONGEST];
    let (to, from) = (config.destination_mac, config.source_mac);
    halves[0] = half(to[0], to[1]);
    halves[1] = half(to[2], to[3]);
    halves[2] = half(to[4], to[5]);
    halves[3] = half(from[0], from[1]);
    halves[4] = half(from[2], from[3]);
    halves[5] = half(from[4], from[5]);
    halves[6] = ethertype.to_be();
    halves
}

/// Writes GUE's UDP header; its checksum stays zero.
#[inline(always)]
fn udp(halves: &mut [u16; LONGEST], at: usize, config: &HealthCheckConfig, length: u16) {
    // SAFETY: no pointers are passed.
    let random = unsafe { bpf_get_prandom_u32() } as u16;
    halves[at] = (random | PORT_BIT).to_be();
    halves[at + 1] = half(config.gue_port[0], config.gue_port[1]);
    halves[at + 2] = length.to_be();
}

/// Checksum of the IPv4 header at `at`, whose checksum is zero yet. It comes out in memory order.
#[inline(always)]
fn checksum(halves: &[u16; LONGEST], at: usize) -> u16 {
    let mut sum = 0_u32;
    let mut index = 0;
    while index < header::IPV4 / 2 {
        sum += u32::from(halves[at + index]);
        index += 1;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Two bytes as they lie in memory.
#[inline(always)]
fn half(first: u8, second: u8) -> u16 {
    u16::from_ne_bytes([first, second])
}

/// A length, if the field for it can hold it.
#[inline(always)]
fn fits(length: u32) -> Option<u16> {
    (length <= u16::MAX as u32).then_some(length as u16)
}

/// Licence that the kernel reads.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
