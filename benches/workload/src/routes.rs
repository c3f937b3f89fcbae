//! A million client prefixes, and clients inside and outside of them.
//!
//! Lengths are mixed as in a full routing table (half of IPv4 are /24, half of IPv6 are /48); clients are
//! random addresses inside random prefixes, in random order, so that the caches help as little as they
//! can. IPv6 has two distributions: one spreads the prefixes evenly over 40,000 sites, one crowds them as
//! registries and the size of providers do.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use dataplane::service::{SourceRouteSpec, SourceRoutes};

/// Prefixes of a set.
pub const ROUTES: usize = 1_000_000;
/// Clients of a list.
pub const CLIENTS: usize = 1 << 18;
/// Numbers that stand for reals are smaller.
pub const NUMBERS: usize = 4000;

/// Prefixes in ascending order, each with the number of its real.
pub type Prefixes<K> = Vec<((K, u8), u16)>;

/// Xorshift with a fixed seed: every run measures the same.
#[derive(Debug)]
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x0139_408d_cbbf_7a44)
    }
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }

    /// One of the lengths, each as often as its weight says.
    fn length(&mut self, lengths: &[(u8, usize)]) -> u8 {
        let sum = lengths.iter().map(|(_, weight)| weight).sum();
        let mut place = self.below(sum);
        for (length, weight) in lengths {
            match place.checked_sub(*weight) {
                None => return *length,
                Some(rest) => place = rest,
            }
        }
        lengths[0].0
    }
}

/// IPv4 prefixes.
pub fn prefixes_v4(random: &mut Random) -> Prefixes<u32> {
    const LENGTHS: [(u8, usize); 12] = [
        (14, 2),
        (16, 2),
        (18, 3),
        (19, 4),
        (20, 6),
        (21, 6),
        (22, 12),
        (23, 10),
        (24, 50),
        (28, 2),
        (30, 2),
        (32, 1),
    ];
    let mut found = HashMap::with_capacity(ROUTES);
    while found.len() < ROUTES {
        let length = random.length(&LENGTHS);
        let address = (random.next() >> 32) as u32 & (u32::MAX << (32 - length));
        if (1..224).contains(&(address >> 24)) {
            let real = (found.len() % NUMBERS) as u16;
            found.insert((address, length), real);
        }
    }
    sorted(found)
}

const LENGTHS_V6: [(u8, usize); 8] = [
    (29, 2),
    (32, 12),
    (36, 6),
    (40, 8),
    (44, 8),
    (48, 48),
    (56, 10),
    (64, 6),
];

fn sorted<K: Ord>(found: HashMap<(K, u8), u16>) -> Prefixes<K> {
    let mut prefixes: Prefixes<K> = found.into_iter().collect();
    prefixes.sort_unstable();
    prefixes
}

/// IPv6 prefixes in sites, which are numbers of a /32.
pub fn prefixes_v6(random: &mut Random, site: impl Fn(&mut Random) -> u32) -> Prefixes<u128> {
    let mut found = HashMap::with_capacity(ROUTES);
    while found.len() < ROUTES {
        let length = random.length(&LENGTHS_V6);
        let site = u128::from(site(random)) << 96;
        let host = u128::from(random.next() & 0xffff_ffff) << 64;
        let address = (site | host) & (u128::MAX << (128 - length));
        let real = (found.len() % NUMBERS) as u16;
        found.insert((address, length), real);
    }
    sorted(found)
}

/// One of the sites that have the prefixes in equal parts.
pub fn even_site(random: &mut Random) -> u32 {
    0x2000_0000 + ((random.below(40_000) as u32) << 2)
}

/// Registries give neighbouring sites to one provider after the other, and some have far more routes
/// than others.
pub fn registry_site(random: &mut Random) -> u32 {
    /// First site, distance of sites, weight.
    const REGISTRIES: [(u32, u32, usize); 5] = [
        (0x2a00_0000, 8, 45),
        (0x2400_0000, 1, 20),
        (0x2600_0000, 16, 15),
        (0x2800_0000, 1, 12),
        (0x2001_0000, 1, 8),
    ];
    let places = [0, 1, 2, 3, 4].map(|place| (place, REGISTRIES[usize::from(place)].2));
    let (first, distance, _) = REGISTRIES[usize::from(random.length(&places))];
    // The cube of an even distribution.
    let part = random.below(1 << 20) as u128;
    first + distance * ((part.pow(3) * 25_000) >> 60) as u32
}

/// An IPv4 client in one of the prefixes.
pub fn client_v4(prefixes: &Prefixes<u32>, random: &mut Random) -> Ipv4Addr {
    let ((prefix, length), _) = prefixes[random.below(prefixes.len())];
    let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
    Ipv4Addr::from_bits(prefix | random.next() as u32 & host)
}

/// An IPv6 client in one of the prefixes, none of which is longer than /64.
pub fn client_v6(prefixes: &Prefixes<u128>, random: &mut Random) -> Ipv6Addr {
    let ((prefix, length), _) = prefixes[random.below(prefixes.len())];
    let host = (u128::from(random.next()) << 64) | u128::from(random.next());
    Ipv6Addr::from_bits(prefix | host >> length)
}

/// A client that no route covers, with a unicast address.
pub fn stranger_v4(routes: &SourceRoutes, random: &mut Random) -> Ipv4Addr {
    loop {
        let client = Ipv4Addr::from_bits((random.next() >> 32) as u32);
        let is_unicast = (1..224).contains(&client.octets()[0]);
        if is_unicast && routes.select_v4(client.octets()).is_none() {
            return client;
        }
    }
}

/// Likewise in `2000::/3`.
pub fn stranger_v6(routes: &SourceRoutes, random: &mut Random) -> Ipv6Addr {
    loop {
        let upper = 1 << 61 | random.next() >> 3;
        let client = Ipv6Addr::from_bits(u128::from(upper) << 64 | u128::from(random.next()));
        if routes.select_v6(client.octets()).is_none() {
            return client;
        }
    }
}

/// The routes of these prefixes; numbers become reals by `real`.
///
/// # Panics
/// Two prefixes are the same.
pub fn routes<K: Copy>(
    prefixes: &Prefixes<K>,
    address: impl Fn(K) -> IpAddr,
    real: impl Fn(u16) -> IpAddr,
) -> SourceRoutes {
    let routes = prefixes
        .iter()
        .map(|&((prefix, prefix_len), number)| SourceRouteSpec {
            prefix: address(prefix),
            prefix_len,
            real: real(number),
        });
    SourceRoutes::new(routes).expect("valid routes")
}
