//! What the `balancer` program is told and what it keeps: settings, VIPs with their rings, reals, and
//! its connection table.
//!
//! [`Settings`], [`Vip`] and [`Real`] are what userspace gives to the loader; the other types are the
//! keys and values of the program's maps.

use core::net::IpAddr;

use crate::FAMILY_V4;

/// Slots of a ring (katran-compat section 1).
pub const RING_SIZE: usize = 65537;
/// Slots for reals; index 0 is never a real.
pub const MAX_REALS: u32 = 4096;
/// Bits of a real's id that are its index; those above count how often the index was given away.
pub const REAL_INDEX_BITS: u32 = 12;
/// A UDP flow that was idle for longer has ended (katran-compat section 1).
pub const UDP_TIMEOUT_NS: u64 = 30_000_000_000;
/// How long connection events are counted before the count starts again (katran-compat section 5.4).
pub const CONNECTION_WINDOW_NS: u64 = 1_000_000_000;
/// Numbers that the program counts for each VIP and each real: packets, bytes by the IPv4 total length
/// or the IPv6 payload length, and packets whose real the ring chose.
pub const TRAFFIC_WORDS: usize = 3;

/// Bit of [`VipValue::flags`]: the source port does not take part.
pub const NO_SRC_PORT: u16 = 1;
/// Bit of [`VipValue::flags`]: the connection table is neither read nor written.
pub const LRU_BYPASS: u16 = 2;
/// Bit of [`VipValue::flags`]: only the destination port is hashed.
pub const DPORT_ONLY: u16 = 8;
/// Bit of [`VipValue::flags`]: a wildcard match keeps its destination port.
pub const SRC_DST_PORT: u16 = 128;
/// All VIP flags that the program knows; their values are Katran's (katran-compat section 9).
pub const VIP_FLAGS: u16 = NO_SRC_PORT | LRU_BYPASS | DPORT_ONLY | SRC_DST_PORT;
/// Bit of [`VipValue::flags`] that no VIP flag has: any port or a prefix, so that a match is a wildcard
/// match.
pub const WILDCARD: u16 = 1 << 15;

/// Bit of [`ConfigValue::flags`]: some VIP is a prefix, so the prefix maps must be asked.
pub const HAS_PREFIXES: u32 = 1;
/// Bit of [`ConfigValue::flags`]: the next hop's Ethernet address is known.
pub const HAS_NEXT_HOP: u32 = 2;

/// What holds for all VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Ethernet address that everything is sent to, when it is known.
    pub next_hop: Option<[u8; 6]>,
    /// Longest frame towards a VIP in bytes, Ethernet header included, FCS not.
    pub max_frame: u16,
    /// Connection events within a second above which a CPU stores no new flow.
    pub connection_rate_cap: u32,
}

/// A VIP with its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vip<'a> {
    /// Destination address; of a prefix, its first address.
    pub address: IpAddr,
    /// Bits of the address that count: 32 for IPv4, 1 to 128 for IPv6.
    pub prefix_len: u8,
    /// Destination port; zero is any.
    pub port: u16,
    /// IP protocol number: 6 (TCP) or 17 (UDP).
    pub protocol: u8,
    /// Number of the VIP, below [`crate::MAX_VIPS`].
    pub number: u16,
    /// Changes when the number is given to another VIP.
    pub generation: u32,
    /// Bits of [`VIP_FLAGS`].
    pub flags: u16,
    /// Indices of reals, [`RING_SIZE`] of them.
    pub ring: &'a [u16],
}

/// A real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Real {
    /// Index in the low [`REAL_INDEX_BITS`], above them how often the index was given away.
    pub id: u32,
    /// Where encapsulated packets go.
    pub address: IpAddr,
}

impl Real {
    /// Place of the real, below [`MAX_REALS`].
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.id & (MAX_REALS - 1)
    }
}

/// Value of the program's only configuration entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigValue {
    /// Ethernet address of the next hop; zeros when it is not known.
    pub next_hop: [u8; 6],
    /// As in [`Settings`].
    pub max_frame: u16,
    /// As in [`Settings`].
    pub connection_rate_cap: u32,
    /// [`HAS_PREFIXES`] and [`HAS_NEXT_HOP`].
    pub flags: u32,
}

