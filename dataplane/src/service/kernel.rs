//! The services as the in-kernel balancer takes them, and what of them it cannot do.

use std::net::IpAddr;

use xdp_layout::balancer::{self, Real};

use super::{
    control::ServiceError,
    spec::{Encapsulation, ServiceSpec, Settings, VipFlags, VipKey},
    table::{ServiceTable, Vip},
};

/// What the `balancer` program's loader is given.
#[derive(Clone, Debug)]
pub struct KernelServices<'t> {
    /// What holds for all VIPs.
    pub settings: balancer::Settings,
    /// VIPs in ascending number, each with its ring.
    pub vips: Vec<balancer::Vip<'t>>,
    /// Reals in ascending index, including those that only flows still use.
    pub reals: Vec<Real>,
}

impl ServiceTable {
    /// The services for the `balancer` program.
    ///
    /// # Errors
    ///
    /// The first of what the program cannot do: it gives a packet the same real and the same bytes as
    /// a [`crate::forward::Forwarder`] or does not take the services at all.
    pub fn kernel_services(&self) -> Result<KernelServices<'_>, ServiceError> {
        let decap = self.decap_destinations().map(|own| own.address);
        let flags = self.vips().map(|vip| (vip.key, vip.flags));
        if let Some(first) = refusals(self.settings(), decap, flags).next() {
            return Err(first);
        }
        let settings = self.settings();
        Ok(KernelServices {
            settings: balancer::Settings {
                next_hop: settings.next_hop_mac.map(|mac| mac.0),
                max_frame: settings.max_frame,
                connection_rate_cap: settings.connection_rate_cap,
            },
            vips: self.vips().map(kernel_vip).collect(),
            reals: self
                .reals()
                .map(|real| Real {
                    id: real.id.bits(),
                    address: real.address,
                })
                .collect(),
        })
    }
}

impl ServiceSpec {
    /// Everything of these services that the `balancer` program cannot do.
    pub fn kernel_refusals(&self) -> Vec<ServiceError> {
        let decap = self.decap.iter().map(|own| own.address);
        let flags = self.vips.iter().map(|vip| (vip.key, vip.flags));
        refusals(&self.settings, decap, flags).collect()
    }
}

fn refusals(
    settings: &Settings,
    decap: impl Iterator<Item = IpAddr>,
    vips: impl Iterator<Item = (VipKey, VipFlags)>,
) -> impl Iterator<Item = ServiceError> {
    let of_vips = vips.flat_map(|(vip, flags)| {
        let unknown = flags - VipFlags::from_bits_truncate(balancer::VIP_FLAGS);
        let names = VipFlags::NAMES.into_iter();
        names
            .filter(move |(_, flag)| unknown.contains(*flag))
            .map(move |(name, _)| refusal(format!("vip {vip}, flag {name}"), "do what it asks for"))
    });
    let of_decap = decap.map(|own| refusal(format!("decap {own}"), "take tunnels apart"));
    of_settings(settings).chain(of_decap).chain(of_vips)
}

fn refusal(field: impl Into<String>, what: &str) -> ServiceError {
    ServiceError::new(
        field,
        format!("--datapath kernel cannot {what}"),
        "use --datapath xsk",
    )
}

fn of_settings(settings: &Settings) -> impl Iterator<Item = ServiceError> + use<> {
    let is_gue = matches!(settings.encapsulation, Encapsulation::Gue { .. });
    [
        (is_gue, "balancer.encapsulation", "encapsulate in GUE"),
        (
            settings.icmp_too_big,
            "balancer.icmp_too_big",
            "answer frames that are too long",
        ),
        (
            settings.tcp_server_id,
            "balancer.tcp_server_id",
            "read server ids",
        ),
    ]
    .into_iter()
    .filter(|(is_set, ..)| *is_set)
    .map(|(_, field, what)| refusal(field, what))
}

