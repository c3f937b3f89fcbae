//! Packets as bytes: what kind a frame is ([`parse`], and [`head`] for most), tunnels that arrive
//! ([`tunnel`]), checksums ([`checksum`]) and the headers we write ([`emit`], [`outer`]).
//!
//! Pure functions over slices. Nothing here panics on any input, follows a chain of extension
//! headers or trusts a length field: katran-compat section 4 says which fields are looked at, and
//! frames that end early are told apart by what is missing.

pub mod checksum;
pub mod emit;
pub mod head;
pub mod outer;
pub mod parse;
pub mod server_id;
pub mod tunnel;

/// Bytes of an Ethernet II header.
pub const ETHERNET_LEN: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Bytes of the fixed IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Bytes of a TCP header without options.
pub const TCP_LEN: usize = 20;
/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;
/// Bytes of an ICMP or `ICMPv6` header.
pub const ICMP_LEN: usize = 8;

/// `EtherType` of IPv4.
pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// `EtherType` of IPv6.
pub const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// IP protocol numbers (IANA registry), as bytes of the wire and never as an enum.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 encapsulated in IP.
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 encapsulated in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 fragment header.
    pub const IPV6_FRAGMENT: u8 = 44;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}
