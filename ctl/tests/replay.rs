//! `katran-xsk replay`: verdict lines, frames and times, and captures that are not what they should
//! be.

use std::{
    borrow::Cow,
    fs::{self, File},
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Output},
};

use etherparse::PacketBuilder;
use pcap_file::{
    DataLink, TsResolution,
    pcap::{PcapHeader, PcapReader, PcapWriter, RawPcapPacket},
};

const CONFIG: &str = r#"
[interface]
next_hop_mac = "02:00:00:00:cc:03"
[balancer]
flow_table_capacity = 100
[[vip]]
address = "203.0.113.10"
port = 80
protocol = "tcp"
reals = [{ address = "198.51.100.11" }]
[[vip]]
address = "203.0.113.20"
port = 53
protocol = "udp"
[[vip]]
address = "203.0.113.40"
port = 80
protocol = "tcp"
flags = ["src-routing"]
reals = [{ address = "198.51.100.11" }]
[[source_route]]
prefix = "192.0.2.0/25"
real = "198.51.100.12"
[[vip]]
address = "203.0.113.30"
port = 53
protocol = "udp"
flags = ["local-vip"]
reals = [{ address = "192.0.2.254", local = true }]
"#;

struct Rig {
    folder: tempfile::TempDir,
}

impl Rig {
    fn new(capture: &[u8]) -> Self {
        let rig = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(rig.path("lb.toml"), CONFIG).unwrap();
        fs::write(rig.path("in.pcap"), capture).unwrap();
        rig
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, output: &str, verdicts: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_katran-xsk"));
        command.arg("replay");
        for (option, name) in [
            ("--config", "lb.toml"),
            ("--in", "in.pcap"),
            ("--out", output),
            ("--verdicts", verdicts),
        ] {
            command.arg(option).arg(self.path(name));
        }
        command
    }

    fn replay(&self, output: &str) -> Output {
        self.command(output, "verdicts.jsonl").output().unwrap()
    }

    /// Replays to these files, expects to be refused, and returns what was said.
    fn replay_to(&self, output: &str, verdicts: &str) -> String {
        let output = self.command(output, verdicts).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        stderr
    }

    /// Replays and expects success; returns what was said.
    fn succeed(&self) -> String {
        let output = self.replay("out.pcap");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        stderr
    }

    /// Replays and expects failure; returns what was said.
    fn fail(&self) -> String {
        let output = self.replay("out.pcap");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn verdicts(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("verdicts.jsonl")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Seconds, fraction and bytes of each frame that was written.
    fn frames(&self) -> Vec<(u32, u32, Vec<u8>)> {
        let mut reader = PcapReader::new(File::open(self.path("out.pcap")).unwrap()).unwrap();
        let mut frames = Vec::new();
        while let Some(packet) = reader.next_raw_packet() {
            let packet = packet.unwrap();
            frames.push((packet.ts_sec, packet.ts_frac, packet.data.to_vec()));
        }
        frames
    }
}

fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0xbb, 2], [2, 0, 0, 0, 0xaa, 1])
}

fn tcp(destination: [u8; 4], port: u16, syn: bool) -> Vec<u8> {
    let builder = ethernet()
        .ipv4([192, 0, 2, 10], destination, 64)
        .tcp(40_000, port, 1, 1000);
    let builder = if syn { builder.syn() } else { builder.ack(2) };
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame
}

fn udp(destination: [u8; 4], port: u16) -> Vec<u8> {
    let builder = ethernet()
        .ipv4([192, 0, 2, 10], destination, 64)
        .udp(40_000, port);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"question").unwrap();
    frame
}

