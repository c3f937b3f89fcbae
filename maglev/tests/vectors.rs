//! Known answers: addresses, permutations and rings as Katran computes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use maglev::{DEFAULT_RING_SIZE, Endpoint, HashFunction, Permutation, Ring, endpoint_hash};

#[test]
fn endpoint_hashes_and_permutations() {
    for (address, hash, offset, skip) in [
        ("10.0.0.1", 0xd671_359d_baa1_5954, 4_577, 18_292),
        ("10.0.0.2", 0x2cd4_26d0_08b9_0279, 42_248, 16_076),
        ("10.0.0.200", 0x28b0_13f8_9f94_d00d, 61_700, 21_876),
        ("192.0.2.255", 0x899a_c7a3_0ca7_a0e2, 26_454, 58_159),
        ("198.51.100.11", 0x4b76_5534_be4f_9491, 63_141, 57_003),
        ("255.255.255.255", 0x8f2a_3add_05a6_d637, 1_202, 62_567),
        ("0.0.0.0", 0x1154_961b_360a_62cc, 13_016, 8_757),
        ("2001:db8::1", 0xb7af_62f1_ee06_1155, 38_909, 13_375),
        ("2001:db8:0:1::a", 0xee5c_ce54_466a_dde8, 53_604, 42_999),
        ("fc00::1", 0x64e7_4a25_b986_d744, 7_827, 60_497),
        ("::ffff:10.0.0.1", 0xd671_359d_baa1_5954, 4_577, 18_292),
        ("::1", 0x3481_7244_ff94_8ad4, 39_335, 12_658),
    ] {
        let permutation = Permutation::of(hash, DEFAULT_RING_SIZE);
        assert_eq!(endpoint_hash(address.parse().unwrap()), hash, "{address}");
        assert_eq!(permutation, Permutation { offset, skip }, "{address}");
    }
}

/// One list of reals, numbered from 1 in the order of `addresses`, and its two rings.
struct Case {
    name: &'static str,
    addresses: fn() -> Vec<IpAddr>,
    /// The weight of the real with this number.
    weight: fn(u32) -> u32,
    /// The numbers of the usable reals in ascending order of their hashes, or nothing.
    order: &'static [u32],
    v1: Expected,
    v2: Expected,
}

struct Expected {
    first: [u16; 32],
    crc32: u32,
    fnv1a64: u64,
    /// Slots of the first numbers.
    counts: &'static [u32],
    /// The fewest and most slots of any real.
    spread: Option<(u32, u32)>,
}

/// Hosts 1 to `count` of a /24.
fn ipv4([a, b, c]: [u8; 3], count: u8) -> Vec<IpAddr> {
    (1..=count)
        .map(|d| Ipv4Addr::new(a, b, c, d).into())
        .collect()
}

/// Hosts 1 to `count` of the /48 that `site` names within `2001:db8::/32`.
fn ipv6(site: u16, count: u16) -> Vec<IpAddr> {
    (1..=count)
        .map(|host| Ipv6Addr::new(0x2001, 0xdb8, site, 0, 0, 0, 0, host).into())
        .collect()
}

/// Addresses with bytes above 127, which the hash sign-extends.
fn three_high_bytes() -> Vec<IpAddr> {
    vec![
        [192, 0, 2, 200].into(),
        [198, 51, 100, 250].into(),
        [203, 0, 113, 129].into(),
    ]
}

