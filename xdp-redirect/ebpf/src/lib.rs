//! What the eBPF programs share: bounds-checked access to the packet, header constants, counting.
//!
//! The compiler handles bytes of unknown alignment one at a time, and clears arrays of bytes with a
//! loop. Headers are therefore read, and map keys built, as words.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod flow_hash;
pub mod header;
pub mod key;
pub mod packet;
pub mod skb;

use aya_ebpf::maps::PerCpuArray;

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counters: &PerCpuArray<u64>, index: u32) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: the kernel gave a pointer to this CPU's value, and nothing else on this CPU
        // writes it while the program runs; userspace only reads.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}

/// The programs have no path that panics; the compiler wants a handler all the same.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
