//! Captures of real packets by the real program.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use benches::balancer::{Balancer, Vip};
use benches::lab::{Lab, LabOptions, requirements};
use benches::traffic::run_connections;
use etherparse::{LaxPacketHeaders, NetHeaders, TransportHeader};
use pcap_file::pcapng::{Block, PcapNgReader, blocks::enhanced_packet::EnhancedPacketOption};
use serde_json::Value;

use super::support::{
    PORT, TIMEOUT, assert_nothing_dropped, binary, exchanges, output, real_address, require,
    servers, start, vip, vip_address, wait_until,
};

const REALS: u8 = 3;
/// Packets of a capture.
const LIMIT: usize = 200;

/// A captured packet.
struct Packet {
    destination: SocketAddr,
    bytes: usize,
    original_len: u32,
    comment: String,
}

impl Packet {
    /// A field of the comment.
    fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.comment.split(' ');
        fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    }
}

/// Reads a whole file; etherparse says where the packets go. The number of queues that have totals
/// at the end as well.
fn read(path: &Path) -> Result<(Vec<Packet>, usize)> {
    let mut reader = PcapNgReader::new(File::open(path)?)?;
    let (mut packets, mut totals) = (Vec::new(), 0);
    while let Some(block) = reader.next_block() {
        match block? {
            Block::EnhancedPacket(packet) => {
                let headers = LaxPacketHeaders::from_ethernet(&packet.data)?;
                let address: IpAddr = match headers.net.context("an IP header")? {
                    NetHeaders::Ipv4(header, _) => header.destination.into(),
                    NetHeaders::Ipv6(header, _) => header.destination.into(),
                    NetHeaders::Arp(_) => anyhow::bail!("ARP was captured"),
                };
                let port = match headers.transport {
                    Some(TransportHeader::Tcp(tcp)) => tcp.destination_port,
                    other => anyhow::bail!("{other:?} was captured"),
                };
                let comment = packet.options.iter().find_map(|option| match option {
                    EnhancedPacketOption::Comment(text) => Some(text.to_string()),
                    _ => None,
                });
                packets.push(Packet {
                    destination: (address, port).into(),
                    bytes: packet.data.len(),
                    original_len: packet.original_len,
                    comment: comment.context("a comment")?,
                });
            }
            Block::InterfaceStatistics(_) => totals += 1,
            _ => {}
        }
    }
    Ok((packets, totals))
}

/// Runs `katran-xsk ctl` as an operator in this directory would.
fn ctl(directory: &Path, balancer: &Balancer, line: &str) -> Result<String> {
    let mut command = Command::new(binary());
    command
        .current_dir(directory)
        .args(["ctl", "--socket"])
        .arg(balancer.socket())
        .args(line.split(' '));
    Ok(String::from_utf8(output(&mut command)?.stdout)?)
}

fn state(balancer: &Balancer) -> Result<Value> {
    Ok(balancer.ctl(["capture", "status"])?["state"].clone())
}

/// A VIP of each family, and one without reals.
fn vips() -> [Vip; 3] {
    [
        vip(0, false, PORT, "tcp", 0..REALS),
        vip(0, true, PORT, "tcp", 0..REALS),
        vip(1, false, PORT, "tcp", []),
    ]
}

