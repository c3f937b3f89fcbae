//! Health checks: what the balancer's host sends to a VIP with a mark reaches the real of the mark.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use benches::balancer::{Balancer, Launch, configuration};
use benches::lab::{Lab, LabOptions, Namespace, VethEnd, plan};
use benches::traffic::WebServer;
use nix::sys::{
    socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket,
        sockopt::{Mark, ReceiveTimeout, SendTimeout},
    },
    time::{TimeVal, TimeValLike as _},
};
use serde_json::Value;

use super::support::{
    FAMILIES, FLOWS, binary, output, program, real_address, require, vip, vip_address,
};

const WEB_PORT: u16 = 80;
const REALS: u8 = 3;
/// The only real of the VIPs. It answers what nobody marked, by way of router and balancer.
const BALANCED: u8 = 0;
/// Longest time for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Port and bytes of what is sent to a real.
const UPLOAD_PORT: u16 = 8080;
const UPLOAD: usize = 2_000_000;
/// Interface for probes, and its far end.
const PROBES: [&str; 2] = ["hc0", "hc1"];

/// The mark of a real, by family.
fn mark(real: u8, v6: bool) -> u32 {
    let mark = 7 + u32::from(real);
    if v6 { mark | 0x8000_0000 } else { mark }
}

/// The real's servers, which say who it is.
fn servers(lab: &Lab) -> Result<Vec<WebServer>> {
    let addresses = FAMILIES.map(|v6| vip_address(0, v6));
    (0..REALS)
        .map(|real| {
            let body = format!("real {real}");
            WebServer::start(lab.real(real), &addresses, WEB_PORT, &body)
        })
        .collect()
}

/// A configuration with a VIP of each family, this in `[balancer]`, and marks for these reals.
fn config(balancer: &str, reals: &[u8], rest: &str) -> String {
    let vips = FAMILIES.map(|v6| vip(0, v6, WEB_PORT, "tcp", [BALANCED]));
    let head = format!(
        "[balancer]\n{balancer}source_v4 = \"{}\"\nsource_v6 = \"{}\"\n",
        plan::BALANCER_V4,
        plan::BALANCER_V6
    );
    let mut text = configuration(&vips, FLOWS).replace("[balancer]\n", &head);
    for real in reals {
        for v6 in FAMILIES {
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "\n[[health_check]]\nmark = {}\nreal = \"{}\"\n",
                mark(*real, v6),
                real_address(*real, v6)
            );
        }
    }
    text + rest
}

fn start(lab: &Lab, config: String) -> Result<Balancer> {
    let path = lab.scratch().write("lb.toml", config)?;
    Launch::new(binary(), path).start(lab)
}

/// A connection through a socket with this mark.
fn connection(machine: &Namespace, address: SocketAddr, mark: u32) -> Result<TcpStream> {
    machine.run(|| -> Result<TcpStream> {
        let family = if address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, Mark, &mark)?;
        let patience = TimeVal::seconds(PATIENCE.as_secs().cast_signed());
        setsockopt(&socket, SendTimeout, &patience)?;
        setsockopt(&socket, ReceiveTimeout, &patience)?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(address))
            .with_context(|| format!("to {address} with mark {mark}"))?;
        Ok(TcpStream::from(socket))
    })?
}

/// What a server says to `GET /`, asked through a socket with this mark.
fn get(machine: &Namespace, address: IpAddr, mark: u32) -> Result<String> {
    let mut stream = connection(machine, (address, WEB_PORT).into(), mark)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(body.to_owned())
}

/// Who answers a probe of the VIP.
fn answers(lab: &Lab, v6: bool, mark: u32) -> Result<String> {
    get(lab.balancer(), vip_address(0, v6), mark)
}

fn counter(balancer: &Balancer, name: &str) -> Result<u64> {
    let stats = balancer.ctl(["show", "stats"])?;
    stats["health_checks"][name]
        .as_u64()
        .with_context(|| format!("no {name} in {}", stats["health_checks"]))
}

/// The row of a mark in `hc list`.
fn row(balancer: &Balancer, mark: u32) -> Result<Value> {
    let list = balancer.ctl(["hc", "list"])?;
    let rows = list["health_checks"].as_array().context("a list")?;
    let row = rows.iter().find(|row| row["mark"] == mark);
    Ok(row
        .with_context(|| format!("no mark {mark} in {list}"))?
        .clone())
}

