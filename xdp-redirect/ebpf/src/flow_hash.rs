//! The flow hash of katran-compat section 2, over words as they lie in a packet; eBPF on
//! little-endian machines reads them as the hash wants them.

use xdp_layout::{MAX_VIPS, balancer::RING_SIZE};

use crate::key::{Address, Port};

const BASE: u32 = 0xdead_beef;
/// Seed of the IPv6 address hash.
const SEED_ADDRESS: u32 = MAX_VIPS;
/// Seed of the flow hash. Katran derives it from its compile-time limits.
const SEED_FLOW: u32 = MAX_VIPS * RING_SIZE as u32;

/// Hash of a flow from `source`, after the rules of section 2.
#[inline(always)]
pub fn flow_hash<const V6: bool>(
    source: Address,
    source_port: Port,
    destination_port: Port,
) -> u32 {
    let word = if V6 { address_word(source) } else { source[0] };
    let ports = u32::from(source_port) | u32::from(destination_port) << 16;
    let start = SEED_FLOW.wrapping_add(BASE).wrapping_add(8);
    finalise(word.wrapping_add(start), ports.wrapping_add(start), start)
}

/// Remainder of a hash by the size of a ring, 2¹⁶ + 1: 2¹⁶ is -1 in that arithmetic.
#[inline(always)]
pub fn ring_slot(hash: u32) -> usize {
    const SIZE: u32 = RING_SIZE as u32;
    const { assert!(SIZE == (1 << 16) + 1) };
    let (high, low) = (hash >> 16, hash & 0xffff);
    let slot = if low >= high {
        low - high
    } else {
        low + SIZE - high
    };
    slot as usize
}

#[inline(always)]
fn address_word(words: Address) -> u32 {
    let start = BASE.wrapping_add(16).wrapping_add(SEED_ADDRESS);
    let mut a = start.wrapping_add(words[0]);
    let mut b = start.wrapping_add(words[1]);
    let mut c = start.wrapping_add(words[2]);
    mix(&mut a, &mut b, &mut c);
    finalise(a.wrapping_add(words[3]), b, c)
}

#[inline(always)]
fn mix(a: &mut u32, b: &mut u32, c: &mut u32) {
    *a = a.wrapping_sub(*c) ^ c.rotate_left(4);
    *c = c.wrapping_add(*b);
    *b = b.wrapping_sub(*a) ^ a.rotate_left(6);
    *a = a.wrapping_add(*c);
    *c = c.wrapping_sub(*b) ^ b.rotate_left(8);
    *b = b.wrapping_add(*a);
    *a = a.wrapping_sub(*c) ^ c.rotate_left(16);
    *c = c.wrapping_add(*b);
    *b = b.wrapping_sub(*a) ^ a.rotate_left(19);
    *a = a.wrapping_add(*c);
    *c = c.wrapping_sub(*b) ^ b.rotate_left(4);
    *b = b.wrapping_add(*a);
}

#[inline(always)]
fn finalise(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}