impl ConfigValue {
    /// Bytes a value takes.
    pub const SIZE: usize = 16;

    /// The value for these settings.
    #[must_use]
    pub fn new(settings: &Settings, has_prefixes: bool) -> Self {
        let mut flags = 0;
        if has_prefixes {
            flags |= HAS_PREFIXES;
        }
        if settings.next_hop.is_some() {
            flags |= HAS_NEXT_HOP;
        }
        Self {
            next_hop: settings.next_hop.unwrap_or_default(),
            max_frame: settings.max_frame,
            connection_rate_cap: settings.connection_rate_cap,
            flags,
        }
    }

    /// The value as it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..6].copy_from_slice(&self.next_hop);
        bytes[6..8].copy_from_slice(&self.max_frame.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.connection_rate_cap.to_ne_bytes());
        bytes[12..].copy_from_slice(&self.flags.to_ne_bytes());
        bytes
    }
}

/// Value of the maps that find a VIP.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipValue {
    /// As in [`Vip`].
    pub generation: u32,
    /// Place of the VIP's ring and counters.
    pub number: u16,
    /// [`VIP_FLAGS`] and [`WILDCARD`].
    pub flags: u16,
}

impl VipValue {
    /// Bytes a value takes.
    pub const SIZE: usize = 8;

    /// The value as it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&self.generation.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.number.to_ne_bytes());
        bytes[6..].copy_from_slice(&self.flags.to_ne_bytes());
        bytes
    }
}

/// Value of the map of reals.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealValue {
    /// IPv6 address, or IPv4 address in the first four bytes and zeros after it.
    pub address: [u8; 16],
    /// As in [`Real`].
    pub id: u32,
    /// [`FAMILY_V4`] or [`crate::FAMILY_V6`]; zero where there is no real.
    pub family: u32,
}

impl RealValue {
    /// Bytes a value takes.
    pub const SIZE: usize = 24;

    /// The value of a real.
    #[must_use]
    pub fn new(real: &Real) -> Self {
        let (address, family) = crate::address(real.address);
        Self {
            address,
            id: real.id,
            family: u32::from(family),
        }
    }

    /// The value as it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..16].copy_from_slice(&self.address);
        bytes[16..20].copy_from_slice(&self.id.to_ne_bytes());
        bytes[20..].copy_from_slice(&self.family.to_ne_bytes());
        bytes
    }
}

/// A flow in the connection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The client.
    pub source: IpAddr,
    /// The VIP, of the same family.
    pub destination: IpAddr,
    /// The client's port, in network byte order.
    pub source_port: [u8; 2],
    /// The VIP's port, in network byte order.
    pub destination_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
}

impl FlowKey {
    /// Bytes an IPv4 key takes.
    pub const SIZE_V4: usize = 16;
    /// Bytes an IPv6 key takes.
    pub const SIZE_V6: usize = 40;

