//! Two balancers at two sites. Site A's balancer knows one real: the decap destination of site B's, which
//! strips the tunnel and balances over the reals there. They answer the client directly.
//!
//! The lab's balancer is A; B runs on the machine of real 0.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use benches::balancer::{Balancer, Launch, Vip, configuration};
use benches::lab::{Lab, LabOptions, plan};
use benches::traffic::{Server, Tally, run_connections, run_datagrams};
use serde_json::Value;
use xdp_redirect::{Decap, DecapOptions, XdpMode};

use super::support::{
    FAMILIES, FLOWS, PORT, TIMEOUT, assert_nothing_dropped, binary, exchanges, real_address,
    require, vip, vip_address,
};

const EXCHANGES: usize = 300;
/// The machine of B.
const SITE_B: u8 = 0;
/// Reals of B.
const REALS: [u8; 2] = [1, 2];
/// A VIP that A sends to B, but that is none there: B's kernel gets its packets.
const NOT_AT_B: u8 = 1;

/// Tunnels of both balancers.
#[derive(Clone, Copy, Debug)]
enum Tunnel {
    Ipip,
    Gue,
}

impl Tunnel {
    /// Keys of `[balancer]`, the first section of a configuration.
    fn keys(self, v4: &str, v6: &str) -> String {
        match self {
            Self::Ipip => "encapsulation = \"ipip\"\n".to_owned(),
            Self::Gue => {
                format!("encapsulation = \"gue\"\nsource_v4 = \"{v4}\"\nsource_v6 = \"{v6}\"\n")
            }
        }
    }
}

/// VIP `i` of both families and protocols.
fn vips(i: u8, reals: &[u8]) -> Vec<Vip> {
    let of_family =
        |v6| ["tcp", "udp"].map(|protocol| vip(i, v6, PORT, protocol, reals.iter().copied()));
    FAMILIES.map(of_family).concat()
}

struct Sites {
    lab: Lab,
    a: Balancer,
    b: Balancer,
    _servers: Vec<Server>,
    _decap: Vec<Decap>,
}

impl Sites {
    fn new(tunnel: Tunnel) -> Result<Self> {
        let lab = Lab::new(LabOptions {
            decap: false,
            ..LabOptions::default()
        })?;
        let mut servers = Vec::new();
        let mut decap = Vec::new();
        for real in REALS {
            let options = DecapOptions {
                destinations: FAMILIES.map(|v6| real_address(real, v6)).into(),
                ..DecapOptions::default()
            };
            let attach = || Decap::attach(plan::UPLINK, XdpMode::Auto, &options);
            decap.push(lab.real(real).run(attach)??);
            let addresses = FAMILIES.map(|v6| vip_address(0, v6));
            servers.push(Server::start(
                lab.real(real),
                real.into(),
                &addresses,
                PORT,
            )?);
        }
        let addresses = FAMILIES.map(|v6| vip_address(NOT_AT_B, v6));
        let site_b = lab.real(SITE_B);
        servers.push(Server::start(site_b, SITE_B.into(), &addresses, PORT)?);

        let at_a = [vips(0, &[SITE_B]), vips(NOT_AT_B, &[SITE_B])].concat();
        let own = (plan::BALANCER_V4, plan::BALANCER_V6);
        let keys = tunnel.keys(&own.0.to_string(), &own.1.to_string());
        let text = with_keys(&configuration(&at_a, FLOWS), &keys)?;
        let config = lab.scratch().write("a.toml", text)?;
        let a = Launch::new(binary(), config).start(&lab)?;

        let own = FAMILIES.map(|v6| real_address(SITE_B, v6));
        let keys = tunnel.keys(&own[0].to_string(), &own[1].to_string());
        let mut text = with_keys(&configuration(&vips(0, &REALS), FLOWS), &keys)?;
        for address in own {
            // Writing to a string does not fail.
            let _ = write!(text, "\n[[decap]]\naddress = \"{address}\"\n");
        }
        let config = lab.scratch().write("b.toml", text)?;
        let b = Launch {
            name: "site-b".to_owned(),
            interface: plan::UPLINK.to_owned(),
            ..Launch::new(binary(), config)
        };
        let b = b.start_on(&lab, lab.real(SITE_B))?;
        Ok(Self {
            lab,
            a,
            b,
            _servers: servers,
            _decap: decap,
        })
    }

    fn run(&self, vip: &Vip) -> Result<Tally> {
        let client = self.lab.client(0);
        if vip.protocol == "tcp" {
            // Segments of full size in both directions.
            run_connections(client, &exchanges(vip, EXCHANGES, 20_000), |_| ())
        } else {
            run_datagrams(client, &exchanges(vip, EXCHANGES, 1_000), |_| ())
        }
    }
}

/// The configuration with more keys in its first section, `[balancer]`.
fn with_keys(configuration: &str, keys: &str) -> Result<String> {
    let rest = configuration
        .strip_prefix("[balancer]\n")
        .context("[balancer] comes first")?;
    Ok(format!("[balancer]\n{keys}{rest}"))
}

