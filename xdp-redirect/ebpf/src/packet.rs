//! The bytes between an XDP context's `data` and `data_end`.

use aya_ebpf::{helpers::bpf_xdp_adjust_head, programs::XdpContext};

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
    pub fn bytes<const N: usize>(&self, offset: usize) -> Option<Bytes<N>> {
        let start = self.start + offset;
        (start + N <= self.end).then_some(Bytes { start })
    }

    /// `N` bytes from `offset` on to be written, or nothing if the packet ends before them.
    #[inline(always)]
    pub fn space<const N: usize>(&self, offset: usize) -> Option<Space<N>> {
        let start = self.start + offset;
        (start + N <= self.end).then_some(Space { start })
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

/// `N` bytes of a packet that are known to be there.
#[derive(Clone, Copy)]
pub struct Bytes<const N: usize> {
    /// Address of the first byte; `start..start + N` is readable.
    start: usize,
}

impl<const N: usize> Bytes<N> {
    /// The byte at `AT`.
    #[inline(always)]
    pub fn byte<const AT: usize>(&self) -> u8 {
        const { assert!(AT < N) };
        // SAFETY: `AT` is within the bytes that are known to be there.
        unsafe { *((self.start + AT) as *const u8) }
    }

    /// Two bytes from `AT` on, as they lie in memory.
    #[inline(always)]
    pub fn half<const AT: usize>(&self) -> u16 {
        const { assert!(AT + 2 <= N) };
        // SAFETY: both bytes are within those that are known to be there.
        unsafe { load::half::<AT>(self.start) }
    }

    /// Four bytes from `AT` on, as they lie in memory.
    #[inline(always)]
    pub fn word<const AT: usize>(&self) -> u32 {
        const { assert!(AT + 4 <= N) };
        // SAFETY: all four bytes are within those that are known to be there.
        unsafe { load::word::<AT>(self.start) }
    }

    /// All of them.
    #[inline(always)]
    pub fn array(&self) -> [u8; N] {
        // SAFETY: all `N` bytes are known to be there; an array of bytes has no alignment.
        unsafe { *(self.start as *const [u8; N]) }
    }
}

/// `N` bytes of a packet that may be written.
pub struct Space<const N: usize> {
    /// Address of the first byte; `start..start + N` is writable.
    start: usize,
}

impl<const N: usize> Space<N> {
    /// Writes the byte at `AT`.
    #[inline(always)]
    pub fn set_byte<const AT: usize>(&self, value: u8) {
        const { assert!(AT < N) };
        // SAFETY: `AT` is within the bytes that may be written; nothing else accesses the packet
        // while the program runs.
        unsafe { *((self.start + AT) as *mut u8) = value };
    }

    /// Writes two bytes from `AT` on, as they lie in memory.
    #[inline(always)]
    pub fn set_half<const AT: usize>(&self, value: u16) {
        const { assert!(AT + 2 <= N) };
        // SAFETY: both bytes may be written; nothing else accesses the packet meanwhile.
        unsafe { store::half::<AT>(self.start, value) };
    }

    /// Writes four bytes from `AT` on, as they lie in memory.
    #[inline(always)]
    pub fn set_word<const AT: usize>(&self, value: u32) {
        const { assert!(AT + 4 <= N) };
        // SAFETY: all four bytes may be written; nothing else accesses the packet meanwhile.
        unsafe { store::word::<AT>(self.start, value) };
    }
}

/// Moves the start of the packet: forward if `by` is positive, into the head room if negative.
/// False if the kernel refused, and then nothing moved.
#[inline(always)]
pub fn move_start(context: &XdpContext, by: i32) -> bool {
    // SAFETY: the context is the one that the kernel gave to this run of the program.
    unsafe { bpf_xdp_adjust_head(context.ctx, by) == 0 }
}

/// Loads at any alignment. The kernel allows them in packets on every machine that has XDP drivers;
/// the compiler would take them apart into bytes.
#[cfg(target_arch = "bpf")]
mod load {
    use core::arch::asm;

    /// Two bytes at `start + AT`.
    ///
    /// # Safety
    /// They must be readable.
    #[inline(always)]
    pub(super) unsafe fn half<const AT: usize>(start: usize) -> u16 {
        let value: u64;
        // SAFETY: the caller promises that the bytes are readable, and nothing is written.
        unsafe {
            asm!(
                "{value} = *(u16 *)({start} + {at})",
                value = out(reg) value,
                start = in(reg) start,
                at = const AT,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        value as u16
    }

    /// Four bytes at `start + AT`.
    ///
    /// # Safety
    /// They must be readable.
    #[inline(always)]
    pub(super) unsafe fn word<const AT: usize>(start: usize) -> u32 {
        let value: u64;
        // SAFETY: the caller promises that the bytes are readable, and nothing is written.
        unsafe {
            asm!(
                "{value} = *(u32 *)({start} + {at})",
                value = out(reg) value,
                start = in(reg) start,
                at = const AT,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        value as u32
    }
}

/// Where the crate is compiled for another machine, to be checked and not to be run.
#[cfg(not(target_arch = "bpf"))]
mod load {
    /// Two bytes at `start + AT`.
    ///
    /// # Safety
    /// They must be readable.
    pub(super) unsafe fn half<const AT: usize>(start: usize) -> u16 {
        // SAFETY: the caller promises that the bytes are readable.
        unsafe { ((start + AT) as *const u16).read_unaligned() }
    }

    /// Four bytes at `start + AT`.
    ///
    /// # Safety
    /// They must be readable.
    pub(super) unsafe fn word<const AT: usize>(start: usize) -> u32 {
        // SAFETY: the caller promises that the bytes are readable.
        unsafe { ((start + AT) as *const u32).read_unaligned() }
    }
}

/// Stores at any alignment, as the loads are.
#[cfg(target_arch = "bpf")]
mod store {
    use core::arch::asm;

    /// Two bytes at `start + AT`.
    ///
    /// # Safety
    /// They must be writable, and nothing else may access them meanwhile.
    #[inline(always)]
    pub(super) unsafe fn half<const AT: usize>(start: usize, value: u16) {
        // SAFETY: the caller promises that the bytes may be written.
        unsafe {
            asm!(
                "*(u16 *)({start} + {at}) = {value}",
                value = in(reg) u64::from(value),
                start = in(reg) start,
                at = const AT,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Four bytes at `start + AT`.
    ///
    /// # Safety
    /// They must be writable, and nothing else may access them meanwhile.
    #[inline(always)]
    pub(super) unsafe fn word<const AT: usize>(start: usize, value: u32) {
        // SAFETY: the caller promises that the bytes may be written.
        unsafe {
            asm!(
                "*(u32 *)({start} + {at}) = {value}",
                value = in(reg) u64::from(value),
                start = in(reg) start,
                at = const AT,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Where the crate is compiled for another machine, to be checked and not to be run.
#[cfg(not(target_arch = "bpf"))]
mod store {
    /// Two bytes at `start + AT`.
    ///
    /// # Safety
    /// They must be writable, and nothing else may access them meanwhile.
    pub(super) unsafe fn half<const AT: usize>(start: usize, value: u16) {
        // SAFETY: the caller promises that the bytes may be written.
        unsafe { ((start + AT) as *mut u16).write_unaligned(value) };
    }

    /// Four bytes at `start + AT`.
    ///
    /// # Safety
    /// They must be writable, and nothing else may access them meanwhile.
    pub(super) unsafe fn word<const AT: usize>(start: usize, value: u32) {
        // SAFETY: the caller promises that the bytes may be written.
        unsafe { ((start + AT) as *mut u32).write_unaligned(value) };
    }
}
