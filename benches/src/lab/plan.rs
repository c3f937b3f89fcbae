//! The lab's addresses, all from the documentation ranges of RFC 5737 and RFC 3849.
//!
//! | who | IPv4 | IPv6 |
//! |---|---|---|
//! | client `i` | `192.0.2.(10 + i)` | `2001:db8:c::(10 + i)` |
//! | balancer | `192.0.2.254` | `2001:db8:ba::fe` |
//! | real `i` | `198.51.100.(11 + i)` | `2001:db8:5e::(11 + i)` |
//! | VIP `i` | `203.0.113.(10 + i)` | `2001:db8:f::(10 + i)` |
//!
//! Numbers in IPv6 addresses are written so that they read as the decimal ones: real 0 is
//! `2001:db8:5e::11`.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Interface of the balancer.
pub const BALANCER_INTERFACE: &str = "lb0";
/// Interface of clients and reals.
pub const UPLINK: &str = "up0";
/// The balancer's own IPv4 address.
pub const BALANCER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
/// The balancer's own IPv6 address.
pub const BALANCER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xba, 0, 0, 0, 0, 0xfe);
/// Most clients a lab can have.
pub const MAX_CLIENTS: u8 = 64;
/// Most reals a lab can have.
pub const MAX_REALS: u8 = 64;
/// Addresses of each family that every real has on its loopback interface.
pub const VIPS: u8 = 8;

pub(super) const ROUTER_TO_BALANCER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 253);
pub(super) const ROUTER_TO_BALANCER_V6: Ipv6Addr =
    Ipv6Addr::new(0x2001, 0xdb8, 0xba, 0, 0, 0, 0, 0xfd);
pub(super) const ROUTER_TO_CLIENTS_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const ROUTER_TO_REALS_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The router on the links of clients and reals.
pub(super) const ROUTER_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub(super) const VIP_NETWORK_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(203, 0, 113, 0), 24);
pub(super) const VIP_NETWORK_V6: (Ipv6Addr, u8) =
    (Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0), 64);

/// IPv4 address of client `i`.
pub const fn client_v4(i: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 10 + i)
}

/// IPv6 address of client `i`.
pub const fn client_v6(i: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, decimal_look(10 + i))
}

/// IPv4 address of real `i`.
pub const fn real_v4(i: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, 11 + i)
}

/// IPv6 address of real `i`.
pub const fn real_v6(i: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x5e, 0, 0, 0, 0, decimal_look(11 + i))
}

/// IPv4 address of VIP `i`, below [`VIPS`].
pub const fn vip_v4(i: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, 10 + i)
}

/// IPv6 address of VIP `i`, below [`VIPS`].
pub const fn vip_v6(i: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, decimal_look(10 + i))
}

/// The number whose hexadecimal digits are the decimal digits of `n`.
const fn decimal_look(n: u8) -> u16 {
    let n = n as u16;
    ((n / 100) << 8) | ((n / 10 % 10) << 4) | (n % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_addresses_read_like_the_ipv4_ones() {
        assert_eq!(real_v6(0).to_string(), "2001:db8:5e::11");
        assert_eq!(real_v6(9).to_string(), "2001:db8:5e::20");
        assert_eq!(client_v6(63).to_string(), "2001:db8:c::73");
        assert_eq!(vip_v6(1).to_string(), "2001:db8:f::11");
        assert_eq!(decimal_look(255), 0x255);
    }

    #[test]
    fn ranges_do_not_meet() {
        assert!(client_v4(MAX_CLIENTS - 1) < Ipv4Addr::new(192, 0, 2, 128));
        assert!(real_v4(MAX_REALS - 1).octets()[3] < 255);
        assert!(vip_v4(VIPS - 1).octets()[3] < 255);
    }
}
