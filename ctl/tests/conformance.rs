//! `katran-xsk replay` against the cases of the conformance data, which lies beside the repository
//! and is not part of it. Without it there is nothing to test, and the output says so.
//!
//! What is not built yet is left out of a case: VIPs with such flags together with all packets for
//! their addresses. Every packet that remains has to agree in verdict and in every byte.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
};

use dataplane::service::VipFlags;
use pcap_file::pcap::{PcapReader, PcapWriter};
use serde_json::Value;

const ETHERNET: usize = 14;

/// Writes a line past the test harness, which shows what goes through `println!` of failures only.
fn say(line: &str) {
    // In one write, lest another test's line cuts in.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn cases() -> Option<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    let mut cases: Vec<_> = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("in.pcap").is_file())
        .collect();
    cases.sort();
    Some(cases)
}

#[test]
fn replay_agrees_with_every_case() {
    let Some(cases) = cases() else {
        say("SKIPPED replay_agrees_with_every_case: no conformance data beside the repository");
        return;
    };
    assert!(
        !cases.is_empty(),
        "a folder of conformance data without cases"
    );
    for case in cases {
        Case::load(&case).check();
    }
}

/// An address or prefix.
#[derive(Clone, Copy)]
struct Network(IpAddr, u32);

impl Network {
    fn parse(text: &str) -> Self {
        let (address, length) = text.split_once('/').unwrap_or((text, "128"));
        Self(address.parse().unwrap(), length.parse().unwrap())
    }

    fn contains(self, address: IpAddr) -> bool {
        match (self.0, address) {
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let host_bits = 128 - self.1;
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                network.to_bits() == address.to_bits() & mask
            }
            (network, address) => network == address,
        }
    }
}

struct Case {
    name: String,
    packets: Vec<pcap_file::pcap::PcapPacket<'static>>,
    expected: Vec<Value>,
    /// What remains of the configuration.
    config: toml::Table,
    /// Addresses of VIPs that were left out.
    left_out: Vec<Network>,
}

impl Case {
    fn load(folder: &Path) -> Self {
        let mut config: toml::Table = fs::read_to_string(folder.join("lb.toml"))
            .unwrap()
            .parse()
            .unwrap();
        let mut left_out = Vec::new();
        config["vip"].as_array_mut().unwrap().retain(|vip| {
            let flags = vip
                .get("flags")
                .map_or(&[] as &[_], |flags| flags.as_array().unwrap());
            let built = flags.iter().all(|flag| {
                let name = flag.as_str().unwrap();
                let (_, flag) = VipFlags::NAMES
                    .iter()
                    .find(|(known, _)| *known == name)
                    .unwrap();
                VipFlags::SUPPORTED.contains(*flag)
            });
            if !built {
                left_out.push(Network::parse(vip["address"].as_str().unwrap()));
            }
            built
        });
        let mut reader = PcapReader::new(File::open(folder.join("in.pcap")).unwrap()).unwrap();
        let mut packets = Vec::new();
        while let Some(packet) = reader.next_packet() {
            packets.push(packet.unwrap().into_owned());
        }
        let expected: Vec<Value> = fs::read_to_string(folder.join("expected.jsonl"))
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(packets.len(), expected.len(), "{}", folder.display());
        Self {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            packets,
            expected,
            config,
            left_out,
        }
    }

    /// Packets that need nothing but what is built, by number.
    fn remaining(&self) -> Vec<usize> {
        let touches = |address| {
            self.left_out
                .iter()
                .any(|network| network.contains(address))
        };
        (0..self.packets.len())
            .filter(|&number| {
                let data = &self.packets[number].data;
                let pairs = [ip_packet(data), quoted(data)].map(|packet| addresses(packet?));
                !pairs
                    .into_iter()
                    .flatten()
                    .any(|(source, destination)| touches(source) || touches(destination))
            })
            .collect()
    }