#[test]
fn a_capture_has_the_packets_and_the_reals_they_went_to() -> Result<()> {
    require!(a_capture_has_the_packets_and_the_reals_they_went_to);
    let lab = Lab::new(LabOptions::default())?;
    let vips = vips();
    let [_, v6, _] = &vips;
    let balancer = start(&lab, &vips)?;
    let _servers = servers(&lab, 0..REALS)?;

    // As an operator types it, with a path that is relative to where that is.
    let line = format!(
        "capture start --event vip:{} --limit {LIMIT} --snaplen 96 -w v6.pcapng",
        v6.name()
    );
    let directory = tempfile::tempdir()?;
    let said = ctl(directory.path(), &balancer, &line)?;
    ensure!(said.contains("running"), "{said}");
    for vip in &vips[..2] {
        let tally = run_connections(lab.client(0), &exchanges(vip, 100, 2000), |_| ())?;
        ensure!(tally.answered() == 100, "{tally:?}");
    }
    wait_until("the limit is reached", TIMEOUT, || {
        Ok(state(&balancer)? == "complete")
    })?;
    let file = directory.path().join("v6.pcapng");
    let (packets, totals) = read(&file)?;
    ensure!((packets.len(), totals) == (LIMIT, lab_queues(&balancer)?));
    let mut reals = BTreeSet::new();
    for packet in &packets {
        ensure!(packet.destination == (v6.address, v6.port).into());
        ensure!(packet.bytes == (packet.original_len as usize).min(96));
        ensure!(packet.field("verdict") == Some("tx"), "{}", packet.comment);
        ensure!(packet.field("vip") == Some(v6.name().as_str()));
        let real: IpAddr = packet.field("real").context("a real")?.parse()?;
        ensure!((0..REALS).any(|i| real_address(i, true) == real));
        reals.insert(real);
    }
    ensure!(reals.len() == usize::from(REALS), "{reals:?}");
    assert_nothing_dropped(&balancer)?;
    // Whoever else reads the format must understand it.
    if let Some(tcpdump) = requirements::find_program("tcpdump") {
        let mut command = Command::new(tcpdump);
        let lines = output(command.args(["-Z", "root", "-nr"]).arg(&file))?.stdout;
        ensure!(String::from_utf8(lines)?.lines().count() == LIMIT);
    }
    Ok(())
}

fn lab_queues(balancer: &Balancer) -> Result<usize> {
    let workers = balancer.ctl(["show", "workers"])?;
    Ok(workers["workers"].as_array().context("workers")?.len())
}

#[test]
fn a_capture_is_complete_when_the_balancer_stops() -> Result<()> {
    require!(a_capture_is_complete_when_the_balancer_stops);
    let lab = Lab::new(LabOptions::default())?;
    let vips = vips();
    let [_, v6, empty] = &vips;
    let balancer = start(&lab, &vips)?;
    let _servers = servers(&lab, 0..REALS)?;

    // By the socket, and by a shell's script.
    let file = lab.scratch().file("drops.pcapng");
    let mut socket = BufReader::new(UnixStream::connect(balancer.socket())?);
    let line = format!(
        "capture start --event no-real --event lru-miss -w {}\n",
        file.display()
    );
    socket.get_mut().write_all(line.as_bytes())?;
    let mut answer = String::new();
    socket.read_line(&mut answer)?;
    let answer: Value = serde_json::from_str(&answer)?;
    let report = &answer["result"];
    ensure!(
        report["state"] == "running" && report["failed"] == serde_json::json!([]),
        "{answer}"
    );
    drop(socket);
    let mut shell = Command::new(binary())
        .args(["shell", "--socket"])
        .arg(balancer.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = shell.stdin.take().context("a pipe")?;
    input.write_all(b"capture status\n")?;
    drop(input);
    let said = String::from_utf8(shell.wait_with_output()?.stdout)?;
    ensure!(said.contains("no-real,lru-miss"), "{said}");

    let nobody = SocketAddr::from((vip_address(1, false), PORT));
    let refused = lab
        .client(0)
        .run(|| TcpStream::connect_timeout(&nobody, Duration::from_millis(300)))?;
    ensure!(refused.is_err(), "{nobody} answered");
    // These neither miss the table in mid-connection nor are they dropped.
    let tally = run_connections(lab.client(0), &exchanges(v6, 100, 100), |_| ())?;
    ensure!(tally.answered() == 100, "{tally:?}");

    let queues = lab_queues(&balancer)?;
    ensure!(state(&balancer)? == "running");
    ensure!(balancer.stop()?.success());
    let (packets, totals) = read(&file)?;
    ensure!(
        totals == queues,
        "the file ends with the totals of {totals} queues of {queues}"
    );
    ensure!(!packets.is_empty(), "nothing was captured");
    for packet in &packets {
        let name = empty.name();
        ensure!(packet.destination == nobody, "{}", packet.comment);
        ensure!(
            packet.field("verdict") == Some("drop") && packet.field("reason") == Some("no-real"),
            "{}",
            packet.comment
        );
        ensure!(packet.field("vip") == Some(name.as_str()));
    }
    Ok(())
}
