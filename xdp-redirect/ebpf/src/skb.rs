//! A packet on its way out, as a tc program has it. Part of it may lie in pages of its own, so bytes
//! are written through the kernel's helper.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
        BPF_F_ADJ_ROOM_ENCAP_L4_UDP, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{bpf_redirect, bpf_skb_adjust_room, bpf_skb_store_bytes},
    programs::TcContext,
};

/// What is to be put in front of the IP header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub length: u32,
    /// The outer header is IPv6, not IPv4.
    pub is_v6: bool,
    /// A UDP header follows it.
    pub has_udp: bool,
}

/// A packet on its way out.
pub struct Skb<'a> {
    context: &'a TcContext,
    raw: *mut __sk_buff,
}

impl<'a> Skb<'a> {
    /// The packet of this run.
    #[inline(always)]
    pub fn new(context: &'a TcContext) -> Self {
        Self {
            context,
            raw: context.as_ptr().cast(),
        }
    }

    /// Bytes from the Ethernet header on; of what will be cut into segments, all of them.
    #[inline(always)]
    pub fn length(&self) -> u32 {
        self.context.len()
    }

    /// The socket's `SO_MARK`, unless something changed it on the way.
    #[inline(always)]
    pub fn mark(&self) -> u32 {
        // SAFETY: the context is the one that the kernel gave to this run of the program.
        unsafe { (*self.raw).mark }
    }

    /// Sets the mark.
    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        self.context.set_mark(mark);
    }

    /// Ethertype of the packet, that behind a VLAN tag which the device is to insert.
    #[inline(always)]
    pub fn ethertype(&self) -> u16 {
        u16::from_be(self.context.skb.protocol() as u16)
    }

    /// Whether the device is to insert a VLAN tag.
    #[inline(always)]
    pub fn has_vlan_tag(&self) -> bool {
        // SAFETY: the context is the one that the kernel gave to this run of the program.
        unsafe { (*self.raw).vlan_present != 0 }
    }

    /// Makes room between Ethernet and IP header. The kernel learns what kind of tunnel it becomes, so
    /// that checksums and segments which the device owes are made in the inner packet, and takes the
    /// room off the size of TCP segments. False if it refused, and then nothing changed.
    #[inline(always)]
    pub fn make_room(&self, room: Room) -> bool {
        let mut flags = if room.is_v6 {
            BPF_F_ADJ_ROOM_ENCAP_L3_IPV6
        } else {
            BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
        };
        if room.has_udp {
            flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
        }
        let length = room.length as i32;
        // SAFETY: the context is the one that the kernel gave to this run of the program; nobody holds
        // pointers into the packet, which move.
        unsafe { bpf_skb_adjust_room(self.raw, length, BPF_ADJ_ROOM_MAC, flags.into()) == 0 }
    }

    /// Writes the first `length` bytes of `bytes` at the packet's start; false if the packet is shorter.
    #[inline(always)]
    pub fn write_start<const N: usize>(&self, bytes: &[u16; N], length: u32) -> bool {
        if length as usize > 2 * N {
            return false;
        }
        // SAFETY: the context is the one that the kernel gave to this run of the program, and `bytes`
        // holds `length` bytes, as was just seen.
        unsafe { bpf_skb_store_bytes(self.raw, 0, bytes.as_ptr().cast(), length, 0) == 0 }
    }
}

/// Has the packet leave through this interface; what the program has to return for it.
#[inline(always)]
pub fn redirect(interface: u32) -> i32 {
    // SAFETY: no pointers are passed.
    unsafe { bpf_redirect(interface, 0) as i32 }
}
