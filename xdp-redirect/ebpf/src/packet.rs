//! The bytes between an XDP context's `data` and `data_end`.

use aya_ebpf::{
    helpers::bpf_xdp_adjust_head,
    programs::XdpContext,
};

/// Start and end of a packet. Moving the packet's start makes it stale: take a new one.
#[derive(Clone, Copy)]
pub struct Packet {
    start: usize,
    end: usize,
}

impl Packet {
    /// The packet as it is now.
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Self {
            start: context.data(),
            end: context.data_end(),
        }
    }

    /// Bytes of the whole frame.
    #[inline(always)]
    pub fn length(&self) -> usize {
        self.end - self.start
    }

    /// `N` bytes from `offset` on, or nothing if the packet ends before them.
    #[inline(always)]
    pub fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let from = self.start + offset;
        if from + N > self.end {
            return None;
        }
        // SAFETY: the kernel promises that `start..end` is readable, and the bytes end before
        // `end`; an array of bytes has no alignment and no invalid value.
        Some(unsafe { *(from as *const [u8; N]) })
    }

    /// Whether the packet reaches `length` bytes.
    #[inline(always)]
    pub fn reaches(&self, length: usize) -> bool {
        self.start + length <= self.end
    }

    /// Writes `N` bytes at `offset`; false if the packet ends before them.
    #[inline(always)]
    pub fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> bool {
        let from = self.start + offset;
        if from + N > self.end {
            return false;
        }
        // SAFETY: the kernel promises that `start..end` is writable, and the bytes end before
        // `end`; nothing else accesses the packet while the program runs.
        unsafe { *(from as *mut [u8; N]) = bytes };
        true
    }
}

/// Moves the start of the packet: forward if `by` is positive, into the head room if negative.
/// False if the kernel refused, and then nothing moved.
#[inline(always)]
pub fn move_start(context: &XdpContext, by: i32) -> bool {
    // SAFETY: the context is the one that the kernel gave to this run of the program.
    unsafe { bpf_xdp_adjust_head(context.ctx, by) == 0 }
}
