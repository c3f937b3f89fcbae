//! The services as the in-kernel balancer takes them, and what of them it cannot do.

use xdp_layout::balancer::{self, Real};

use super::{
    control::ServiceError,
    spec::{Encapsulation, Settings, VipFlags},
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
    /// The first thing that the program cannot do: it gives a packet the same real and the same bytes as
    /// a [`crate::forward::Forwarder`] or does not take the services at all.
    pub fn kernel_services(&self) -> Result<KernelServices<'_>, ServiceError> {
        refuse_settings(self.settings())?;
        if let Some(own) = self.decap_destinations().next() {
            return Err(refusal(
                format!("decap {}", own.address),
                "take tunnels apart",
            ));
        }
        let vips: Result<Vec<_>, _> = self.vips().map(kernel_vip).collect();
        let settings = self.settings();
        Ok(KernelServices {
            settings: balancer::Settings {
                next_hop: settings.next_hop_mac.map(|mac| mac.0),
                max_frame: settings.max_frame,
                connection_rate_cap: settings.connection_rate_cap,
            },
            vips: vips?,
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

fn refusal(field: impl Into<String>, what: &str) -> ServiceError {
    ServiceError::new(
        field,
        format!("--datapath kernel cannot {what}"),
        "use --datapath xsk",
    )
}

fn refuse_settings(settings: &Settings) -> Result<(), ServiceError> {
    let is_gue = matches!(settings.encapsulation, Encapsulation::Gue { .. });
    for (is_set, field, what) in [
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
    ] {
        if is_set {
            return Err(refusal(field, what));
        }
    }
    Ok(())
}

fn kernel_vip(vip: &Vip) -> Result<balancer::Vip<'_>, ServiceError> {
    let known = VipFlags::from_bits_truncate(balancer::VIP_FLAGS);
    let unknown = vip.flags - known;
    if let Some((name, _)) = VipFlags::NAMES
        .iter()
        .find(|(_, flag)| unknown.contains(*flag))
    {
        let field = format!("vip {}, flag {name}", vip.key);
        return Err(refusal(field, "do what it asks for"));
    }
    Ok(balancer::Vip {
        address: vip.key.address,
        prefix_len: vip.key.prefix_len,
        port: vip.key.port,
        protocol: vip.key.protocol.number(),
        number: vip.number,
        generation: vip.generation,
        flags: vip.flags.bits(),
        ring: vip.ring.slots(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{
        DecapSpec, HashFunction, Protocol, RealSpec, ServiceControl, ServiceSpec, VipKey, VipSpec,
    };
    use std::net::IpAddr;

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
        services.err().map(|error| error.to_string())
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
