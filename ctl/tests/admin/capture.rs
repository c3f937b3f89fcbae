//! `capture start|stop|status` on running workers, and the files that come of it.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use katran_xsk::admin::{
    command::{self, Command},
    server::Limits,
};
use nix::{sys::stat::Mode, unistd::Uid};
use pcap_file::{
    DataLink,
    pcapng::{
        Block, PcapNgReader,
        blocks::{
            enhanced_packet::EnhancedPacketOption,
            interface_description::InterfaceDescriptionOption,
            interface_statistics::InterfaceStatisticsOption, section_header::SectionHeaderOption,
        },
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    clients::{Connection, Served},
    rig::{CONFIG, Rig, tcp_frame, wait_until},
};

const WEB: &str = "203.0.113.10:80";

/// A packet of a file.
#[derive(Debug, PartialEq, Eq)]
struct Packet {
    interface: u32,
    time: Duration,
    original_len: u32,
    bytes: Vec<u8>,
    comment: String,
    lost_before: u64,
}

/// A file, read from front to back.
#[derive(Debug, Default)]
struct Contents {
    header: Vec<String>,
    interfaces: Vec<String>,
    packets: Vec<Packet>,
    /// Drops and accepted packets of each interface.
    totals: Vec<(u64, u64)>,
}

fn read(path: &Path) -> Contents {
    let mut contents = Contents::default();
    let mut reader = PcapNgReader::new(File::open(path).expect("a file")).expect("pcapng");
    for option in &reader.section().options {
        if let SectionHeaderOption::UserApplication(text) | SectionHeaderOption::Comment(text) =
            option
        {
            contents.header.push(text.to_string());
        }
    }
    while let Some(block) = reader.next_block() {
        match block.expect("a whole block") {
            Block::InterfaceDescription(interface) => {
                assert_eq!(interface.linktype, DataLink::ETHERNET);
                assert!(
                    interface
                        .options
                        .contains(&InterfaceDescriptionOption::IfTsResol(9))
                );
                let name = interface.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                });
                contents.interfaces.push(name.expect("a name"));
            }
            Block::EnhancedPacket(packet) => {
                let (mut comment, mut lost_before) = (None, 0);
                for option in &packet.options {
                    match option {
                        EnhancedPacketOption::Comment(text) => comment = Some(text.to_string()),
                        EnhancedPacketOption::DropCount(count) => lost_before = *count,
                        _ => {}
                    }
                }
                contents.packets.push(Packet {
                    interface: packet.interface_id,
                    time: packet.timestamp,
                    original_len: packet.original_len,
                    bytes: packet.data.to_vec(),
                    comment: comment.expect("a comment"),
                    lost_before,
                });
            }
            Block::InterfaceStatistics(totals) => {
                let (mut lost, mut accepted) = (0, 0);
                for option in &totals.options {
                    match option {
                        InterfaceStatisticsOption::IsbIfDrop(count) => lost = *count,
                        InterfaceStatisticsOption::IsbFilterAccept(count) => accepted = *count,
                        _ => {}
                    }
                }
                contents.totals.push((lost, accepted));
            }
            block => panic!("an unexpected block: {block:?}"),
        }
    }
    contents
}

/// A balancer, a client of it and a directory for files.
struct Lab {
    served: Served,
    admin: Connection,
    directory: TempDir,
}

impl Lab {
    fn new() -> Self {
        Self::with(Rig::new())
    }

