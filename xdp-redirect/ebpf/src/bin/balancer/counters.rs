//! Counting, on this CPU.

use aya_ebpf::maps::PerCpuArray;
use xdp_layout::{
    balancer::TRAFFIC_WORDS,
    counter::{BALANCER_WORDS, BalancerEvent, BalancerOutcome},
};

use crate::maps::COUNTERS;

/// Place of the packets whose real the ring chose, among a VIP's or real's numbers.
const RING_SELECTIONS: usize = 2;

/// This CPU's counters.
#[derive(Clone, Copy)]
pub(crate) struct Counters {
    /// Nothing else writes them while the program runs on this CPU; userspace only reads.
    words: *mut [u64; BALANCER_WORDS],
}

impl Counters {
    /// The map has its only entry always.
    #[inline(always)]
    pub(crate) fn of_this_cpu() -> Option<Self> {
        let words = COUNTERS.get_ptr_mut(0)?;
        Some(Self { words })
    }

    /// Counts a packet, and the bytes of the arriving frame.
    #[inline(always)]
    pub(crate) fn count_outcome(&self, outcome: BalancerOutcome, bytes: u64) {
        let place = 2 * outcome.index() as usize;
        // The verifier does not know that outcomes end.
        if place < 2 * BalancerOutcome::COUNT {
            self.add(place, 1);
            self.add(place + 1, bytes);
        }
    }

    /// Counts an event.
    #[inline(always)]
    pub(crate) fn count(&self, event: BalancerEvent) {
        self.add(place(event), 1);
    }

    /// Present value.
    #[inline(always)]
    pub(crate) fn get(&self, event: BalancerEvent) -> u64 {
        // SAFETY: the place is within the value, which only this run of the program writes.
        unsafe { (*self.words)[place(event)] }
    }

    /// Replaces the value.
    #[inline(always)]
    pub(crate) fn set(&self, event: BalancerEvent, value: u64) {
        // SAFETY: as in `get`.
        unsafe { (*self.words)[place(event)] = value };
    }

    #[inline(always)]
    fn add(&self, place: usize, n: u64) {
        // SAFETY: callers give places within the value, which only this run of the program writes.
        unsafe {
            let word = self.words.cast::<u64>().add(place);
            *word = (*word).wrapping_add(n);
        }
    }
}

#[inline(always)]
const fn place(event: BalancerEvent) -> usize {
    2 * BalancerOutcome::COUNT + event.index() as usize
}

/// Counts a packet of a VIP or for a real.
#[inline(always)]
pub(crate) fn count_traffic(traffic: &PerCpuArray<[u64; TRAFFIC_WORDS]>, number: u32, length: u16) {
    if let Some(words) = traffic.get_ptr_mut(number) {
        // SAFETY: the kernel gave a pointer to this CPU's value, and nothing else on this CPU writes it
        // while the program runs.
        let words = unsafe { &mut *words };
        words[0] = words[0].wrapping_add(1);
        words[1] = words[1].wrapping_add(u64::from(length));
    }
}

/// Counts a packet whose real the ring chose.
#[inline(always)]
pub(crate) fn count_ring_selection(traffic: &PerCpuArray<[u64; TRAFFIC_WORDS]>, number: u32) {
    if let Some(words) = traffic.get_ptr_mut(number) {
        // SAFETY: as in `count_traffic`.
        let words = unsafe { &mut *words };
        words[RING_SELECTIONS] = words[RING_SELECTIONS].wrapping_add(1);
    }
}