fn kernel_vip(vip: &Vip) -> balancer::Vip<'_> {
    balancer::Vip {
        address: vip.key.address,
        prefix_len: vip.key.prefix_len,
        port: vip.key.port,
        protocol: vip.key.protocol.number(),
        number: vip.number,
        generation: vip.generation,
        flags: vip.flags.bits(),
        ring: vip.ring.slots(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{DecapSpec, HashFunction, Protocol, RealSpec, ServiceControl, VipSpec};

    fn vip(flags: VipFlags) -> VipSpec {
        VipSpec {
            key: VipKey::exact([203, 0, 113, 10].into(), 443, Protocol::Udp),
            hash: HashFunction::MaglevV2,
            flags,
            reals: vec![RealSpec {
                address: IpAddr::from([198, 51, 100, 1]),
                weight: 1,
                local: false,
                down: false,
            }],
        }
    }

    fn refused(spec: &ServiceSpec) -> Option<String> {
        let table = ServiceControl::new().apply(spec).expect("a valid spec");
        let services = table.kernel_services();
        let refused = services.err().map(|error| error.to_string());
        let all = spec.kernel_refusals();
        assert_eq!(all.first().map(ToString::to_string), refused);
        refused
    }

    #[test]
    fn everything_that_is_refused_is_named() {
        let mut spec = ServiceSpec {
            vips: vec![vip(VipFlags::QUIC
                | VipFlags::LOCAL_VIP
                | VipFlags::NO_SRC_PORT)],
            decap: vec![DecapSpec {
                address: [192, 0, 2, 9].into(),
                egress: false,
            }],
            ..ServiceSpec::default()
        };
        spec.settings.icmp_too_big = true;
        spec.settings.tcp_server_id = true;
        let fields: Vec<String> = spec
            .kernel_refusals()
            .into_iter()
            .map(|error| error.field)
            .collect();
        assert_eq!(
            fields,
            [
                "balancer.icmp_too_big",
                "balancer.tcp_server_id",
                "decap 192.0.2.9",
                "vip 203.0.113.10:443/udp, flag quic",
                "vip 203.0.113.10:443/udp, flag local-vip",
            ]
        );
    }

    #[test]
    fn what_the_program_knows_is_given_to_it() {
        let spec = ServiceSpec {
            vips: vec![vip(VipFlags::NO_SRC_PORT)],
            ..ServiceSpec::default()
        };
        let table = ServiceControl::new().apply(&spec).expect("a valid spec");
        let services = table.kernel_services().expect("it can do that");
        assert_eq!(services.settings.max_frame, 1514);
        let [vip] = services.vips[..] else {
            panic!("one VIP")
        };
        assert_eq!((vip.port, vip.protocol, vip.flags), (443, 17, 1));
        assert_eq!(vip.ring.len(), balancer::RING_SIZE);
        let [real] = services.reals[..] else {
            panic!("one real")
        };
        assert_eq!(u32::from(vip.ring[0]), real.index());
    }

    #[test]
    fn every_flag_is_known_or_refused_by_name() {
        let known = ["no-src-port", "lru-bypass", "dport-only", "src-dst-port"];
        for (name, flag) in VipFlags::NAMES {
            let error = refused(&ServiceSpec {
                vips: vec![vip(flag)],
                ..ServiceSpec::default()
            });
            let expected = (!known.contains(&name)).then(|| {
                format!(
                    "vip 203.0.113.10:443/udp, flag {name}: --datapath kernel cannot do what it asks \
                     for; use --datapath xsk"
                )
            });
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn other_things_it_cannot_do_are_refused() {
        let with = |change: fn(&mut ServiceSpec)| {
            let mut spec = ServiceSpec::default();
            change(&mut spec);
            refused(&spec).unwrap_or_default()
        };
        let gue = with(|spec| {
            spec.settings.encapsulation = Encapsulation::Gue {
                port: 6080,
                source_v4: [192, 0, 2, 1].into(),
                source_v6: 1.into(),
            };
        });
        assert_eq!(
            gue,
            "balancer.encapsulation: --datapath kernel cannot encapsulate in GUE; use --datapath xsk"
        );
        let too_big = with(|spec| spec.settings.icmp_too_big = true);
        assert!(too_big.starts_with("balancer.icmp_too_big: "), "{too_big}");
        let id = with(|spec| spec.settings.tcp_server_id = true);
        assert!(id.starts_with("balancer.tcp_server_id: "), "{id}");
        let decap = with(|spec| {
            spec.decap = vec![DecapSpec {
                address: [192, 0, 2, 9].into(),
                egress: false,
            }];
        });
        assert!(decap.starts_with("decap 192.0.2.9: "), "{decap}");
    }
}
