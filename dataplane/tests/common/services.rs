//! A configuration with every kind of VIP whose data path is built.

use dataplane::service::{
    DecapSpec, Encapsulation,
    Protocol::{Tcp, Udp},
    ServiceSpec, Settings, VipFlags,
};

use super::{V4_REALS, V6_REALS, settings, vip};

/// GUE with the addresses of the packet vectors.
pub fn gue() -> Settings {
    Settings {
        encapsulation: Encapsulation::Gue {
            port: 6080,
            source_v4: "192.0.2.1".parse().unwrap(),
            source_v6: "2001:db8:ffff::1".parse().unwrap(),
        },
        ..settings()
    }
}

/// Decap destinations of [`every_kind_of_vip`].
pub const DECAP: [&str; 2] = ["198.18.5.1", "2001:db8:5::1"];
/// Those whose GUE tunnels leave.
pub const EGRESS: [&str; 2] = ["198.18.5.2", "2001:db8:5::2"];
/// One that is a VIP too, on any UDP port.
pub const DECAP_AND_VIP: &str = "203.0.113.34";

/// Decap destinations, the second pair with `egress`.
pub fn decap_destinations() -> Vec<DecapSpec> {
    let one = |egress| {
        move |address: &str| DecapSpec {
            address: address.parse().unwrap(),
            egress,
        }
    };
    let balanced = DECAP.into_iter().chain([DECAP_AND_VIP]).map(one(false));
    balanced.chain(EGRESS.into_iter().map(one(true))).collect()
}

/// Every supported flag, exact and any port, prefixes, reals of either and of mixed families, VIPs
/// without reals, and decap destinations.
pub fn every_kind_of_vip(settings: Settings) -> ServiceSpec {
    let none = VipFlags::empty();
    let mixed = &[V4_REALS[0], V6_REALS[0]];
    let mut local_v4 = vip(
        "203.0.113.35",
        80,
        Tcp,
        VipFlags::LOCAL_VIP,
        &["192.0.2.254"],
    );
    let mut local_v6 = vip(
        "2001:db8:a::35",
        0,
        Udp,
        VipFlags::LOCAL_VIP,
        &["2001:db8:ba::fe"],
    );
    for vip in [&mut local_v4, &mut local_v6] {
        vip.reals[0].local = true;
    }
    ServiceSpec {
        settings,
        vips: vec![
            vip("203.0.113.10", 80, Tcp, none, V4_REALS),
            vip("203.0.113.10", 53, Udp, none, V4_REALS),
            vip("203.0.113.20", 0, Tcp, none, V6_REALS),
            vip("203.0.113.20", 0, Udp, VipFlags::SRC_DST_PORT, V6_REALS),
            vip("203.0.113.32", 0, Udp, VipFlags::DPORT_ONLY, V4_REALS),
            vip("203.0.113.33", 443, Tcp, VipFlags::NO_SRC_PORT, V6_REALS),
            vip("203.0.113.34", 0, Udp, VipFlags::LRU_BYPASS, mixed),
            local_v4,
            vip("203.0.113.36", 0, Udp, VipFlags::GLOBAL_LRU, V4_REALS),
            vip("203.0.113.40", 80, Tcp, none, &[]),
            vip("2001:db8:a::10", 80, Tcp, none, V6_REALS),
            vip("2001:db8:a::10", 53, Udp, none, V6_REALS),
            vip("2001:db8:a::20", 0, Tcp, none, V6_REALS),
            vip("2001:db8:a::32", 0, Udp, VipFlags::DPORT_ONLY, V6_REALS),
            vip("2001:db8:a::34", 0, Udp, VipFlags::LRU_BYPASS, V6_REALS),
            local_v6,
            vip("2001:db8:a::36", 80, Tcp, VipFlags::GLOBAL_LRU, V6_REALS),
            vip("2001:db8:a::40", 80, Tcp, none, &[]),
            vip("2001:db8:b::/96", 0, Tcp, VipFlags::NO_SRC_PORT, V6_REALS),
            vip(
                "2001:db8:b::/96",
                443,
                Udp,
                VipFlags::SRC_DST_PORT,
                V6_REALS,
            ),
        ],
        decap: decap_destinations(),
        ..ServiceSpec::default()
    }
}