/// A capture of these frames, one each 10 s and 7 units of the resolution.
fn capture(resolution: TsResolution, link: DataLink, frames: &[Vec<u8>]) -> Vec<u8> {
    let header = PcapHeader {
        ts_resolution: resolution,
        datalink: link,
        snaplen: 65_535,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for (number, frame) in (0..).zip(frames) {
        writer
            .write_raw_packet(&RawPcapPacket {
                ts_sec: 100 + 10 * number,
                ts_frac: 7 * number,
                incl_len: frame.len() as u32,
                orig_len: frame.len() as u32,
                data: Cow::Borrowed(frame),
            })
            .unwrap();
    }
    writer.into_writer()
}

fn frames() -> Vec<Vec<u8>> {
    vec![
        tcp([203, 0, 113, 10], 80, true),
        tcp([203, 0, 113, 10], 80, false),
        tcp([203, 0, 113, 10], 81, false),
        udp([203, 0, 113, 20], 53),
        udp([192, 0, 2, 99], 53),
    ]
}

#[test]
fn a_packet_for_a_local_real_is_passed_as_it_came() {
    let packet = udp([203, 0, 113, 30], 53);
    let packets = [packet.clone(), packet.clone()];
    let rig = Rig::new(&capture(
        TsResolution::MicroSecond,
        DataLink::ETHERNET,
        &packets,
    ));
    assert_eq!(rig.succeed(), "");
    let verdicts = ["ring", "table"].map(|selection| {
        let number = u8::from(selection == "table");
        format!(
            "{{\"packet\":{number},\"verdict\":\"pass\",\"reason\":null,\"vip\":\"203.0.113.30:53/udp\",\
             \"real\":\"192.0.2.254\",\"selection\":\"{selection}\"}}"
        )
    });
    assert_eq!(rig.verdicts(), verdicts);
    for (_, _, frame) in rig.frames() {
        assert_eq!(frame, packet);
    }
}

#[test]
fn a_client_with_a_source_route_goes_where_it_says() {
    let vip = [203, 0, 113, 40];
    let packets = [tcp(vip, 80, true), tcp(vip, 80, false)];
    let rig = Rig::new(&capture(
        TsResolution::MicroSecond,
        DataLink::ETHERNET,
        &packets,
    ));
    assert_eq!(rig.succeed(), "");
    let verdicts = [(0, "source-route"), (1, "table")].map(|(number, selection)| {
        format!(
            "{{\"packet\":{number},\"verdict\":\"tx\",\"reason\":null,\"vip\":\"203.0.113.40:80/tcp\",\
             \"real\":\"198.51.100.12\",\"selection\":\"{selection}\"}}"
        )
    });
    assert_eq!(rig.verdicts(), verdicts);
}

#[test]
fn each_packet_has_its_line_and_each_that_leaves_its_frame() {
    for resolution in [TsResolution::MicroSecond, TsResolution::NanoSecond] {
        let packets = frames();
        let rig = Rig::new(&capture(resolution, DataLink::ETHERNET, &packets));
        assert_eq!(rig.succeed(), "");
        let line = |number: u32, rest: &str| format!("{{\"packet\":{number},{rest}}}");
        let to_real = "\"vip\":\"203.0.113.10:80/tcp\",\"real\":\"198.51.100.11\"";
        assert_eq!(
            rig.verdicts(),
            [
                line(
                    0,
                    &format!("\"verdict\":\"tx\",\"reason\":null,{to_real},\"selection\":\"ring\"")
                ),
                line(
                    1,
                    &format!(
                        "\"verdict\":\"tx\",\"reason\":null,{to_real},\"selection\":\"table\""
                    )
                ),
                line(
                    2,
                    "\"verdict\":\"pass\",\"reason\":null,\"vip\":null,\"real\":null,\"selection\":null"
                ),
                line(
                    3,
                    "\"verdict\":\"drop\",\"reason\":\"no-real\",\"vip\":\"203.0.113.20:53/udp\",\"real\":\
                     null,\"selection\":null"
                ),
                line(
                    4,
                    "\"verdict\":\"pass\",\"reason\":null,\"vip\":null,\"real\":null,\"selection\":null"
                ),
            ]
        );
        let written = rig.frames();
        let times: Vec<_> = written.iter().map(|frame| (frame.0, frame.1)).collect();
        assert_eq!(times, [(100, 0), (110, 7), (120, 14), (140, 28)]);
        assert_eq!(written[0].2[..6], [2, 0, 0, 0, 0xcc, 3]);
        assert_eq!(written[0].2[34..], packets[0][14..], "the packet inside");
        assert_eq!(written[2].2, packets[2]);
        assert_eq!(written[3].2, packets[4]);
    }
}

/// An IPv4 frame in an IPIP tunnel to the decap destination.
fn tunnelled(inner: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ethernet()
        .ipv4([198, 18, 9, 9], [198, 18, 5, 1], 64)
        .write(&mut frame, etherparse::IpNumber::IPV4, &inner[14..])
        .unwrap();
    frame
}

#[test]
fn tunnels_to_a_decap_destination_are_taken_apart() {
    let (request, question) = (tcp([203, 0, 113, 10], 80, true), udp([192, 0, 2, 99], 53));
    let packets = [
        tunnelled(&request),
        tunnelled(&tunnelled(&question)),
        tunnelled(&question[..33]),
    ];
    let rig = Rig::new(&capture(
        TsResolution::MicroSecond,
        DataLink::ETHERNET,
        &packets,
    ));
    let decap = "[[decap]]\naddress = \"198.18.5.1\"\n";
    fs::write(rig.path("lb.toml"), format!("{CONFIG}{decap}")).unwrap();
    assert_eq!(rig.succeed(), "");
    let nobody = "\"vip\":null,\"real\":null,\"selection\":null";
    assert_eq!(
        rig.verdicts(),
        [
            "{\"packet\":0,\"verdict\":\"tx\",\"reason\":null,\"vip\":\"203.0.113.10:80/tcp\",\
             \"real\":\"198.51.100.11\",\"selection\":\"ring\",\"stripped\":20}"
                .to_owned(),
            format!(
                "{{\"packet\":1,\"verdict\":\"pass\",\"reason\":null,{nobody},\"stripped\":40}}"
            ),
            format!(
                "{{\"packet\":2,\"verdict\":\"drop\",\"reason\":\"inner-truncated\",{nobody}}}"
            ),
        ]
    );
    // TTL and checksum of the inner packets are those of a packet one hop later.
    let later = |frame: &[u8]| {
        let (mut header, payload) = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap();
        header.time_to_live -= 1;
        header.header_checksum = header.calc_header_checksum();
        [&frame[..14], &header.to_bytes(), payload].concat()
    };
    let written = rig.frames();
    assert_eq!(written.len(), 2);
    assert_eq!(
        written[0].2[34..],
        later(&request)[14..],
        "one outer header"
    );
    assert_eq!(written[1].2, later(&question), "the innermost packet");
}

#[test]
fn the_frames_are_in_the_order_of_bytes_that_every_reader_takes() {
    let rig = Rig::new(&capture(TsResolution::MicroSecond, DataLink::ETHERNET, &[]));
    rig.succeed();
    let frames = fs::read(rig.path("out.pcap")).expect("the frames");
    assert!(frames.starts_with(&[0xd4, 0xc3, 0xb2, 0xa1]), "{frames:x?}");
}

#[test]
fn an_empty_capture_gives_empty_results() {
    let rig = Rig::new(&capture(TsResolution::MicroSecond, DataLink::ETHERNET, &[]));
    assert_eq!(rig.succeed(), "");
    assert!(rig.verdicts().is_empty());
    assert!(rig.frames().is_empty());
}

#[test]
fn a_capture_that_ends_early_is_replayed_as_far_as_it_goes() {
    let whole = capture(TsResolution::MicroSecond, DataLink::ETHERNET, &frames());
    let rig = Rig::new(&whole[..whole.len() - 3]);
    let said = rig.fail();
    let path = rig.path("in.pcap");
    assert_eq!(
        said,
        format!(
            "katran-xsk: {}: packet 4: the capture ends in the middle of it\n",
            path.display()
        )
    );
    assert_eq!(rig.verdicts().len(), 4);
    assert_eq!(rig.frames().len(), 3);
}

#[test]
fn packets_that_the_capture_cut_are_pointed_out() {
    let mut whole = capture(
        TsResolution::MicroSecond,
        DataLink::ETHERNET,
        &frames()[..1],
    );
    // The length on the wire is the last field of the packet's header.
    let length = &mut whole[24 + 12..24 + 16];
    if length == 54_u32.to_be_bytes() {
        length.copy_from_slice(&1500_u32.to_be_bytes());
    } else {
        length.copy_from_slice(&1500_u32.to_le_bytes());
    }
    let rig = Rig::new(&whole);
    let said = rig.succeed();
    assert!(
        said.contains("1 packets were captured in part only"),
        "{said}"
    );
    assert_eq!(rig.verdicts().len(), 1);
}

#[test]
fn other_link_types_are_refused() {
    let rig = Rig::new(&capture(
        TsResolution::MicroSecond,
        DataLink::RAW,
        &frames(),
    ));
    let said = rig.fail();
    assert!(
        said.ends_with("link type RAW is not Ethernet; capture on an Ethernet interface\n"),
        "{said}"
    );
}

#[test]
fn files_that_are_no_captures_are_refused() {
    let rig = Rig::new(b"GET / HTTP/1.1\r\nHost: example.net\r\n\r\n");
    let said = rig.fail();
    assert!(
        said.contains("in.pcap: neither a pcap nor a pcapng capture: "),
        "{said}"
    );
    fs::remove_file(rig.path("in.pcap")).unwrap();
    let said = rig.fail();
    assert!(
        said.contains("in.pcap: cannot be read: No such file or directory"),
        "{said}"
    );
}

#[test]
fn what_is_read_is_never_overwritten() {
    let bytes = capture(TsResolution::MicroSecond, DataLink::ETHERNET, &frames());
    let rig = Rig::new(&bytes);
    for name in ["in.pcap", "lb.toml"] {
        symlink(rig.path(name), rig.path(&format!("symbolic-{name}"))).unwrap();
        fs::hard_link(rig.path(name), rig.path(&format!("hard-{name}"))).unwrap();
        for output in [
            name.to_owned(),
            format!("symbolic-{name}"),
            format!("hard-{name}"),
        ] {
            for (out, verdicts) in [(output.as_str(), "v.jsonl"), ("o.pcap", output.as_str())] {
                let said = rig.replay_to(out, verdicts);
                let which = if out == output { "--out" } else { "--verdicts" };
                let read = if name == "in.pcap" {
                    "--in"
                } else {
                    "--config"
                };
                assert_eq!(
                    said,
                    format!(
                        "katran-xsk: {which}: {} is the same file as {read}; name another file\n",
                        rig.path(&output).display()
                    )
                );
                assert_eq!(fs::read(rig.path("in.pcap")).unwrap(), bytes);
                assert_eq!(fs::read_to_string(rig.path("lb.toml")).unwrap(), CONFIG);
                assert!(!rig.path("o.pcap").exists() && !rig.path("v.jsonl").exists());
            }
        }
    }
}

#[test]
fn the_two_outputs_are_two_files() {
    let rig = Rig::new(&capture(
        TsResolution::MicroSecond,
        DataLink::ETHERNET,
        &frames(),
    ));
    // One that is not there yet, by two names, and one that is, by two links.
    let said = rig.replay_to("new", "new");
    assert!(
        said.contains("--verdicts: ") && said.contains("is the same file as --out"),
        "{said}"
    );
    let dotted = rig.replay_to("new", "./new");
    assert!(dotted.contains("is the same file as --out"), "{dotted}");
    assert!(!rig.path("new").exists());
    symlink("later", rig.path("dangling")).unwrap();
    let said = rig.replay_to("later", "dangling");
    assert!(said.contains("is the same file as --out"), "{said}");
    assert!(!rig.path("later").exists());
    fs::write(rig.path("one"), "kept").unwrap();
    fs::hard_link(rig.path("one"), rig.path("two")).unwrap();
    let said = rig.replay_to("one", "two");
    assert!(said.contains("is the same file as --out"), "{said}");
    assert_eq!(fs::read_to_string(rig.path("one")).unwrap(), "kept");
}

#[test]
fn outputs_that_hold_nothing_can_be_the_same() {
    let rig = Rig::new(&capture(
        TsResolution::MicroSecond,
        DataLink::ETHERNET,
        &frames(),
    ));
    assert!(
        rig.command("/dev/null", "/dev/null")
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn a_configuration_that_is_not_valid_is_refused() {
    let rig = Rig::new(&capture(TsResolution::MicroSecond, DataLink::ETHERNET, &[]));
    fs::write(rig.path("lb.toml"), "[balancer]\nhash = 1\n").unwrap();
    let said = rig.fail();
    assert!(
        said.contains("lb.toml:2: balancer.hash: 1 is a whole number; "),
        "{said}"
    );
}