const CASES: [Case; 13] = [
    Case {
        name: "A: 3 IPv4 reals, weight 1",
        addresses: || ipv4([10, 0, 0], 3),
        weight: |_| 1,
        order: &[2, 3, 1],
        v1: Expected {
            first: [
                2, 1, 3, 2, 1, 3, 3, 1, 1, 2, 1, 2, 2, 1, 2, 3, 1, 2, 3, 1, 3, 2, 2, 2, 3, 3, 2, 3,
                1, 3, 1, 1,
            ],
            crc32: 0x375c_8a7c,
            fnv1a64: 0x4110_1484_91ea_0e24,
            counts: &[21_845, 21_846, 21_846],
            spread: None,
        },
        v2: Expected {
            first: [
                2, 1, 3, 2, 1, 3, 3, 1, 1, 2, 1, 2, 2, 1, 2, 3, 1, 2, 3, 1, 3, 2, 2, 2, 3, 3, 2, 3,
                1, 3, 1, 1,
            ],
            crc32: 0x375c_8a7c,
            fnv1a64: 0x4110_1484_91ea_0e24,
            counts: &[21_845, 21_846, 21_846],
            spread: None,
        },
    },
    Case {
        name: "B: 3 IPv4 reals, weights 1,2,3",
        addresses: || ipv4([10, 0, 0], 3),
        weight: |number| number,
        order: &[2, 3, 1],
        v1: Expected {
            first: [
                2, 1, 3, 2, 1, 3, 3, 1, 1, 2, 1, 2, 2, 1, 2, 3, 1, 2, 3, 1, 3, 2, 2, 2, 3, 3, 2, 3,
                1, 3, 1, 1,
            ],
            crc32: 0x18fc_44f7,
            fnv1a64: 0xdbeb_9e39_a405_6046,
            counts: &[21_844, 21_846, 21_847],
            spread: None,
        },
        v2: Expected {
            first: [
                2, 3, 3, 2, 1, 3, 3, 1, 3, 2, 3, 3, 2, 1, 2, 3, 1, 2, 3, 3, 3, 2, 2, 3, 3, 3, 2, 3,
                2, 3, 3, 2,
            ],
            crc32: 0xf4fe_cc39,
            fnv1a64: 0x831e_895b_1ad0_b616,
            counts: &[10_922, 21_846, 32_769],
            spread: None,
        },
    },
    Case {
        name: "C: 3 IPv4 reals, weights 1000,500,1",
        addresses: || ipv4([10, 0, 0], 3),
        weight: |number| [1000, 500, 1][number as usize - 1],
        order: &[2, 3, 1],
        v1: Expected {
            first: [
                2, 1, 3, 2, 1, 3, 3, 1, 1, 2, 1, 2, 2, 1, 2, 3, 1, 2, 3, 1, 3, 2, 2, 2, 3, 3, 2, 3,
                1, 3, 1, 1,
            ],
            crc32: 0xca8b_65e9,
            fnv1a64: 0xe2e6_ee85_780a_6254,
            counts: &[22_345, 21_846, 21_346],
            spread: None,
        },
        v2: Expected {
            first: [
                2, 1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 2, 2, 1, 2, 2, 1, 2, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1,
                1, 1, 1, 1,
            ],
            crc32: 0x93cb_1bef,
            fnv1a64: 0xe630_9fa3_4c0a_cbc5,
            counts: &[43_663, 21_831, 43],
            spread: None,
        },
    },
    Case {
        name: "D: 3 IPv6 reals, weight 1",
        addresses: || ipv6(0, 3),
        weight: |_| 1,
        order: &[2, 1, 3],
        v1: Expected {
            first: [
                2, 1, 3, 2, 1, 3, 3, 2, 2, 1, 3, 1, 2, 2, 1, 3, 3, 3, 3, 1, 2, 1, 2, 1, 1, 3, 3, 3,
                2, 1, 3, 1,
            ],
            crc32: 0xcbcd_e67e,
            fnv1a64: 0xfc2f_9027_e416_0306,
            counts: &[21_846, 21_846, 21_845],
            spread: None,
        },
        v2: Expected {
            first: [
                2, 1, 3, 2, 1, 3, 3, 2, 2, 1, 3, 1, 2, 2, 1, 3, 3, 3, 3, 1, 2, 1, 2, 1, 1, 3, 3, 3,
                2, 1, 3, 1,
            ],
            crc32: 0xcbcd_e67e,
            fnv1a64: 0xfc2f_9027_e416_0306,
            counts: &[21_846, 21_846, 21_845],
            spread: None,
        },
    },
    Case {
        name: "E: 3 IPv4 + high-byte addresses, weight 10",
        addresses: three_high_bytes,
        weight: |_| 10,
        order: &[2, 1, 3],
        v1: Expected {
            first: [
                1, 3, 1, 1, 3, 3, 1, 1, 3, 3, 1, 3, 1, 1, 3, 2, 1, 2, 3, 1, 3, 2, 3, 2, 1, 1, 2, 2,
                1, 1, 1, 3,
            ],
            crc32: 0xeeb8_c3b3,
            fnv1a64: 0xcb5f_eee0_3985_aac6,
            counts: &[21_846, 21_846, 21_845],
            spread: None,
        },
        v2: Expected {
            first: [
                1, 3, 1, 1, 3, 3, 1, 1, 3, 3, 1, 3, 1, 1, 3, 2, 1, 2, 3, 1, 3, 2, 3, 2, 1, 1, 2, 2,
                1, 1, 1, 3,
            ],
            crc32: 0xeeb8_c3b3,
            fnv1a64: 0xcb5f_eee0_3985_aac6,
            counts: &[21_846, 21_846, 21_845],
            spread: None,
        },
    },
    Case {
        name: "F: 10 IPv4 reals, weight 1",
        addresses: || ipv4([10, 1, 0], 10),
        weight: |_| 1,
        order: &[1, 3, 2, 6, 8, 9, 4, 10, 7, 5],
        v1: Expected {
            first: [
                7, 4, 10, 6, 10, 5, 3, 10, 6, 5, 10, 7, 2, 6, 8, 2, 8, 1, 7, 2, 6, 1, 5, 2, 9, 6,
                4, 2, 10, 8, 5, 2,
            ],
            crc32: 0xf557_7d20,
            fnv1a64: 0x8ebe_452c_f7af_974d,
            counts: &[6554, 6554, 6554, 6554, 6553, 6554, 6553, 6554, 6554, 6553],
            spread: None,
        },
        v2: Expected {
            first: [
                7, 4, 10, 6, 10, 5, 3, 10, 6, 5, 10, 7, 2, 6, 8, 2, 8, 1, 7, 2, 6, 1, 5, 2, 9, 6,
                4, 2, 10, 8, 5, 2,
            ],
            crc32: 0xf557_7d20,
            fnv1a64: 0x8ebe_452c_f7af_974d,
            counts: &[6554, 6554, 6554, 6554, 6553, 6554, 6553, 6554, 6554, 6553],
            spread: None,
        },
    },
    Case {
        name: "G: 10 IPv4 reals, weights 1..10",
        addresses: || ipv4([10, 1, 0], 10),
        weight: |number| number,
        order: &[1, 3, 2, 6, 8, 9, 4, 10, 7, 5],
        v1: Expected {
            first: [
                7, 4, 10, 6, 10, 5, 3, 10, 6, 5, 10, 7, 2, 6, 8, 2, 8, 1, 7, 2, 6, 1, 5, 2, 9, 6,
                4, 2, 10, 8, 5, 2,
            ],
            crc32: 0x33fc_7e83,
            fnv1a64: 0x09e3_cb8e_fe77_f35e,
            counts: &[6550, 6550, 6552, 6552, 6553, 6554, 6555, 6556, 6557, 6558],
            spread: None,
        },
        v2: Expected {
            first: [
                7, 8, 10, 8, 10, 5, 3, 10, 6, 5, 10, 7, 6, 6, 8, 2, 10, 10, 7, 2, 6, 9, 10, 2, 9,
                6, 4, 2, 10, 8, 5, 2,
            ],
            crc32: 0x9bbb_c983,
            fnv1a64: 0x6d99_e967_fbbb_5eca,
            counts: &[
                1191, 2383, 3575, 4766, 5958, 7150, 8341, 9533, 10_724, 11_916,
            ],
            spread: None,
        },
    },
    Case {
        name: "H: 100 IPv4 reals, weight 1",
        addresses: || ipv4([10, 2, 0], 100),
        weight: |_| 1,
        order: &[],
        v1: Expected {
            first: [
                71, 62, 44, 17, 86, 28, 94, 37, 97, 23, 4, 55, 61, 92, 87, 57, 90, 67, 73, 23, 95,
                17, 52, 75, 10, 60, 66, 48, 15, 45, 82, 51,
            ],
            crc32: 0xde40_6953,
            fnv1a64: 0xf870_df07_b088_f531,
            counts: &[656, 656, 656, 655, 655, 656, 655, 656, 655, 655],
            spread: Some((655, 656)),
        },
        v2: Expected {
            first: [
                71, 62, 44, 17, 86, 28, 94, 37, 97, 23, 4, 55, 61, 92, 87, 57, 90, 67, 73, 23, 95,
                17, 52, 75, 10, 60, 66, 48, 15, 45, 82, 51,
            ],
            crc32: 0xde40_6953,
            fnv1a64: 0xf870_df07_b088_f531,
            counts: &[656, 656, 656, 655, 655, 656, 655, 656, 655, 655],
            spread: Some((655, 656)),
        },
    },
    Case {
        name: "I: 100 IPv4 reals, weight 100 except every 10th (i%10==0, i 0-based) weight 1",
        addresses: || ipv4([10, 2, 0], 100),
        weight: |number| if number % 10 == 1 { 1 } else { 100 },
        order: &[],
        v1: Expected {
            first: [
                71, 62, 44, 17, 86, 28, 94, 37, 97, 23, 4, 55, 61, 92, 87, 57, 90, 67, 73, 23, 95,
                17, 52, 75, 6, 60, 66, 48, 15, 45, 82, 51,
            ],
            crc32: 0xb6db_526a,
            fnv1a64: 0x6c33_9343_9d40_eae4,
            counts: &[566, 666, 666, 665, 665, 666, 665, 665, 665, 665],
            spread: Some((566, 666)),
        },
        v2: Expected {
            first: [
                22, 62, 44, 17, 86, 28, 94, 37, 97, 23, 100, 55, 27, 92, 87, 57, 90, 67, 73, 23,
                95, 17, 52, 75, 10, 60, 66, 48, 15, 45, 82, 98,
            ],
            crc32: 0x49c8_dca0,
            fnv1a64: 0xc6dd_e079_4e83_fb6b,
            counts: &[7, 728, 728, 728, 727, 728, 727, 728, 727, 727],
            spread: Some((7, 728)),
        },
    },
    Case {
        name: "J: 100 IPv6 reals, weight 1",
        addresses: || ipv6(0xaa, 100),
        weight: |_| 1,
        order: &[],
        v1: Expected {
            first: [
                26, 14, 60, 66, 60, 8, 99, 93, 95, 70, 13, 83, 32, 66, 60, 74, 72, 97, 87, 1, 62,
                95, 63, 66, 94, 83, 30, 49, 13, 11, 39, 53,
            ],
            crc32: 0xedb4_2809,
            fnv1a64: 0xe465_c874_0f7d_c6d8,
            counts: &[655, 656, 655, 655, 656, 656, 655, 655, 656, 656],
            spread: Some((655, 656)),
        },
        v2: Expected {
            first: [
                26, 14, 60, 66, 60, 8, 99, 93, 95, 70, 13, 83, 32, 66, 60, 74, 72, 97, 87, 1, 62,
                95, 63, 66, 94, 83, 30, 49, 13, 11, 39, 53,
            ],
            crc32: 0xedb4_2809,
            fnv1a64: 0xe465_c874_0f7d_c6d8,
            counts: &[655, 656, 655, 655, 656, 656, 655, 655, 656, 656],
            spread: Some((655, 656)),
        },
    },
    Case {
        name: "K: 3 IPv4 reals, weight 30000 each (V1 exhausts the ring in the first pass)",
        addresses: || ipv4([10, 0, 0], 3),
        weight: |_| 30_000,
        order: &[2, 3, 1],
        v1: Expected {
            first: [
                2, 2, 3, 2, 3, 3, 2, 1, 3, 2, 3, 2, 2, 3, 2, 3, 1, 2, 3, 3, 2, 1, 2, 2, 3, 2, 3, 3,
                2, 3, 1, 2,
            ],
            crc32: 0x672d_4eb9,
            fnv1a64: 0x2334_b4c5_3545_12c4,
            counts: &[5537, 30_000, 30_000],
            spread: None,
        },
        v2: Expected {
            first: [
                2, 1, 3, 2, 1, 3, 3, 1, 1, 2, 1, 2, 2, 1, 2, 3, 1, 2, 3, 1, 3, 2, 2, 2, 3, 3, 2, 3,
                1, 3, 1, 1,
            ],
            crc32: 0x375c_8a7c,
            fnv1a64: 0x4110_1484_91ea_0e24,
            counts: &[21_845, 21_846, 21_846],
            spread: None,
        },
    },
    Case {
        name: "L: 3 IPv4 reals, weights 5,0,5 (zero-weight real filtered)",
        addresses: || ipv4([10, 0, 0], 3),
        weight: |number| if number == 2 { 0 } else { 5 },
        order: &[3, 1],
        v1: Expected {
            first: [
                3, 1, 3, 3, 1, 3, 3, 1, 1, 3, 1, 3, 3, 1, 3, 3, 1, 1, 3, 1, 3, 1, 1, 3, 3, 3, 1, 3,
                1, 3, 1, 1,
            ],
            crc32: 0x30cb_138c,
            fnv1a64: 0x1f21_ccae_e098_2446,
            counts: &[32_768, 0, 32_769],
            spread: None,
        },
        v2: Expected {
            first: [
                3, 1, 3, 3, 1, 3, 3, 1, 1, 3, 1, 3, 3, 1, 3, 3, 1, 1, 3, 1, 3, 1, 1, 3, 3, 3, 1, 3,
                1, 3, 1, 1,
            ],
            crc32: 0x30cb_138c,
            fnv1a64: 0x1f21_ccae_e098_2446,
            counts: &[32_768, 0, 32_769],
            spread: None,
        },
    },
    Case {
        name: "M: 1 real",
        addresses: || ipv4([10, 0, 0], 1),
        weight: |_| 1,
        order: &[1],
        v1: Expected {
            first: [
                1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                1, 1, 1, 1,
            ],
            crc32: 0xcb05_d9a4,
            fnv1a64: 0xcd8d_d6e8_2020_5764,
            counts: &[65_537],
            spread: None,
        },
        v2: Expected {
            first: [
                1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                1, 1, 1, 1,
            ],
            crc32: 0xcb05_d9a4,
            fnv1a64: 0xcd8d_d6e8_2020_5764,
            counts: &[65_537],
            spread: None,
        },
    },
];

