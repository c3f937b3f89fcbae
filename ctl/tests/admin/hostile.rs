//! Clients that mean harm cost themselves, not the packets and not other clients.

use std::{sync::Arc, thread, time::Duration};

use katran_xsk::admin::{command::COMMANDS, server::Limits};
use proptest::{
    prelude::*,
    test_runner::{Config as Runs, TestRunner},
};

use crate::clients::{Connection, Served};

fn impatient() -> Limits {
    Limits {
        idle: Duration::from_millis(200),
        write: Duration::from_millis(200),
        ..Limits::default()
    }
}

/// Sends packets through the balancer while `disturb` runs; none may be lost.
fn forwarding_goes_on(served: &Arc<Served>, disturb: impl FnOnce() + Send + 'static) {
    let disturbance = thread::spawn(disturb);
    let mut sent = 0;
    while !disturbance.is_finished() || sent < 200 {
        let client = format!("192.0.2.{}:{}", sent % 200, 1000 + sent % 5000);
        let real = served.rig.real_of(sent % 2, &client, "203.0.113.10:80");
        assert!(real.is_some(), "packet {sent} was lost");
        sent += 1;
    }
    disturbance.join().expect("the clients do as they are told");
    for handle in &served.rig.handles {
        assert!(handle.is_running());
        assert_eq!(handle.counters().unaccounted(), 0);
    }
    let mut client = served.connect();
    client.result("version");
}

#[test]
fn endless_lines_are_cut_off() {
    let served = Arc::new(Served::new());
    let hostile = Arc::clone(&served);
    forwarding_goes_on(&served, move || {
        for _ in 0..4 {
            let mut client = hostile.connect();
            let chunk = vec![b'x'; 1 << 16];
            // More than the limit, and no end of the line.
            let mut sent = 0;
            while sent < 4 << 20 && client.send(&chunk) {
                sent += chunk.len();
            }
            let answer = client.receive().expect("an explanation");
            assert_eq!(answer["error"]["field"], "request");
            assert!(client.is_closed());
        }
    });
}

#[test]
fn a_line_of_the_longest_length_is_read() {
    let limits = Limits {
        line: 100,
        ..Limits::default()
    };
    let served = Served::with_limits(limits);
    let mut client = served.connect();
    let line = |length: usize| format!("version{}", " ".repeat(length - "version".len()));
    client.result(&line(100));
    assert_eq!(client.error(&line(101))["field"], "request");
    assert!(client.is_closed());
}

#[test]
fn slow_readers_are_closed_and_others_are_served() {
    let served = Arc::new(Served::with_limits(impatient()));
    let hostile = Arc::clone(&served);
    forwarding_goes_on(&served, move || {
        let mut readers: Vec<Connection> = (0..8).map(|_| hostile.connect()).collect();
        for reader in &mut readers {
            // Answers of far more bytes than the socket's buffers hold, none of them read.
            let mut asked = 0;
            while asked < 20_000 && reader.send(&b"help\n".repeat(100)) {
                asked += 100;
            }
            assert!(
                asked < 20_000,
                "the balancer kept everything for a client that does not read"
            );
        }
        let mut other = hostile.connect();
        other.result("show stats");
    });
}

#[test]
fn idle_clients_are_told_and_closed() {
    let served = Served::with_limits(impatient());
    let mut idle = served.connect();
    let mut slow = served.connect();
    assert!(slow.send(b"vers"));
    for client in [&mut idle, &mut slow] {
        let answer = client.receive().expect("an explanation");
        assert_eq!(answer["error"]["field"], "connection");
        assert!(client.is_closed());
    }
}

#[test]
fn clients_over_the_limit_are_refused_and_room_is_made_again() {
    let limits = Limits {
        clients: 3,
        ..Limits::default()
    };
    let served = Served::with_limits(limits);
    let mut inside: Vec<Connection> = (0..3).map(|_| served.connect()).collect();
    for client in &mut inside {
        client.result("version");
    }
    let mut outside = served.connect();
    let answer = outside.receive().expect("an explanation");
    assert_eq!(answer["error"]["field"], "connection");
    assert!(outside.is_closed());
    drop(inside);
    // The balancer notices in its own time that they have gone.
    for _ in 0..1000 {
        let mut client = served.connect();
        if client.send(b"version\n") && client.receive().is_some_and(|answer| answer["ok"] == true)
        {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("the connections that were closed are still counted");
}

#[test]
fn a_thousand_at_once_get_an_answer_or_a_refusal() {
    let served = Arc::new(Served::new());
    let hostile = Arc::clone(&served);
    forwarding_goes_on(&served, move || {
        let swarm: Vec<_> = (0..20)
            .map(|_| {
                let served = Arc::clone(&hostile);
                thread::spawn(move || {
                    let mut clients: Vec<Connection> = (0..50).map(|_| served.connect()).collect();
                    let mut answers = 0;
                    for client in &mut clients {
                        client.send(b"show stats\n");
                        answers += usize::from(client.receive().is_some());
                    }
                    answers
                })
            })
            .collect();
        let answers: usize = swarm
            .into_iter()
            .map(|part| part.join().expect("it ends"))
            .sum();
        assert_eq!(answers, 1000, "each gets exactly one line first");
    });
}

#[test]
fn clients_that_vanish_in_mid_command_leave_nothing_behind() {
    let served = Arc::new(Served::new());
    let hostile = Arc::clone(&served);
    forwarding_goes_on(&served, move || {
        for round in 0..200 {
            let mut client = hostile.connect();
            let command: &[u8] = match round % 4 {
                0 => b"reload\n",
                1 => b"flow list limit=10000\n",
                2 => b"vip add 203.0.113.99:9/tcp real=198.51.100.1\nvip del 203.0.113.99:9/tcp\n",
                _ => b"{\"version\":1,\"command\":\"vip a",
            };
            client.send(command);
        }
    });
    // Commands that arrived whole were carried out whole.
    let mut client = served.connect();
    let vips = client.result("vip list")["vips"].as_array().map(Vec::len);
    assert!(matches!(vips, Some(2 | 3)), "{vips:?}");
}

#[test]
fn every_line_gets_one_line() {
    let served = Served::with_limits(Limits {
        line: 4096,
        ..Limits::default()
    });
    let word = "[-a-z0-9=:./@,\\[\\]{}\"]{1,12}";
    let command = prop_oneof![
        // Commands with arguments that mean something else, or nothing.
        (0..COMMANDS.len(), proptest::collection::vec(word, 0..4)).prop_map(|(index, words)| {
            format!("{} {}", COMMANDS[index].name, words.join(" ")).into_bytes()
        }),
        (word, word, ".{0,30}").prop_map(|(command, name, value)| {
            serde_json::json!({"version": 1, "command": command, "args": {name: value}})
                .to_string()
                .into_bytes()
        }),
        proptest::collection::vec(any::<u8>(), 1..200),
    ];
    let lines = proptest::collection::vec(command, 1..8);
    let mut runner = TestRunner::new(Runs {
        cases: 300,
        failure_persistence: None,
        ..Runs::default()
    });
    let result = runner.run(&lines, |mut lines| {
        for line in &mut lines {
            line.retain(|&byte| byte != b'\n');
        }
        let asked = lines
            .iter()
            .filter(|line| !line.trim_ascii().is_empty())
            .count();
        let mut client = served.connect();
        for line in &lines {
            client.send(line);
            client.send(b"\n");
        }
        client.end();
        for _ in 0..asked {
            prop_assert!(client.receive().is_some(), "a line without an answer");
        }
        prop_assert_eq!(client.receive(), None);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
