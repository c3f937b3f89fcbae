//! Source routes against a list that is searched from end to end.

mod common;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use common::proptest_config;
use dataplane::service::{SourceRouteError, SourceRouteSpec, SourceRoutes};
use proptest::prelude::*;

fn mask_v4(bits: u32, len: u8) -> u32 {
    bits & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

fn mask_v6(bits: u128, len: u8) -> u128 {
    bits & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

fn covers(route: &SourceRouteSpec, client: IpAddr) -> bool {
    match (route.prefix, client) {
        (IpAddr::V4(prefix), IpAddr::V4(client)) => {
            mask_v4(client.to_bits(), route.prefix_len) == prefix.to_bits()
        }
        (IpAddr::V6(prefix), IpAddr::V6(client)) => {
            mask_v6(client.to_bits(), route.prefix_len) == prefix.to_bits()
        }
        _ => false,
    }
}

fn naive(routes: &[SourceRouteSpec], client: IpAddr) -> Option<SourceRouteSpec> {
    let covering = routes.iter().filter(|route| covers(route, client));
    covering.max_by_key(|route| route.prefix_len).copied()
}

/// The real that packets of the client get.
fn selected(routes: &SourceRoutes, client: IpAddr) -> Option<IpAddr> {
    let (place, of_v4) = match client {
        IpAddr::V4(client) => (routes.select_v4(client.octets())?, true),
        IpAddr::V6(client) => (routes.select_v6(client.octets())?, false),
    };
    Some(routes.reals(of_v4)[usize::from(place)])
}

/// The reals that packets of the clients get when they are looked up together.
fn selected_together(routes: &SourceRoutes, clients: &[IpAddr]) -> Vec<Option<IpAddr>> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for client in clients {
        match client {
            IpAddr::V4(client) => v4.push(client.octets()),
            IpAddr::V6(client) => v6.push(client.octets()),
        }
    }
    // What is there before does not matter.
    let (mut places_v4, mut places_v6) = (vec![7; v4.len()], vec![7; v6.len()]);
    routes.select_each_v4(&v4, &mut places_v4);
    routes.select_each_v6(&v6, &mut places_v6);
    let (mut places_v4, mut places_v6) = (places_v4.into_iter(), places_v6.into_iter());
    let real = |client: &IpAddr| {
        let places = if client.is_ipv4() {
            &mut places_v4
        } else {
            &mut places_v6
        };
        let place = places.next()?.checked_sub(1)?;
        Some(routes.reals(client.is_ipv4())[place as usize])
    };
    clients.iter().map(real).collect()
}

/// Few different bits, so that prefixes lie in each other and side by side.
fn crowded_v4() -> impl Strategy<Value = u32> {
    prop_oneof![
        3 => (0..8_u32, 0..8_u32).prop_map(|(a, b)| (a << 29) | (b << 14) | b),
        1 => prop::sample::select(vec![0, 1, u32::MAX, u32::MAX - 1, 1 << 31]),
        1 => any::<u32>(),
    ]
}

fn crowded_v6() -> impl Strategy<Value = u128> {
    prop_oneof![
        3 => (0..4_u128, 0..4_u128, 0..4_u128)
            .prop_map(|(a, b, c)| (a << 126) | (b << 63) | (c << 62) | (b << 2) | c),
        1 => prop::sample::select(vec![
            0, 1, u128::MAX, u128::MAX - 1, 1 << 127, 1 << 64, (1 << 64) - 1, u128::MAX << 64,
        ]),
        1 => any::<u128>(),
    ]
}

fn route() -> impl Strategy<Value = SourceRouteSpec> {
    let real_v4 = (0..5_u8).prop_map(|n| IpAddr::from([198, 51, 100, n]));
    let real_v6 = (0..5_u16).prop_map(|n| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]));
    let v4 = (
        crowded_v4(),
        0..=32_u8,
        prop_oneof![real_v4, real_v6.clone()],
    )
        .prop_map(|(bits, prefix_len, real)| SourceRouteSpec {
            prefix: Ipv4Addr::from_bits(mask_v4(bits, prefix_len)).into(),
            prefix_len,
            real,
        });
    let v6 =
        (crowded_v6(), 0..=128_u8, real_v6).prop_map(|(bits, prefix_len, real)| SourceRouteSpec {
            prefix: Ipv6Addr::from_bits(mask_v6(bits, prefix_len)).into(),
            prefix_len,
            real,
        });
    prop_oneof![v4, v6]
}

fn routes(most: usize) -> impl Strategy<Value = Vec<SourceRouteSpec>> {
    prop::collection::vec(route(), 0..most).prop_map(|routes| {
        let unique: BTreeMap<_, _> = routes
            .into_iter()
            .map(|route| ((route.prefix, route.prefix_len), route))
            .collect();
        unique.into_values().collect()
    })
}

/// Addresses at which something may change, and some between.
fn clients(routes: &[SourceRouteSpec], others: &[(u32, u128)]) -> Vec<IpAddr> {
    let mut clients = Vec::new();
    for route in routes {
        match route.prefix {
            IpAddr::V4(first) => {
                let first = first.to_bits();
                let last = first | u32::MAX.checked_shr(route.prefix_len.into()).unwrap_or(0);
                for bits in [first, last, first.wrapping_sub(1), last.wrapping_add(1)] {
                    clients.push(Ipv4Addr::from_bits(bits).into());
                }
            }
            IpAddr::V6(first) => {
                let first = first.to_bits();
                let last = first | u128::MAX.checked_shr(route.prefix_len.into()).unwrap_or(0);
                for bits in [first, last, first.wrapping_sub(1), last.wrapping_add(1)] {
                    clients.push(Ipv6Addr::from_bits(bits).into());
                }
            }
        }
    }
    for (v4, v6) in others {
        clients.push(Ipv4Addr::from_bits(*v4).into());
        clients.push(Ipv6Addr::from_bits(*v6).into());
    }
    clients
}

