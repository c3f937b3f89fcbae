//! What a socket is to be like.

use std::{fmt, str::FromStr, time::Duration};

/// The oldest Linux that all of this is written for.
pub const OLDEST_KERNEL: &str = "5.15";

/// Bytes the kernel keeps free in front of a received frame (`XDP_PACKET_HEADROOM`).
pub const HEAD_ROOM: usize = 256;

/// Most bytes the XDP program opens in front of a frame: IPv6 and UDP header of GUE.
pub const TUNNEL_ROOM: usize = 40 + 8;

/// Smallest chunk the kernel accepts.
const SMALL_CHUNK: usize = 2048;

/// Largest chunk the kernel accepts: a page.
const LARGE_CHUNK: usize = 4096;

/// Bytes of a chunk for frames of up to `max_frame` bytes; `None` when no chunk holds them.
///
/// A copy-mode socket gets the frame *behind* the kernel's head room, with the room that the XDP
/// program opened: [`HEAD_ROOM`] + [`TUNNEL_ROOM`] + `max_frame` must fit. (In zero-copy mode the
/// program's room comes out of the kernel's, which needs less.) So 2048 bytes hold frames of up to
/// 1744 bytes and 4096 bytes hold up to 3792.
pub const fn chunk_size(max_frame: u16) -> Option<usize> {
    let needed = HEAD_ROOM + TUNNEL_ROOM + max_frame as usize;
    if needed <= SMALL_CHUNK {
        Some(SMALL_CHUNK)
    } else if needed <= LARGE_CHUNK {
        Some(LARGE_CHUNK)
    } else {
        None
    }
}

/// Drivers whose devices take the length of a receive buffer in steps of 1024 bytes (register SRRCTL
/// of the Intel cards). Of the 1792 bytes that a small chunk leaves behind the head room they use
/// 1024 in zero-copy mode, and hand a longer frame over in pieces, as if each were a frame.
const COARSE_BUFFERS: [&str; 3] = ["igb", "igc", "ixgbe"];

/// Bytes of a chunk under a driver: [`chunk_size`], or more where the driver would cut frames up. In a
/// large chunk it uses 3072 bytes, more than it lets the MTU be while an XDP program is attached.
/// `None` when no chunk holds such frames.
pub fn chunk_size_under(driver: &str, mode: SocketMode, max_frame: u16) -> Option<usize> {
    let chunk = chunk_size(max_frame)?;
    if mode != SocketMode::Copy && COARSE_BUFFERS.contains(&driver) {
        Some(LARGE_CHUNK)
    } else {
        Some(chunk)
    }
}

/// Largest `max_frame` that some chunk holds.
pub(super) const LARGEST_FRAME: usize = LARGE_CHUNK - HEAD_ROOM - TUNNEL_ROOM;

/// How frames get from the driver to the socket's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SocketMode {
    /// Zero-copy when the driver can, else copies.
    #[default]
    Auto,
    /// The device writes into the socket's memory; an error when the driver cannot.
    ZeroCopy,
    /// The kernel copies each frame.
    Copy,
}

impl SocketMode {
    /// Name as configuration files write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
        }
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no socket mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a socket mode; write auto, zero-copy or copy")]
pub struct SocketModeError;

impl FromStr for SocketMode {
    type Err = SocketModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Auto, Self::ZeroCopy, Self::Copy]
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or(SocketModeError)
    }
}

/// Frames that one poll takes at most under [`XskConfig::busy_poll`]: as many as the kernel's own.
pub(super) const BUSY_POLL_BUDGET: u16 = 64;

/// What a socket is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XskConfig {
    /// Interface name, in the network namespace of the calling thread.
    pub interface: String,
    /// RX (and TX) queue.
    pub queue: u32,
    /// How frames get to the socket.
    pub mode: SocketMode,
    /// Chunks of buffer memory, at least [`XskConfig::MIN_FRAMES`].
    pub frames: u32,
    /// Longest frame, in bytes; decides the size of a chunk.
    pub max_frame: u16,
    /// Try to take the buffer memory from huge pages.
    pub huge_pages: bool,
    /// Have each call into the socket poll the device once (`SO_BUSY_POLL`).
    ///
    /// Without `SO_PREFER_BUSY_POLL`: with it the kernel leaves out the call that wakes the driver for
    /// transmission and polls the receive queue's NAPI instead, so nothing leaves where the transmit
    /// queue has a NAPI of its own. That is so in virtio-net always, and in igb as long as it has
    /// interrupts enough.
    pub busy_poll: bool,
    /// How long to try again while the queue is busy: the kernel releases the queue of a socket that
    /// was closed some time later.
    pub busy_retry: Duration,
}

impl XskConfig {
    /// Fewest chunks.
    pub const MIN_FRAMES: u32 = 128;
    /// Most chunks.
    pub const MAX_FRAMES: u32 = 1 << 18;

    /// The usual settings for this queue.
    pub fn new(interface: impl Into<String>, queue: u32) -> Self {
        Self {
            interface: interface.into(),
            queue,
            mode: SocketMode::Auto,
            frames: 4096,
            max_frame: 1514,
            huge_pages: false,
            busy_poll: false,
            busy_retry: Duration::from_secs(5),
        }
    }

    /// Slots of the RX ring and of the TX ring: half of the frames, so that a full RX ring leaves
    /// frames for those on their way out.
    pub(super) const fn traffic_ring(frames: u32) -> u32 {
        frames.next_power_of_two() / 2
    }

    /// Slots of the fill ring: twice the frames, as the kernel announces late which it has taken.
    pub(super) const fn fill_ring(frames: u32) -> u32 {
        frames.next_power_of_two() * 2
    }

    /// Slots of the completion ring: every frame may complete before the first is reaped.
    pub(super) const fn completion_ring(frames: u32) -> u32 {
        frames.next_power_of_two()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_head_room_tunnel_header_and_frame() {
        assert_eq!(chunk_size(1514), Some(2048));
        assert_eq!(chunk_size(1744), Some(2048));
        assert_eq!(chunk_size(1745), Some(4096));
        assert_eq!(chunk_size(3500), Some(4096));
        assert_eq!(chunk_size(3792), Some(4096));
        assert_eq!(chunk_size(3793), None);
        assert_eq!(LARGEST_FRAME, 3792);
    }

    #[test]
    fn drivers_that_cut_frames_up_get_large_chunks() {
        for (driver, mode, chunk) in [
            ("igb", SocketMode::Auto, 4096),
            ("ixgbe", SocketMode::ZeroCopy, 4096),
            ("igb", SocketMode::Copy, 2048),
            ("virtio_net", SocketMode::ZeroCopy, 2048),
            ("", SocketMode::Auto, 2048),
        ] {
            assert_eq!(
                chunk_size_under(driver, mode, 1514),
                Some(chunk),
                "{driver}"
            );
        }
        assert_eq!(chunk_size_under("igb", SocketMode::Auto, 3793), None);
    }

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in [SocketMode::Auto, SocketMode::ZeroCopy, SocketMode::Copy] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert_eq!("zerocopy".parse::<SocketMode>(), Err(SocketModeError));
    }

    #[test]
    fn rings_are_powers_of_two_for_any_number_of_frames() {
        for frames in [XskConfig::MIN_FRAMES, 1000, 4096, XskConfig::MAX_FRAMES] {
            let fill = XskConfig::fill_ring(frames);
            assert!(fill.is_power_of_two() && fill >= 2 * frames);
            assert!(XskConfig::completion_ring(frames) >= frames);
            assert!(XskConfig::traffic_ring(frames).is_power_of_two());
        }
    }
}
