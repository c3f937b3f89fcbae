//! `katran-xsk replay` against the cases of the conformance data, which lies beside the repository
//! and is not part of it. Without it there is nothing to test, and the output says so. Every packet
//! has to agree in verdict and in every byte.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use pcap_file::pcap::PcapReader;
use serde_json::Value;

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

struct Case {
    name: String,
    packets: Vec<pcap_file::pcap::PcapPacket<'static>>,
    expected: Vec<Value>,
    folder: PathBuf,
}

impl Case {
    fn load(folder: &Path) -> Self {
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
            folder: folder.to_owned(),
        }
    }

    fn check(&self) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let output = Command::new(env!("CARGO_BIN_EXE_katran-xsk"))
            .arg("replay")
            .arg("--config")
            .arg(self.folder.join("lb.toml"))
            .arg("--in")
            .arg(self.folder.join("in.pcap"))
            .arg("--out")
            .arg(path("out.pcap"))
            .arg("--verdicts")
            .arg(path("verdicts.jsonl"))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", self.name);

        let verdicts = fs::read_to_string(path("verdicts.jsonl")).unwrap();
        assert_eq!(
            verdicts.lines().count(),
            self.packets.len(),
            "{}",
            self.name
        );
        let mut frames = PcapReader::new(File::open(path("out.pcap")).unwrap()).unwrap();
        let mut counts = [0; 3];
        let mut wrong = BTreeSet::new();
        for (number, line) in verdicts.lines().enumerate() {
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
            "{}: {tx} tx, {pass} pass, {drop} drop; {} disagree",
            self.name,
            wrong.len(),
        ));
        assert!(
            tx > 0 && pass > 0 && drop > 0,
            "{}: a kind of verdict is missing",
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