    /// An IPv4 key as it lies in memory, or nothing if the flow is not one of IPv4.
    #[must_use]
    pub fn to_v4(self) -> Option<[u8; Self::SIZE_V4]> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (self.source, self.destination) else {
            return None;
        };
        let mut bytes = [0; Self::SIZE_V4];
        bytes[..4].copy_from_slice(&source.octets());
        bytes[4..8].copy_from_slice(&destination.octets());
        bytes[8..].copy_from_slice(&self.tail());
        Some(bytes)
    }

    /// An IPv6 key as it lies in memory, or nothing if the flow is not one of IPv6.
    #[must_use]
    pub fn to_v6(self) -> Option<[u8; Self::SIZE_V6]> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (self.source, self.destination) else {
            return None;
        };
        let mut bytes = [0; Self::SIZE_V6];
        bytes[..16].copy_from_slice(&source.octets());
        bytes[16..32].copy_from_slice(&destination.octets());
        bytes[32..].copy_from_slice(&self.tail());
        Some(bytes)
    }

    /// Reads an IPv4 key from memory.
    #[must_use]
    pub fn from_v4(bytes: [u8; Self::SIZE_V4]) -> Self {
        let [s0, s1, s2, s3, d0, d1, d2, d3, tail @ ..] = bytes;
        Self::with_tail([s0, s1, s2, s3].into(), [d0, d1, d2, d3].into(), tail)
    }

    /// Reads an IPv6 key from memory.
    #[must_use]
    pub fn from_v6(bytes: [u8; Self::SIZE_V6]) -> Self {
        let (mut source, mut destination, mut tail) = ([0; 16], [0; 16], [0; 8]);
        source.copy_from_slice(&bytes[..16]);
        destination.copy_from_slice(&bytes[16..32]);
        tail.copy_from_slice(&bytes[32..]);
        Self::with_tail(source.into(), destination.into(), tail)
    }

    fn tail(self) -> [u8; 8] {
        let [s0, s1] = self.source_port;
        let [d0, d1] = self.destination_port;
        [s0, s1, d0, d1, self.protocol, 0, 0, 0]
    }

    fn with_tail(source: IpAddr, destination: IpAddr, tail: [u8; 8]) -> Self {
        let [s0, s1, d0, d1, protocol, ..] = tail;
        Self {
            source,
            destination,
            source_port: [s0, s1],
            destination_port: [d0, d1],
            protocol,
        }
    }
}

/// Value of the connection table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowValue {
    /// Id of the real.
    pub real: u32,
    /// Always zero.
    pub zero: u32,
    /// When the flow was last used, on the kernel's monotonic clock; zero for TCP.
    pub last_use_ns: u64,
}

impl FlowValue {
    /// Bytes a value takes.
    pub const SIZE: usize = 16;

    /// The value as it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&self.real.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.zero.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.last_use_ns.to_ne_bytes());
        bytes
    }

    /// Reads a value from memory.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let [r0, r1, r2, r3, z0, z1, z2, z3, last_use @ ..] = bytes;
        Self {
            real: u32::from_ne_bytes([r0, r1, r2, r3]),
            zero: u32::from_ne_bytes([z0, z1, z2, z3]),
            last_use_ns: u64::from_ne_bytes(last_use),
        }
    }
}

/// Where the `driver` program is, and how it changes the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverState {
    /// Number of the next run's flow, below [`DriverState::flows`].
    pub next: u64,
    /// Flows that take turns.
    pub flows: u64,
    /// From one flow's number to the next run's, at most [`DriverState::flows`].
    pub step: u64,
    /// The first 16 bytes of the frame, as words in memory order: a header in front of it overwrites
    /// the Ethernet header.
    pub start: [u32; 4],
    /// Last four bytes of the source address of flow 0, in network byte order.
    pub source: u32,
    /// [`FAMILY_V4`] or [`crate::FAMILY_V6`].
    pub family: u32,
    /// Bytes of the frame.
    pub length: u32,
    /// Always zero.
    pub zero: u32,
}

impl DriverState {
    /// Bytes a state takes.
    pub const SIZE: usize = 56;
    /// Bits of the flow number that go into the source port, on top of [`DriverState::FIRST_PORT`];
    /// those above go into the source address.
    pub const PORT_BITS: u32 = 15;
    /// Source port of flow 0.
    pub const FIRST_PORT: u16 = 1024;

    /// The state as it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.next.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.flows.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.step.to_ne_bytes());
        let [s0, s1, s2, s3] = self.start;
        let words = [
            s0,
            s1,
            s2,
            s3,
            self.source,
            self.family,
            self.length,
            self.zero,
        ];
        for (bytes, word) in bytes[24..].chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

const _: () = assert!(
    size_of::<ConfigValue>() == ConfigValue::SIZE
        && size_of::<VipValue>() == VipValue::SIZE
        && size_of::<RealValue>() == RealValue::SIZE
        && size_of::<FlowValue>() == FlowValue::SIZE
        && size_of::<DriverState>() == DriverState::SIZE
        && FAMILY_V4 != 0
        && MAX_REALS == 1 << REAL_INDEX_BITS
);

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;
    use crate::FAMILY_V6;

