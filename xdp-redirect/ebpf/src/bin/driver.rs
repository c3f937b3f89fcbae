//! XDP program `driver`: prepares one and the same packet again and again for measurements of what
//! another program costs (`BPF_PROG_TEST_RUN` keeps the packet from run to run as it was left).
//!
//! Each run takes off what the last one put in front, makes the packet one of the next flow, and hands
//! it on by a tail call. It does the same work whatever the other program did.
#![no_std]
#![no_main]

use core::hint::black_box;

use aya_ebpf::{
    bindings::xdp_action::XDP_ABORTED,
    macros::{map, xdp},
    maps::{Array, ProgramArray},
    programs::XdpContext,
};
use xdp_layout::{FAMILY_V4, balancer::DriverState};
use xdp_programs::{
    header,
    packet::{Packet, move_start},
};

/// The program that is measured.
#[map]
static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// Where the driver is.
#[map]
static STATE: Array<DriverState> = Array::with_max_entries(1, 0);

/// Source and ports of an IPv4 packet.
const FLOW_V4: usize = header::ETHERNET + 12;
/// The last four bytes of an IPv6 packet's source.
const SOURCE_V6: usize = header::ETHERNET + 8 + 12;

/// Entry point.
#[xdp]
pub fn driver(context: XdpContext) -> u32 {
    if prepare(&context).is_some() {
        // SAFETY: no value that would have to be dropped is alive.
        unsafe { TARGET.tail_call(&context, 0) };
    }
    // Userspace takes this for what it is.
    XDP_ABORTED
}

#[inline(always)]
fn prepare(context: &XdpContext) -> Option<()> {
    let state = STATE.get_ptr_mut(0)?;
    // SAFETY: one test runs at a time, and userspace reads and writes the state between tests only.
    let state = unsafe { &mut *state };
    // In 64 bits: the verifier allows no 32-bit arithmetic on the pointers that the length is made of.
    let put_in_front = black_box(Packet::new(context).length()) as i64 - i64::from(state.length);
    // Also when there is nothing to take off, so that each run costs the same.
    if !move_start(context, put_in_front as i32) {
        return None;
    }
    let packet = Packet::new(context);
    let ethernet = packet.space::<{ header::ETHERNET }>(0)?;
    let [word0, word1, word2, word3] = state.start;
    ethernet.set_word::<0>(word0);
    ethernet.set_word::<4>(word1);
    ethernet.set_word::<8>(word2);
    ethernet.set_half::<12>(word3 as u16);

    let number = state.next;
    let next = number.wrapping_add(state.step);
    state.next = if next >= state.flows {
        next - state.flows
    } else {
        next
    };
    let port = (number as u16 & ((1 << DriverState::PORT_BITS) - 1)) + DriverState::FIRST_PORT;
    let source = u32::from_be(state.source)
        .wrapping_add((number >> DriverState::PORT_BITS) as u32)
        .to_be();
    if state.family == u32::from(FAMILY_V4) {
        let ends = packet.space::<12>(FLOW_V4)?;
        ends.set_word::<0>(source);
        ends.set_half::<8>(port.to_be());
    } else {
        let ends = packet.space::<24>(SOURCE_V6)?;
        ends.set_word::<0>(source);
        ends.set_half::<20>(port.to_be());
    }
    Some(())
}

/// Licence that the kernel reads.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