    fn check(&self) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("lb.toml"), self.config.to_string()).unwrap();
        let remaining = self.remaining();
        let mut writer = PcapWriter::new(File::create(path("in.pcap")).unwrap()).unwrap();
        for &number in &remaining {
            writer.write_packet(&self.packets[number]).unwrap();
        }
        drop(writer.into_writer());

        let output = Command::new(env!("CARGO_BIN_EXE_katran-xsk"))
            .arg("replay")
            .arg("--config")
            .arg(path("lb.toml"))
            .arg("--in")
            .arg(path("in.pcap"))
            .arg("--out")
            .arg(path("out.pcap"))
            .arg("--verdicts")
            .arg(path("verdicts.jsonl"))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", self.name);

        let verdicts = fs::read_to_string(path("verdicts.jsonl")).unwrap();
        assert_eq!(verdicts.lines().count(), remaining.len(), "{}", self.name);
        let mut frames = PcapReader::new(File::open(path("out.pcap")).unwrap()).unwrap();
        let mut counts = [0; 3];
        let mut wrong = BTreeSet::new();
        for (&number, line) in remaining.iter().zip(verdicts.lines()) {
            let line: Value = serde_json::from_str(line).unwrap();
            let expected = &self.expected[number];
            let frame = match line["verdict"].as_str() {
                Some("drop") => None,
                _ => Some(
                    frames
                        .next_packet()
                        .expect("a frame for each tx and pass")
                        .unwrap(),
                ),
            };
            let verdict = expected["verdict"].as_str().unwrap();
            let kind = ["tx", "pass", "drop"]
                .iter()
                .position(|&kind| kind == verdict)
                .unwrap();
            counts[kind] += 1;
            let wanted = match verdict {
                "tx" => Some(unhex(expected["out"].as_str().unwrap())),
                "pass" => Some(self.packets[number].data.to_vec()),
                _ => None,
            };
            let same_frame = frame.as_ref().map(|frame| frame.data.as_ref()) == wanted.as_deref();
            let same_time = frame
                .as_ref()
                .is_none_or(|frame| frame.timestamp == self.packets[number].timestamp);
            if line["verdict"] != expected["verdict"] || !same_frame || !same_time {
                println!(
                    "{} packet {number}: got {line}, expected {expected}",
                    self.name
                );
                if let Some(frame) = frame {
                    println!("    frame {:02x?}", frame.data);
                }
                wrong.insert(number);
            }
        }
        assert!(
            frames.next_packet().is_none(),
            "{}: frames left over",
            self.name
        );
        let [tx, pass, drop] = counts;
        say(&format!(
            "{}: {} of {} packets remain ({tx} tx, {pass} pass, {drop} drop); {} VIPs left out; {} \
             disagree",
            self.name,
            remaining.len(),
            self.packets.len(),
            self.left_out.len(),
            wrong.len(),
        ));
        assert!(
            tx > 0 && pass > 0 && drop > 0,
            "{}: too little remains",
            self.name
        );
        assert!(
            wrong.is_empty(),
            "{}: packets {wrong:?} disagree",
            self.name
        );
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// IP version and packet of a frame, by its Ethernet type: the version inside may be wrong on purpose.
fn ip_packet(frame: &[u8]) -> Option<(u8, &[u8])> {
    let version = match frame.get(12..ETHERNET)? {
        [0x08, 0x00] => 4,
        [0x86, 0xdd] => 6,
        _ => return None,
    };
    Some((version, &frame[ETHERNET..]))
}

/// Source and destination of an IP packet.
fn addresses((version, ip): (u8, &[u8])) -> Option<(IpAddr, IpAddr)> {
    let v4 = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 4] = ip.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes).into())
    };
    let v6 = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = ip.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(bytes).into())
    };
    match version {
        4 => Some((v4(12)?, v4(16)?)),
        _ => Some((v6(8)?, v6(24)?)),
    }
}

/// Protocol and payload of an IP packet without options.
fn payload((version, ip): (u8, &[u8])) -> Option<(u8, &[u8])> {
    match version {
        4 => Some((*ip.get(9)?, ip.get(20..)?)),
        _ => Some((*ip.get(6)?, ip.get(40..)?)),
    }
}

/// The packet that an ICMP error quotes.
fn quoted(frame: &[u8]) -> Option<(u8, &[u8])> {
    let packet = ip_packet(frame)?;
    match payload(packet)? {
        (1 | 58, icmp) => Some((packet.0, icmp.get(8..)?)),
        _ => None,
    }
}