#[test]
fn each_mark_reaches_its_real() -> Result<()> {
    require!(each_mark_reaches_its_real);
    let lab = Lab::new(LabOptions::default())?;
    let _servers = servers(&lab)?;
    for encapsulation in ["", "encapsulation = \"gue\"\n"] {
        let balancer = start(&lab, config(encapsulation, &[0, 1, 2], ""))?;
        for v6 in FAMILIES {
            for real in (0..REALS).chain((0..REALS).rev()) {
                let body = answers(&lab, v6, mark(real, v6))?;
                assert_eq!(body, format!("real {real}"), "{encapsulation} v6 {v6}");
            }
            for real in 0..REALS {
                let row = row(&balancer, mark(real, v6))?;
                assert!(row["packets"].as_u64() >= Some(8), "{row}");
                assert!(row["bytes"].as_u64() >= Some(8 * 54), "{row}");
            }
        }
        // A probe to an IPv4 VIP by the mark of an IPv6 real.
        assert_eq!(answers(&lab, false, mark(2, true))?, "real 2");

        // What has no mark, or one that names nothing, goes where it went before.
        let processed = counter(&balancer, "processed")?;
        let skipped = counter(&balancer, "skipped")?;
        for v6 in FAMILIES {
            for unknown in [0, 77] {
                let body = answers(&lab, v6, unknown)?;
                assert_eq!(body, format!("real {BALANCED}"), "mark {unknown}");
            }
        }
        assert_eq!(counter(&balancer, "processed")?, processed);
        assert!(counter(&balancer, "skipped")? > skipped);
        for name in ["too_big", "dropped_no_next_hop", "dropped_no_room"] {
            assert_eq!(counter(&balancer, name)?, 0, "{name}");
        }
        assert!(balancer.stop()?.success());
    }
    Ok(())
}

#[test]
fn marks_change_while_it_runs_and_nothing_is_left() -> Result<()> {
    require!(marks_change_while_it_runs_and_nothing_is_left);
    let lab = Lab::new(LabOptions::default())?;
    let _servers = servers(&lab)?;
    let balancer = start(&lab, config("", &[], ""))?;
    let (probe, real) = (
        || answers(&lab, false, 7),
        |i| real_address(i, false).to_string(),
    );
    let list = balancer.ctl(["hc", "list"])?;
    assert!(list["interface"].is_null(), "nothing to attach for: {list}");
    assert_eq!(probe()?, "real 0", "by the ring");

    balancer.ctl(["hc", "add", "7", &real(1)])?;
    assert_eq!(
        balancer.ctl(["hc", "list"])?["interface"],
        plan::BALANCER_INTERFACE
    );
    assert_eq!(probe()?, "real 1");
    balancer.ctl(["hc", "add", "7", &real(2)])?;
    assert_eq!(probe()?, "real 2");
    balancer.ctl(["hc", "del", "7"])?;
    assert!(balancer.ctl(["hc", "list"])?["interface"].is_null());
    assert_eq!(probe()?, "real 0", "by the ring again");
    assert!(balancer.stop()?.success());

    // However it ends, the next one finds a clean interface.
    for kill in [false, true] {
        let balancer = start(&lab, config("", &[1], ""))?;
        let body = answers(&lab, false, mark(1, false))?;
        assert_eq!(body, "real 1");
        if kill {
            balancer.kill()?;
        } else {
            assert!(balancer.stop()?.success());
        }
        let balancer = start(&lab, config("", &[], ""))?;
        let body = answers(&lab, false, mark(1, false))?;
        assert_eq!(body, "real 0", "killed: {kill}");
        assert!(balancer.stop()?.success());
    }
    Ok(())
}

/// Makes the interface for probes, and the balancer's route to the IPv4 VIP by it.
fn probe_interface(lab: &Lab) -> Result<()> {
    let end = |name| VethEnd {
        namespace: lab.balancer(),
        name,
    };
    let [near, far] = PROBES;
    lab.balancer_links()
        .add_veth(end(near), end(far), 1, 1500)?;
    lab.balancer().disable_tx_checksum(near)?;
    let vip = vip_address(0, false).to_string();
    let source = plan::BALANCER_V4.to_string();
    for arguments in [
        vec!["link", "set", "dev", near, "arp", "off", "up"],
        vec!["route", "add", &vip, "dev", near, "src", &source],
    ] {
        output(program(lab.balancer(), "ip")?.args(arguments))?;
    }
    Ok(())
}