proptest! {
    #![proptest_config(proptest_config(200))]

    #[test]
    fn the_longest_prefix_wins(
        list in routes(60),
        others in prop::collection::vec((crowded_v4(), crowded_v6()), 50),
    ) {
        let set = SourceRoutes::new(list.iter().copied()).unwrap();
        prop_assert_eq!(set.len(), list.len());
        let clients = clients(&list, &others);
        let together = selected_together(&set, &clients);
        for (client, together) in clients.into_iter().zip(together) {
            let expected = naive(&list, client);
            prop_assert_eq!(set.route_of(client), expected, "{}", client);
            let real = expected.map(|route| route.real);
            prop_assert_eq!(selected(&set, client), real, "{}", client);
            prop_assert_eq!(together, real, "{}", client);
        }
    }

    #[test]
    fn sets_grow_and_shrink_as_lists_do(
        before in routes(30),
        added in routes(10),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let set = SourceRoutes::new(before.iter().copied()).unwrap();
        let mut expected: BTreeMap<_, _> = before
            .iter()
            .map(|route| ((route.prefix, route.prefix_len), *route))
            .collect();
        let grown = set.with(&added).unwrap();
        expected.extend(added.iter().map(|route| ((route.prefix, route.prefix_len), *route)));
        prop_assert_eq!(grown.iter().collect::<Vec<_>>(), expected.values().copied().collect::<Vec<_>>());

        let keys: Vec<_> = expected.keys().copied().collect();
        let removed: Vec<_> = match keys.as_slice() {
            [] => Vec::new(),
            keys => removed.iter().map(|index| *index.get(keys)).collect(),
        };
        let shrunk = grown.without(&removed).unwrap();
        expected.retain(|key, _| !removed.contains(key));
        let same = SourceRoutes::new(expected.values().copied()).unwrap();
        prop_assert_eq!(&shrunk, &same);
        for client in clients(&before, &[]) {
            prop_assert_eq!(selected(&shrunk, client), selected(&same, client));
        }
        if let Some(gone) = removed.first() {
            prop_assert_eq!(shrunk.without(&[*gone]), Err(*gone));
        }
    }

    #[test]
    fn routes_within_a_prefix_are_those_whose_prefix_it_covers(list in routes(60), around in route()) {
        let set = SourceRoutes::new(list.iter().copied()).unwrap();
        let within: Vec<_> = list
            .iter()
            .filter(|route| covers(&around, route.prefix) && route.prefix_len >= around.prefix_len)
            .copied()
            .collect();
        prop_assert_eq!(set.within(around.prefix, around.prefix_len), within);
    }
}

/// Enough routes for a tree of several levels.
#[test]
fn many_routes_are_found() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut list = BTreeMap::new();
    while list.len() < 60_000 {
        let wide = (u128::from(random()) << 64) | u128::from(random());
        let (len_v4, len_v6) = (8 + (random() % 25) as u8, 16 + (random() % 113) as u8);
        let real = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, (random() % 3000) as u16]);
        let v4 = Ipv4Addr::from_bits(mask_v4(random() as u32, len_v4));
        // Half of them crowd in a few /48, so that some divide a /64.
        let base = if random() % 2 == 0 { wide } else { wide >> 50 };
        let v6 = Ipv6Addr::from_bits(mask_v6(base, len_v6));
        for (prefix, prefix_len) in [(IpAddr::V4(v4), len_v4), (IpAddr::V6(v6), len_v6)] {
            list.insert(
                (prefix, prefix_len),
                SourceRouteSpec {
                    prefix,
                    prefix_len,
                    real,
                },
            );
        }
    }
    let list: Vec<_> = list.into_values().collect();
    let set = SourceRoutes::new(list.iter().copied()).unwrap();
    let clients = clients(&list, &[]);
    let together = selected_together(&set, &clients);
    for (client, together) in clients.into_iter().zip(together) {
        // Which the test above holds to the list.
        let expected = set.route_of(client).map(|route| route.real);
        assert_eq!(selected(&set, client), expected, "{client}");
        assert_eq!(together, expected, "{client}");
    }
    assert!(set.memory_bytes() < 10 << 20, "{}", set.memory_bytes());
}

#[test]
fn wrong_routes_are_named_by_their_place() {
    let route = |prefix: &str, prefix_len, real: &str| SourceRouteSpec {
        prefix: prefix.parse().unwrap(),
        prefix_len,
        real: real.parse().unwrap(),
    };
    let errors = SourceRoutes::new([
        route("192.0.2.0", 24, "198.51.100.1"),
        route("192.0.2.1", 24, "198.51.100.1"),
        route("2001:db8::", 32, "198.51.100.1"),
        route("192.0.2.0", 24, "2001:db8::1"),
        route("192.0.2.0", 33, "198.51.100.1"),
    ])
    .unwrap_err();
    assert_eq!(
        errors,
        [
            (1, SourceRouteError::HostBits),
            (2, SourceRouteError::Family),
            (3, SourceRouteError::Twice(0)),
            (4, SourceRouteError::Length),
        ]
    );
    let many = (0..5000_u32).map(|n| SourceRouteSpec {
        prefix: Ipv4Addr::from_bits(n).into(),
        prefix_len: 32,
        real: Ipv4Addr::from_bits(n + 1).into(),
    });
    let errors = SourceRoutes::new(many).unwrap_err();
    assert_eq!(errors, [(0, SourceRouteError::TooManyReals)]);
}