    #[test]
    fn flows_survive_a_round_trip() {
        let v4 = FlowKey {
            source: [192, 0, 2, 1].into(),
            destination: [203, 0, 113, 10].into(),
            source_port: [0x9c, 0x40],
            destination_port: [1, 0xbb],
            protocol: 6,
        };
        let bytes = v4.to_v4().expect("an IPv4 flow");
        assert_eq!(
            bytes,
            [
                192, 0, 2, 1, 203, 0, 113, 10, 0x9c, 0x40, 1, 0xbb, 6, 0, 0, 0
            ]
        );
        assert_eq!(FlowKey::from_v4(bytes), v4);
        assert_eq!(v4.to_v6(), None);
        let v6 = FlowKey {
            source: IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
            destination: IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]),
            ..v4
        };
        let bytes = v6.to_v6().expect("an IPv6 flow");
        assert_eq!(FlowKey::from_v6(bytes), v6);
        assert_eq!(v6.to_v4(), None);
        let value = FlowValue {
            real: 0x0102_0304,
            zero: 0,
            last_use_ns: 0x0506_0708_090a_0b0c,
        };
        assert_eq!(FlowValue::from_bytes(value.to_bytes()), value);
    }

    #[test]
    fn values_lie_as_the_compiler_puts_them() {
        let config = ConfigValue::new(
            &Settings {
                next_hop: Some([2, 0, 0, 0, 0xcc, 3]),
                max_frame: 1514,
                connection_rate_cap: 125_000,
            },
            true,
        );
        let bytes = config.to_bytes();
        assert_eq!(bytes[..6], config.next_hop);
        assert_eq!(
            bytes[offset_of!(ConfigValue, max_frame)..][..2],
            1514_u16.to_ne_bytes()
        );
        assert_eq!(
            bytes[offset_of!(ConfigValue, connection_rate_cap)..][..4],
            125_000_u32.to_ne_bytes()
        );
        assert_eq!(
            bytes[offset_of!(ConfigValue, flags)..][..4],
            (HAS_PREFIXES | HAS_NEXT_HOP).to_ne_bytes()
        );
        let value = VipValue {
            generation: 7,
            number: 511,
            flags: WILDCARD | NO_SRC_PORT,
        };
        let bytes = value.to_bytes();
        assert_eq!(
            bytes[offset_of!(VipValue, number)..][..2],
            511_u16.to_ne_bytes()
        );
        assert_eq!(
            bytes[offset_of!(VipValue, flags)..][..2],
            value.flags.to_ne_bytes()
        );
        let real = Real {
            id: 3 << REAL_INDEX_BITS | 5,
            address: IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9]),
        };
        assert_eq!(real.index(), 5);
        let bytes = RealValue::new(&real).to_bytes();
        assert_eq!(bytes[15], 9);
        assert_eq!(
            bytes[offset_of!(RealValue, id)..][..4],
            real.id.to_ne_bytes()
        );
        assert_eq!(
            bytes[offset_of!(RealValue, family)..],
            u32::from(FAMILY_V6).to_ne_bytes()
        );
        let state = DriverState {
            next: 1,
            flows: 2,
            step: 3,
            start: [4, 5, 6, 7],
            source: 8,
            family: 9,
            length: 10,
            zero: 0,
        };
        let bytes = state.to_bytes();
        assert_eq!(bytes[..8], 1_u64.to_ne_bytes());
        assert_eq!(
            bytes[offset_of!(DriverState, step)..][..8],
            3_u64.to_ne_bytes()
        );
        assert_eq!(
            bytes[offset_of!(DriverState, start)..][12..16],
            7_u32.to_ne_bytes()
        );
        assert_eq!(
            bytes[offset_of!(DriverState, source)..][..4],
            8_u32.to_ne_bytes()
        );
        assert_eq!(
            bytes[offset_of!(DriverState, family)..][..4],
            9_u32.to_ne_bytes()
        );
        assert_eq!(
            bytes[offset_of!(DriverState, length)..][..4],
            10_u32.to_ne_bytes()
        );
    }
}