    fn with(rig: Rig) -> Self {
        let served = Served::with(rig, Limits::default());
        let admin = served.connect();
        let directory = tempfile::tempdir().expect("a directory");
        Self {
            served,
            admin,
            directory,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `capture start` with these arguments, to a file of this name.
    fn start(&mut self, arguments: &str, name: &str) -> Value {
        let path = self.path(name);
        let line = format!("capture start {arguments} -w {}", path.display());
        let report = self.admin.result(&line);
        assert_eq!(report["file"], path.to_str().expect("text"));
        report
    }

    fn wait_for_state(&mut self, state: &str) -> Value {
        let mut report = Value::Null;
        wait_until(state, || {
            report = self.admin.result("capture status");
            report["state"] == state
        });
        report
    }
}

#[test]
fn packets_are_written_as_they_arrived_with_the_reason() {
    let mut lab = Lab::new();
    assert_eq!(lab.admin.result("capture status")["state"], "none");
    let before = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    let report = lab.start("--event lru-miss --event vip:203.0.113.10:80/tcp", "a");
    assert_eq!(report["state"], "running");
    assert_eq!(
        report["events"],
        json!(["lru-miss", "vip:203.0.113.10:80/tcp"])
    );
    assert_eq!(
        (&report["limit"], &report["snaplen"]),
        (&json!(10_000), &json!(128))
    );

    let client = "192.0.2.7:4000";
    let rig = &lab.served.rig;
    let real = rig.real_of(1, client, WEB).expect("it is forwarded");
    assert_eq!(rig.real_of(1, client, WEB), Some(real));
    assert_eq!(rig.send(0, client, "198.51.100.77:22"), None, "not a VIP");
    wait_until("both are written", || {
        lab.admin.result("capture status")["packets"] == 2
    });
    let report = lab.admin.result("capture stop");
    assert_eq!(report["state"], "stopped");
    // Nothing more is captured.
    lab.served.rig.send(1, client, WEB).expect("forwarded");

    let contents = read(&lab.path("a"));
    let version = concat!("katran-xsk ", env!("CARGO_PKG_VERSION"));
    let asked = "event=lru-miss,vip:203.0.113.10:80/tcp limit=10000";
    assert_eq!(contents.header, [version, asked]);
    assert_eq!(contents.interfaces, ["test0/rx-0", "test0/rx-1"]);
    assert_eq!(contents.totals, [(0, 0), (0, 2)]);
    let comments: Vec<_> = contents
        .packets
        .iter()
        .map(|packet| packet.comment.clone())
        .collect();
    assert_eq!(
        comments,
        [
            format!(
                "verdict=tx event=lru-miss vip=203.0.113.10:80/tcp real={real} selection=ring queue=1"
            ),
            format!("verdict=tx vip=203.0.113.10:80/tcp real={real} selection=table queue=1"),
        ]
    );
    let arrived = tcp_frame(client, WEB);
    let after = before + Duration::from_mins(10);
    for packet in &contents.packets {
        assert_eq!(packet.interface, 1);
        assert_eq!(packet.bytes, arrived);
        assert_eq!(packet.original_len as usize, arrived.len());
        assert!(
            (before.saturating_sub(Duration::from_millis(1))..after).contains(&packet.time),
            "{:?}",
            packet.time
        );
    }
    assert!(contents.packets[0].time <= contents.packets[1].time);
    let size = fs::metadata(lab.path("a")).expect("a file").len();
    assert_eq!(report["bytes"], size);
}

#[test]
fn a_capture_ends_at_its_limit_over_all_workers() {
    let mut lab = Lab::new();
    lab.start("--event vip:203.0.113.10 --limit 25 --snaplen 60", "a");
    let rig = &lab.served.rig;
    thread::scope(|scope| {
        for queue in 0..2 {
            scope.spawn(move || {
                for flow in 0..40 {
                    let client = format!("192.0.2.{queue}:{}", 1000 + flow);
                    assert!(rig.send(queue, &client, WEB).is_some());
                }
            });
        }
    });
    let report = lab.wait_for_state("complete");
    assert_eq!(report["packets"], 25);
    let contents = read(&lab.path("a"));
    assert_eq!(contents.packets.len(), 25);
    for packet in &contents.packets {
        let arrived = tcp_frame("192.0.2.7:4000", WEB);
        assert_eq!(packet.bytes.len(), arrived.len().min(60));
        assert_eq!(packet.original_len as usize, arrived.len());
    }
    // Who stops it need not know that it has its packets already.
    assert_eq!(lab.admin.result("capture stop"), report);
    assert_eq!(lab.admin.error("capture stop")["field"], "capture");
    assert_eq!(lab.admin.result("capture status"), report);
}

#[test]
fn drops_and_passes_are_told_apart() {
    let config = CONFIG.replace(
        "{ address = \"2001:db8::5\", weight = 1 }",
        "{ address = \"2001:db8::5\", weight = 0 }",
    );
    let config = config
        + r#"
[[vip]]
address = "203.0.113.30"
port = 80
protocol = "tcp"
"#;
    let mut lab = Lab::with(Rig::with_config(&config, 1));
    lab.start("--event no-real,drop:pass-failed", "a");
    let rig = &lab.served.rig;
    for (destination, leaves) in [
        ("203.0.113.30:80", false),
        (WEB, true),
        // The rig has no way to the kernel.
        ("203.0.113.10:81", false),
    ] {
        let sent = rig.send(0, "192.0.2.7:4000", destination);
        assert_eq!(sent.is_some(), leaves, "{destination}");
    }
    wait_until("both are written", || {
        lab.admin.result("capture status")["packets"] == 2
    });
    lab.admin.result("capture stop");
    let comments: Vec<_> = read(&lab.path("a"))
        .packets
        .into_iter()
        .map(|packet| packet.comment)
        .collect();
    assert_eq!(
        comments,
        [
            "verdict=drop reason=no-real event=lru-miss,no-real vip=203.0.113.30:80/tcp queue=0",
            "verdict=drop reason=pass-failed queue=0",
        ]
    );
}

#[test]
fn one_capture_runs_at_a_time_and_outlives_its_client() {
    let mut lab = Lab::new();
    let error = lab.admin.error("capture stop");
    assert_eq!(error["field"], "capture");
    lab.start("--event pass", "a");
    lab.admin = lab.served.connect();
    let path = lab.path("b");
    let start = format!("capture start --event pass -w {}", path.display());
    let error = lab.admin.error(&start);
    assert_eq!(error["field"], "capture");
    assert!(error["problem"].as_str().expect("text").contains("/a"));
    assert!(!path.exists());
    assert_eq!(lab.admin.result("capture status")["state"], "running");
    lab.admin.result("capture stop");
    let error = lab.admin.error("capture stop");
    let problem = error["problem"].as_str().expect("text");
    assert!(problem.contains("was stopped before"), "{error}");
    assert!(problem.contains("/a"), "{error}");
    lab.admin.result(&start);
    lab.admin.result("capture stop");
    assert_eq!(read(&path).packets, []);
    // A file that exists is replaced only when that is asked for.
    assert_eq!(lab.admin.error(&start)["field"], "file");
    lab.admin.result(&format!("{start} --force"));
    lab.admin.result("capture stop");
}

#[test]
fn bad_requests_start_nothing() {
    let mut lab = Lab::new();
    let directory = lab.directory.path().display().to_string();
    for (arguments, field, part) in [
        ("--event pass -w a.pcapng".to_owned(), "file", "absolute"),
        (format!("--event pass -w {directory}"), "file", "directory"),
        ("--event pass -w /dev/full".to_owned(), "file", "exists"),
        (
            "--event pass -w /dev/full --force".to_owned(),
            "file",
            "regular",
        ),
        (
            format!("--event pass -w {directory}/none/a"),
            "file",
            "no such directory",
        ),
        (
            format!("--event vip:203.0.113.99 -w {directory}/a"),
            "event",
            "203.0.113.99",
        ),
        (
            format!("--event vip:203.0.113.10:81/tcp -w {directory}/a"),
            "vip",
            "203.0.113.10:81/tcp",
        ),
        (
            format!("--event drop:nothing -w {directory}/a"),
            "event",
            "drop:nothing",
        ),
    ] {
        let error = lab.admin.error(&format!("capture start {arguments}"));
        assert_eq!(error["field"], field, "{arguments}: {error}");
        let problem = error["problem"].as_str().expect("text");
        assert!(problem.contains(part), "{arguments}: {error}");
    }
    assert_eq!(lab.admin.result("capture status")["state"], "none");
    let left = fs::read_dir(lab.directory.path()).expect("a directory");
    assert_eq!(left.count(), 0);
}

#[test]
fn a_pipe_cannot_be_named_and_a_file_is_its_owners() {
    let mut lab = Lab::new();
    let pipe = lab.path("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    for force in ["", "--force"] {
        let line = format!("capture start --event pass -w {} {force}", pipe.display());
        assert_eq!(lab.admin.error(&line)["field"], "file");
    }
    lab.start("--event pass", "a");
    lab.admin.result("capture stop");
    let mode = fs::metadata(lab.path("a")).expect("a file").permissions();
    assert_eq!(mode.mode() & 0o7777, 0o600);
}

#[test]
fn others_in_the_sockets_group_cannot_have_files_written() {
    let mut lab = Lab::new();
    let path = lab.path("a");
    let line = format!("capture start --event pass -w {}", path.display());
    let words: Vec<_> = line.split(' ').collect();
    let start = || {
        let arguments = command::parse_words(&words).expect("a command");
        arguments.command().expect("a command")
    };
    let other = Uid::from_raw(Uid::effective().as_raw() + 1);
    let engine = lab.served.engine.for_caller(other);
    let error = engine.execute(start()).expect_err("not root");
    assert_eq!(error.field, "file");
    assert!(error.problem.contains(&other.to_string()), "{error}");
    assert!(!path.exists());
    // To look and to stop is for everybody.
    lab.admin.result(&line);
    assert!(engine.execute(Command::CaptureStatus).is_ok());
    assert!(engine.execute(Command::CaptureStop).is_ok());
}

#[test]
fn workers_that_end_leave_what_they_captured() {
    let mut lab = Lab::new();
    lab.start("--event vip:203.0.113.10", "a");
    let rig = &lab.served.rig;
    rig.send(0, "192.0.2.7:4000", WEB).expect("forwarded");
    rig.handles[0].stop();
    rig.send(1, "192.0.2.7:4000", WEB).expect("forwarded");
    rig.handles[1].stop();
    lab.served.engine.end_capture();
    let report = lab.admin.result("capture status");
    assert_eq!(
        (&report["state"], &report["packets"]),
        (&json!("stopped"), &json!(2))
    );
    let queues: Vec<_> = read(&lab.path("a"))
        .packets
        .iter()
        .map(|packet| packet.interface)
        .collect();
    assert_eq!(queues, [0, 1]);

    // Nobody is left to capture anything.
    let path = lab.path("b");
    let error = lab
        .admin
        .error(&format!("capture start --event pass -w {}", path.display()));
    assert_eq!(error["field"], "capture");
    assert!(!path.exists());
}