/// The slots as numbers of 4 bytes, little-endian.
fn bytes(ring: &Ring) -> Vec<u8> {
    let words = ring.slots().iter().map(|&number| u32::from(number));
    words.flat_map(u32::to_le_bytes).collect()
}

fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn check(case: &str, endpoints: &[Endpoint], function: HashFunction, expected: &Expected) {
    let ring = Ring::build(function, DEFAULT_RING_SIZE, endpoints).unwrap();
    assert_eq!(ring.slots()[..32], expected.first, "{case}, {function}");
    let bytes = bytes(&ring);
    assert_eq!(
        crc32fast::hash(&bytes),
        expected.crc32,
        "{case}, {function}"
    );
    assert_eq!(fnv1a64(&bytes), expected.fnv1a64, "{case}, {function}");
    let shares = ring.shares();
    for (number, &count) in (1..).zip(expected.counts) {
        let share = shares.iter().find(|(n, _)| *n == number);
        let share = share.map_or(0, |&(_, slots)| slots);
        assert_eq!(share, count, "{case}, {function}: slots of {number}");
    }
    if let Some(spread) = expected.spread {
        let slots = || shares.iter().map(|&(_, slots)| slots);
        let found = (slots().min().unwrap(), slots().max().unwrap());
        assert_eq!(found, spread, "{case}, {function}");
    }
}

#[test]
fn rings() {
    for case in &CASES {
        let endpoints: Vec<_> = (1..)
            .zip((case.addresses)())
            .map(|(number, address)| Endpoint::new(number, (case.weight)(number), address))
            .collect();
        if !case.order.is_empty() {
            let mut by_hash: Vec<_> = endpoints.iter().filter(|e| e.weight > 0).collect();
            by_hash.sort_by_key(|e| e.hash);
            let order: Vec<_> = by_hash.iter().map(|e| e.number).collect();
            assert_eq!(order, case.order, "{}", case.name);
        }
        check(case.name, &endpoints, HashFunction::MaglevV1, &case.v1);
        check(case.name, &endpoints, HashFunction::MaglevV2, &case.v2);
    }
}
