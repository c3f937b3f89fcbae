//! How much memory things take, and how to say it.

use std::fmt;

use dataplane::xsk::chunk_size;

/// Bytes of ring memory for each chunk: a queue has twice as many fill slots and as many completion
/// slots as chunks, of 8 bytes, and half as many RX and TX slots, of 16 bytes.
const RING_BYTES_PER_CHUNK: usize = 2 * 8 + 8 + 16;

/// Bytes of a queue's UMEM and of the rings that carry its chunks.
pub const fn frames_bytes(frames: u32, max_frame: u16) -> usize {
    let chunk = match chunk_size(max_frame) {
        Some(size) => size,
        // Longer than the checks of a configuration allow.
        None => 4096,
    };
    frames as usize * (chunk + RING_BYTES_PER_CHUNK)
}

/// A number of bytes for people: `523.4 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64;
        let mut unit = "B";
        for next in UNITS {
            if value < 1024.0 {
                break;
            }
            value /= 1024.0;
            unit = next;
        }
        write!(f, "{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_the_largest_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (16 << 20, "16.0 MiB"),
            (3 << 30, "3.0 GiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
