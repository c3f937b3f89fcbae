//! GUE from end to end: the balancer's tunnels to reals that run `katran-xsk decap`.

use std::fs::File;
use std::net::IpAddr;
use std::process::Stdio;

use anyhow::{Result, ensure};
use benches::balancer::{Launch, Vip, configuration};
use benches::lab::{
    Lab, LabOptions, Process,
    plan::{self, UPLINK},
};
use benches::traffic::{run_connections, run_datagrams};
use nix::sys::signal::Signal;

use super::support::{
    FLOWS, PORT, TIMEOUT, assert_nothing_dropped, binary, exchanges, real_address, require,
    servers, vip_address, wait_until,
};

const REALS: u8 = 3;
const GUE_PORT: u16 = 9886;
const EXCHANGES: usize = 300;

/// `katran-xsk decap` on a real.
struct Decap {
    process: Process,
    real: u8,
}

impl Decap {
    fn start(lab: &Lab, real: u8) -> Result<Self> {
        let mut command = lab.real(real).command(binary());
        command
            .args(["decap", "--iface", UPLINK, "--gue-port"])
            .arg(GUE_PORT.to_string())
            .stdin(Stdio::null())
            .stdout(File::create(Self::output(lab, real))?);
        let process = Process::spawn(command)?;
        wait_until("decap is attached", TIMEOUT, || {
            Ok(lab.real_links(real).link(UPLINK)?.xdp)
        })?;
        Ok(Self { process, real })
    }

    fn output(lab: &Lab, real: u8) -> std::path::PathBuf {
        lab.scratch().file(&format!("decap{real}.out"))
    }

    /// Ends it; gives packets by counter, as it says at its end.
    fn stop(mut self, lab: &Lab) -> Result<Vec<(String, u64)>> {
        self.process.signal(Signal::SIGTERM)?;
        ensure!(self.process.wait(TIMEOUT)?.success());
        let text = std::fs::read_to_string(Self::output(lab, self.real))?;
        let rows = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?;
            Some((name.to_owned(), words.next()?.parse().ok()?))
        });
        Ok(rows.collect())
    }
}

/// A VIP of one family with reals of another or the same.
fn vip(i: u8, v6: bool, reals_v6: bool, protocol: &'static str) -> Vip {
    Vip {
        address: vip_address(i, v6),
        port: PORT,
        protocol,
        reals: (0..REALS)
            .map(|real| (real_address(real, reals_v6), 1))
            .collect(),
    }
}

#[test]
fn gue_carries_tcp_and_udp_to_katran_xsk_decap() -> Result<()> {
    require!(gue_carries_tcp_and_udp_to_katran_xsk_decap);
    let lab = Lab::new(LabOptions {
        reals: REALS,
        decap: false,
        ..LabOptions::default()
    })?;
    let _servers = servers(&lab, 0..REALS)?;
    let decaps = (0..REALS)
        .map(|real| Decap::start(&lab, real))
        .collect::<Result<Vec<_>>>()?;
    // TCP over IPv4 goes in IPv4, UDP over IPv4 in IPv6, and everything over IPv6 in IPv6.
    let vips = [
        vip(0, false, false, "tcp"),
        vip(0, false, true, "udp"),
        vip(0, true, true, "tcp"),
        vip(0, true, true, "udp"),
    ];
    let (source_v4, source_v6): (IpAddr, IpAddr) =
        (plan::BALANCER_V4.into(), plan::BALANCER_V6.into());
    let gue = format!(
        "[balancer]\nencapsulation = \"gue\"\ngue_port = {GUE_PORT}\n\
         source_v4 = \"{source_v4}\"\nsource_v6 = \"{source_v6}\"\n"
    );
    let config = configuration(&vips, FLOWS).replacen("[balancer]\n", &gue, 1);
    let file = lab.scratch().write("lb.toml", config)?;
    let balancer = Launch::new(binary(), file).start(&lab)?;

    for vip in &vips {
        let tally = if vip.protocol == "tcp" {
            // Segments of full size.
            run_connections(lab.client(0), &exchanges(vip, EXCHANGES, 20_000), |_| ())?
        } else {
            run_datagrams(lab.client(0), &exchanges(vip, EXCHANGES, 1_400), |_| ())?
        };
        assert_eq!(tally.answered(), EXCHANGES as u64, "{vip:?}: {tally:?}");
        ensure!(
            (0..REALS).all(|real| tally.of_server(real.into()) > 0),
            "{vip:?}: {tally:?}"
        );
    }

    assert_nothing_dropped(&balancer)?;
    let transmitted = balancer.stats()?.frames.transmitted;
    let mut stripped = 0;
    for decap in decaps {
        for (name, packets) in decap.stop(&lab)? {
            if name.starts_with("gue_") {
                stripped += packets;
            } else {
                ensure!(
                    !name.starts_with("ipip_") || packets == 0,
                    "{name}: {packets}"
                );
            }
        }
    }
    assert_eq!(stripped, transmitted);
    Ok(())
}
