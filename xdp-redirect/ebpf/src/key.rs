//! The map keys of `xdp-layout`, as words.

use xdp_layout::{AddressKey, PrefixKey, VipKey};

/// An address as it lies in memory; an IPv4 address in the first word.
pub type Address = [u32; 4];
/// A port as it lies in memory.
pub type Port = u16;

/// A key as it lies in memory.
pub type Key = [u32; 5];

const _: () = assert!(
    size_of::<Key>() == size_of::<VipKey>()
        && size_of::<Key>() == size_of::<PrefixKey>()
        && size_of::<Key>() == size_of::<AddressKey>()
);

/// A [`VipKey`].
#[inline(always)]
pub fn vip(address: Address, port: Port, protocol: u8, family: u8) -> Key {
    let [port0, port1] = port.to_ne_bytes();
    let tail = u32::from_ne_bytes([port0, port1, protocol, family]);
    [address[0], address[1], address[2], address[3], tail]
}

/// A [`PrefixKey`].
#[inline(always)]
pub fn prefix(address: Address, port: Port, protocol: u8) -> Key {
    let [port0, port1] = port.to_ne_bytes();
    let head = u32::from_ne_bytes([port0, port1, protocol, 0]);
    [head, address[0], address[1], address[2], address[3]]
}

/// An [`AddressKey`].
#[inline(always)]
pub fn address(address: Address, family: u8) -> Key {
    let tail = u32::from_ne_bytes([family, 0, 0, 0]);
    [address[0], address[1], address[2], address[3], tail]
}
