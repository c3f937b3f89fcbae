//! One packet of a burst, and what became of it.

use std::mem::offset_of;

use xdp_layout::Tag;

use crate::{counters::DropReason, packet::head::Headed, service::RealId};

/// A frame with room in front of it, in a buffer that the forwarder may rewrite.
///
/// ```text
/// buffer: | room | frame (Ethernet header first) | spare |
///         0      room                            room + len
/// ```
///
/// Taking an outer header off makes the room larger and the frame shorter.
#[derive(Debug)]
pub struct Packet<'a> {
    pub(super) buffer: &'a mut [u8],
    /// As it lies in memory: one word, which is written as one.
    tag: u64,
    len: u32,
    room: u16,
    /// Bytes of outer headers that were taken off.
    stripped: u16,
}

const _: () = assert!(
    size_of::<Packet<'_>>() == 32,
    "its address is one shift away"
);

impl<'a> Packet<'a> {
    const NO_TAG: u64 = u64::from_ne_bytes(
        Tag {
            generation: 0,
            vip: Tag::NO_VIP,
            room: 0,
            zero: 0,
        }
        .to_bytes(),
    );

    /// A frame as the XDP program redirected it: `received` bytes from the start of `buffer`, a
    /// [`Tag`] first. The tag says how much room there is. `None` when the room in the tag is not
    /// inside the received bytes.
    #[inline]
    pub fn tagged(buffer: &'a mut [u8], received: usize) -> Option<Self> {
        let tag: &[u8; Tag::SIZE] = buffer.get(..received)?.first_chunk()?;
        let room = usize::from(tag[offset_of!(Tag, room)]);
        let tag = u64::from_ne_bytes(*tag);
        if room < Tag::SIZE {
            return None;
        }
        let len = u32::try_from(received.checked_sub(room)?).ok()?;
        Some(Self {
            buffer,
            tag,
            len,
            room: room as u16,
            stripped: 0,
        })
    }

    /// A frame of `len` bytes at `room`, for which no VIP was looked up yet (replay, tests). `None`
    /// when it is not inside the buffer, or there is more room than a [`Tag`] can say.
    #[inline]
    pub fn untagged(buffer: &'a mut [u8], room: usize, len: usize) -> Option<Self> {
        if room.checked_add(len)? > buffer.len() {
            return None;
        }
        Some(Self {
            buffer,
            tag: Self::NO_TAG,
            len: u32::try_from(len).ok()?,
            room: u8::try_from(room).ok()?.into(),
            stripped: 0,
        })
    }

    /// The arriving frame, or what is left of it without the outer headers that were taken off; after
    /// [`Verdict::Transmit`] its bytes are no longer those.
    #[inline]
    pub fn frame(&self) -> &[u8] {
        &self.buffer[self.room()..][..self.len()]
    }

    /// As [`Self::frame`].
    #[inline]
    pub(super) fn frame_mut(&mut self) -> &mut [u8] {
        let (room, len) = (self.room(), self.len());
        &mut self.buffer[room..][..len]
    }

    /// The frame's headers, if it is TCP or UDP; they may reach beyond its end.
    #[inline]
    pub(super) fn head<A: Headed>(&self) -> Option<&A::Head> {
        A::head(self.buffer, self.room())
    }

    /// Bytes of [`Self::frame`].
    #[inline]
    pub(super) const fn len(&self) -> usize {
        self.len as usize
    }

    /// What the XDP program wrote in front of the frame.
    #[inline]
    pub(super) const fn tag(&self) -> Tag {
        Tag::from_bytes(self.tag.to_ne_bytes())
    }

    /// An outer header of `len` bytes was taken off. Whatever the XDP program found, it found there.
    pub(super) const fn strip(&mut self, len: usize) {
        self.room += len as u16;
        self.stripped += len as u16;
        self.len -= len as u32;
        self.tag = Self::NO_TAG;
    }

    /// Bytes of the arriving frame.
    #[inline]
    pub const fn frame_len(&self) -> usize {
        self.len() + self.stripped_len()
    }

    /// Bytes of outer headers that were taken off.
    #[inline]
    pub const fn stripped_len(&self) -> usize {
        self.stripped as usize
    }

    /// Bytes of room in front of the frame.
    #[inline]
    pub const fn room(&self) -> usize {
        self.room as usize
    }

    /// The buffer, for who rewrites it without a forwarder.
    #[inline]
    pub const fn buffer_mut(&mut self) -> &mut [u8] {
        self.buffer
    }

    /// The buffer, to read what is to be transmitted.
    #[inline]
    pub fn buffer(&self) -> &[u8] {
        self.buffer
    }
}

/// What is to be done with a packet's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the first `len` bytes of the buffer out of the interface it came from.
    Transmit {
        /// Bytes to send, from the start of the buffer.
        len: u16,
    },
    /// Give [`Packet::frame`] to the kernel: the frame as it came, or its inner packet.
    Pass,
    /// Forget it.
    Drop(DropReason),
}

/// How the real was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// No real took part.
    None,
    /// The flow table had it.
    Table,
    /// The table that the workers share had it.
    GlobalTable,
    /// The VIP's ring.
    Ring,
    /// A server id in the packet named it.
    ServerId,
    /// The client's prefix selects it.
    SourceRoute,
}

impl Selection {
    /// Name in verdict files and `explain`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Table => "table",
            Self::GlobalTable => "global-table",
            Self::Ring => "ring",
            Self::ServerId => "server-id",
            Self::SourceRoute => "source-route",
        }
    }
}

/// Verdict and how it came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// In an array the address is one shift away.
#[repr(align(16))]
pub struct Outcome {
    /// What to do.
    pub verdict: Verdict,
    /// VIP number, or [`Tag::NO_VIP`].
    pub vip: u16,
    /// The real, or [`RealId::NONE`].
    pub real: RealId,
    /// How the real was found.
    pub selection: Selection,
}