/// Value of a counter of all workers.
fn counter(stats: &Value, name: &str) -> Result<u64> {
    stats["counters"][name]
        .as_u64()
        .with_context(|| format!("no counter {name} in {stats}"))
}

/// What only the tunnel's kind decides, for a site to which so many packets went.
fn check_counters(sites: &Sites) -> Result<()> {
    let stats = sites.b.ctl(["show", "stats"])?;
    let taken_apart = counter(&stats, "decap-packets")?;
    let frames = sites.b.stats()?.frames;
    ensure!(taken_apart > 0 && frames.add_up(), "{stats}");
    // Nothing but tunnels reaches B's workers, and A sends nothing else there.
    assert_eq!(taken_apart, frames.received, "{stats}");
    assert_eq!(counter(&stats, "recirculated")?, taken_apart);
    for kind in ["decap-outer-v", "decap-cross-pop-v"] {
        let families = ["4", "6"].map(|v| counter(&stats, &format!("{kind}{v}")));
        let [v4, v6] = families;
        let (v4, v6) = (v4?, v6?);
        assert!(v4 > 0 && v6 > 0, "{kind}: {v4}, {v6}");
        assert_eq!(v4 + v6, taken_apart, "{kind}");
    }
    let redirected = stats["xdp"]["redirected_tunnel"].as_u64();
    assert_eq!(redirected, Some(taken_apart), "{stats}");
    // A sends the tunnels over the same link as everything else, and each arrived.
    assert_eq!(sites.a.stats()?.frames.transmitted, taken_apart);
    Ok(())
}

fn cross_pop(tunnel: Tunnel) -> Result<()> {
    let sites = Sites::new(tunnel)?;
    for vip in vips(0, &[]) {
        let tally = sites.run(&vip)?;
        let name = vip.name();
        assert_eq!(tally.answered(), EXCHANGES as u64, "{name}: {tally:?}");
        for real in REALS {
            assert!(tally.of_server(real.into()) > 0, "{name}: {tally:?}");
        }
    }
    let stats = sites.b.stats()?;
    assert_eq!(stats.frames.passed, 0, "{stats:?}");
    for v6 in FAMILIES {
        for real in REALS {
            assert!(stats.of_real(real_address(real, v6)) > 0, "{stats:?}");
        }
    }
    assert_nothing_dropped(&sites.a)?;
    assert_nothing_dropped(&sites.b)?;
    check_counters(&sites)
}

#[test]
fn a_site_balances_what_another_sends_it_by_ipip() -> Result<()> {
    require!(a_site_balances_what_another_sends_it_by_ipip);
    cross_pop(Tunnel::Ipip)
}

#[test]
fn a_site_balances_what_another_sends_it_by_gue() -> Result<()> {
    require!(a_site_balances_what_another_sends_it_by_gue);
    cross_pop(Tunnel::Gue)
}

fn inner_packets_for_the_kernel(tunnel: Tunnel) -> Result<()> {
    let sites = Sites::new(tunnel)?;
    for vip in vips(NOT_AT_B, &[]) {
        let tally = sites.run(&vip)?;
        let name = vip.name();
        assert_eq!(
            tally.of_server(SITE_B.into()),
            EXCHANGES as u64,
            "{name}: {tally:?}"
        );
    }
    // Every packet went up, and the server had them from the kernel.
    let frames = sites.b.stats()?.frames;
    assert_eq!((frames.passed, frames.transmitted), (frames.received, 0));
    assert_nothing_dropped(&sites.b)?;
    check_counters(&sites)
}

#[test]
fn a_socket_gets_the_inner_packets_that_are_no_vips() -> Result<()> {
    require!(a_socket_gets_the_inner_packets_that_are_no_vips);
    inner_packets_for_the_kernel(Tunnel::Ipip)?;
    inner_packets_for_the_kernel(Tunnel::Gue)
}

/// Destinations can be added and removed while the balancer runs; tunnels to none are the kernel's.
#[test]
fn a_destination_can_go_and_come_back() -> Result<()> {
    require!(a_destination_can_go_and_come_back);
    let sites = Sites::new(Tunnel::Ipip)?;
    let vip = vip(0, false, PORT, "tcp", []);
    let short = benches::traffic::Plan {
        timeout: TIMEOUT / 60,
        ..exchanges(&vip, 5, 100)
    };
    let run = || run_connections(sites.lab.client(0), &short, |_| ());
    assert_eq!(run()?.answered(), 5);
    let address = real_address(SITE_B, false).to_string();
    sites.b.ctl(["decap", "del", &address])?;
    let received = sites.b.stats()?.frames.received;
    assert_eq!(run()?.answered(), 0, "nobody takes the tunnels apart");
    assert_eq!(sites.b.stats()?.frames.received, received);
    sites.b.ctl(["decap", "add", &address])?;
    assert_eq!(run()?.answered(), 5);
    Ok(())
}