#[test]
fn probes_have_an_interface_of_their_own() -> Result<()> {
    require!(probes_have_an_interface_of_their_own, "ip");
    let lab = Lab::new(LabOptions::default())?;
    let _servers = servers(&lab)?;
    probe_interface(&lab)?;
    let path = format!("\n[health_check_path]\ninterface = \"{}\"\n", PROBES[0]);
    let balancer = start(&lab, config("", &[1, 2], &path))?;
    assert_eq!(balancer.ctl(["hc", "list"])?["interface"], PROBES[0]);
    for real in [1, 2, 1] {
        let body = answers(&lab, false, mark(real, false))?;
        assert_eq!(body, format!("real {real}"));
    }

    // The interface goes: only what concerns it is held up, until it is back.
    output(program(lab.balancer(), "ip")?.args(["link", "del", PROBES[0]]))?;
    let vip = vip(0, false, WEB_PORT, "tcp", []).name();
    let [first, second] = [1, 2].map(|real| real_address(real, false).to_string());
    let changes = balancer.ctl(["real", "add", &vip, &second])?;
    let warning = changes["warnings"][0].as_str().context("a warning")?;
    assert!(
        warning.contains("interface hc0: cannot be found"),
        "{warning}"
    );
    let error = balancer.ctl(["hc", "add", "99", &first]).unwrap_err();
    assert!(error.to_string().contains("interface hc0"), "{error}");
    probe_interface(&lab)?;
    balancer.ctl(["hc", "add", "99", &first])?;
    assert_eq!(answers(&lab, false, 99)?, "real 1");
    assert_eq!(answers(&lab, false, mark(2, false))?, "real 2");
    assert!(balancer.stop()?.success());
    Ok(())
}

/// Sends much to a VIP with a mark; gives what the real received.
fn upload(lab: &Lab, real: u8, v6: bool, bytes: &[u8]) -> Result<Vec<u8>> {
    let address = SocketAddr::new(vip_address(0, v6), UPLOAD_PORT);
    let listener = lab.real(real).run(|| TcpListener::bind(address))??;
    std::thread::scope(|scope| {
        let server = scope.spawn(|| -> Result<Vec<u8>> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut received = Vec::new();
            stream.read_to_end(&mut received)?;
            Ok(received)
        });
        let mut stream = connection(lab.balancer(), address, mark(real, v6))?;
        stream.write_all(bytes)?;
        stream.shutdown(Shutdown::Write)?;
        server.join().expect("no panic")
    })
}

/// Gives the balancer's default routes an MTU that leaves room for outer headers.
fn leave_room(lab: &Lab) -> Result<()> {
    for family in ["-4", "-6"] {
        let ip = || program(lab.balancer(), "ip");
        let shown = output(ip()?.args([family, "route", "show", "default"]))?.stdout;
        let route = String::from_utf8(shown)?;
        output(
            ip()?
                .args([family, "route", "change"])
                .args(route.split_whitespace())
                .args(["mtu", "1500"]),
        )?;
    }
    Ok(())
}

#[test]
fn checksums_and_segments_that_the_card_owes_are_made_inside_the_tunnel() -> Result<()> {
    require!(
        checksums_and_segments_that_the_card_owes_are_made_inside_the_tunnel,
        "ethtool",
        "ip"
    );
    let lab = Lab::new(LabOptions::default())?;
    leave_room(&lab)?;
    // As on real cards; the lab switches it off for what strips tunnels on bare frames.
    let offloads = [
        "-K",
        plan::BALANCER_INTERFACE,
        "tx",
        "on",
        "tso",
        "on",
        "gso",
        "on",
    ];
    output(program(lab.balancer(), "ethtool")?.args(offloads))?;
    let bytes: Vec<u8> = (0..UPLOAD).map(|at| (at % 251) as u8).collect();
    for encapsulation in ["", "encapsulation = \"gue\"\n"] {
        let balancer = start(&lab, config(encapsulation, &[1], ""))?;
        for v6 in FAMILIES {
            let received = upload(&lab, 1, v6, &bytes)?;
            assert!(received == bytes, "{} of {UPLOAD} bytes", received.len());
            let row = row(&balancer, mark(1, v6))?;
            let (packets, sent) = (row["packets"].as_u64(), row["bytes"].as_u64());
            // Larger than any frame: the kernel left the cutting to the card.
            let mean = sent.unwrap_or(0) / packets.unwrap_or(1).max(1);
            assert!(mean > 1514, "{row}");
        }
        assert_eq!(counter(&balancer, "dropped_no_room")?, 0);
        assert!(balancer.stop()?.success());
    }
    Ok(())
}
