//! Any bytes as a capture for `replay`: an error, or a verdict for each packet and a capture that
//! can be read again.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use dataplane::{
    counters::WorkerCounters,
    forward::{Forwarder, ForwarderConfig},
    service::{ServiceControl, ServiceTable},
};
use katran_xsk::{config::Config, replay};
use serde_json::Value;

const CONFIG: &str = r#"
[interface]
next_hop_mac = "02:00:00:00:cc:03"

[[vip]]
address = "203.0.113.10"
port = 0
protocol = "udp"
reals = [{ address = "198.51.100.11", weight = 1 }]

[[vip]]
address = "2001:db8:a::10"
port = 0
protocol = "tcp"
reals = [{ address = "2001:db8:f::1", weight = 1 }]
"#;

/// An empty flow table on a service table that is built once: rings take longer than an input does.
fn forwarder() -> Forwarder {
    static TABLE: OnceLock<Arc<ServiceTable>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let config = Config::parse(CONFIG, "fuzz.toml").expect("it is valid");
        ServiceControl::new()
            .apply(&config.to_service_spec())
            .expect("it has no problems")
    });
    let config = ForwarderConfig {
        flow_table_capacity: 100,
        seeds: [1, 2, 3, 4],
    };
    Forwarder::new(&config, Arc::clone(table), Arc::new(WorkerCounters::new()))
        .expect("the capacity is valid")
}

fn run(input: &[u8]) {
    let (mut frames, mut verdicts) = (Vec::new(), Vec::new());
    let result = replay::replay(forwarder(), input, &mut frames, &mut verdicts);
    let verdicts = String::from_utf8(verdicts).expect("text");
    let mut leaving = 0;
    for (number, line) in verdicts.lines().enumerate() {
        let line: Value = serde_json::from_str(line).expect("a JSON object in each line");
        assert_eq!(line["packet"], number);
        let is_drop = line["verdict"] == "drop";
        assert_eq!(is_drop, !line["reason"].is_null(), "{line}");
        leaving += usize::from(!is_drop);
    }
    match result {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(cut) => {
            assert!(cut <= verdicts.lines().count() as u64);
            let mut again = Vec::new();
            replay::replay(forwarder(), &*frames, &mut Vec::new(), &mut again)
                .expect("what replay writes, it reads");
            let lines = String::from_utf8(again).expect("text").lines().count();
            assert_eq!(lines, leaving, "a frame for each packet that leaves");
        }
    }
}

#[test]
fn capture() {
    bolero::check!(name = "capture")
        .with_max_len(4096)
        // Not by time: all committed inputs come before.
        .with_iterations(1_000)
        .with_test_time(Duration::MAX)
        .for_each(run);
}
