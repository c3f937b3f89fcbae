//! Any bytes as lines on the admin socket of a balancer without interface: one answer each, and a
//! refused command changes nothing.

use std::sync::{Arc, Mutex};

use dataplane::service::{Publisher, ServiceControl};
use katran_xsk::{
    admin::{Engine, protocol},
    config::Config,
    control::{Control, ControlParts, NoProgram, Origin, lock},
    output::{self, Reading},
};
use nix::unistd::Uid;

/// Commands of one input that are carried out.
const COMMANDS: usize = 16;

/// What `reload` reads, and the start. Rings take long; inputs that want one add reals.
const CONFIG: &str = r#"
[interface]
name = "fuzz0"
next_hop_mac = "02:00:00:00:cc:03"

[balancer]
flow_table_capacity = 100

[[vip]]
address = "203.0.113.10"
port = 80
protocol = "tcp"
"#;

fn control() -> Control {
    let parse = || Config::parse(CONFIG, "fuzz.toml");
    let services = ServiceControl::new();
    let publisher = Arc::new(Publisher::new(services.table()));
    Control::new(ControlParts {
        config: parse().expect("the configuration is valid"),
        origin: Origin::default(),
        source: Some(Box::new(parse)),
        next_hop: None,
        services,
        publisher,
        sink: Box::new(NoProgram),
        health_checks: Box::new(NoProgram),
        mtu: Some(Box::new(|| Ok(1500))),
        own_addresses: None,
        workers: Vec::new(),
    })
    .expect("the configuration can be put into force")
}

fn run(input: &[u8]) {
    let control = Arc::new(Mutex::new(control()));
    // A user who cannot have files written: inputs may name any.
    let user = Uid::from_raw(Uid::effective().as_raw() + 1);
    let engine = Engine::new(Arc::clone(&control)).for_caller(user);
    let dump = || lock(&control).dump();
    let mut carried_out = 0;
    for line in input.split(|byte| *byte == b'\n') {
        let (id, command) = protocol::parse_line(line);
        let before = dump();
        let outcome = command.and_then(|command| {
            carried_out += 1;
            engine.execute(command)
        });
        match &outcome {
            Ok(answer) => {
                assert!(!output::render(answer, Reading::Totals).is_empty());
            }
            Err(error) => {
                assert!(!error.problem.is_empty(), "{error:?}");
                assert_eq!(dump(), before, "refused, and yet changed: {error}");
            }
        }
        let response = serde_json::to_string(&protocol::Response::new(id, outcome))
            .expect("an answer is JSON");
        assert!(!response.contains('\n'), "{response}");
        if carried_out == COMMANDS {
            break;
        }
    }
    let dump = dump();
    if let Err(error) = Config::parse(&dump, "dump.toml") {
        panic!("what runs could not be started again: {error}\n{dump}");
    }
}

#[test]
fn admin() {
    bolero::check!(name = "admin")
        .with_max_len(4096)
        .for_each(run);
}
