//! What a balancer says of itself, while it runs and when it ends.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::balancer::Balancer;
use crate::lab::cpu_time;

/// How long a balancer without traffic is watched, and how often at most until it rests: on a busy host
/// the clock may say that it ran when nobody did.
pub(super) const WATCH: Duration = Duration::from_secs(1);
const LOOKS: usize = 5;
/// How often a worker that rests wakes in that time at most: to look after its queue once a second, for
/// the commands that ask it, and for frames that take their time to leave.
const HANDFUL: u64 = 20;
/// What all threads of a balancer that rests use of the processor in that time at most.
const RESTING: Duration = Duration::from_millis(100);
/// What `show workers` calls the mode in which the device uses the memory of the socket.
const ZERO_COPY: &str = "zero-copy";

/// `show workers`.
pub(super) fn workers(balancer: &Balancer) -> Result<Vec<Value>> {
    let answer = balancer.ctl(["show", "workers"])?;
    let workers = answer["workers"].as_array();
    Ok(workers.context("`show workers` lists no workers")?.clone())
}

/// What each socket says of its mode.
pub(super) fn modes(balancer: &Balancer) -> Result<Vec<Value>> {
    let workers = workers(balancer)?;
    Ok(workers
        .iter()
        .map(|worker| worker["mode"].clone())
        .collect())
}

/// Fails unless at least `queues` queues have a worker, every one runs, and, where `zero_copy` must be, every
/// socket has it. Says what they have.
pub(super) fn ensure_serves(balancer: &Balancer, queues: usize, zero_copy: bool) -> Result<String> {
    all_serve(&workers(balancer)?, queues, zero_copy)
}

fn all_serve(workers: &[Value], queues: usize, zero_copy: bool) -> Result<String> {
    ensure!(
        workers.len() >= queues,
        "{} workers instead of {queues}: {workers:?}",
        workers.len()
    );
    let mut modes = Vec::new();
    for worker in workers {
        let queue = &worker["queue"];
        ensure!(
            worker["running"] == true,
            "the worker of queue {queue} has ended: {}",
            worker["error"]
        );
        let mode = worker["mode"].as_str().unwrap_or_default();
        ensure!(
            !zero_copy || mode == ZERO_COPY,
            "the socket of queue {queue} has {mode} instead of {ZERO_COPY}"
        );
        modes.push(mode);
    }
    Ok(format!(
        "{} workers run ({})",
        modes.len(),
        modes.join(", ")
    ))
}

/// Fails unless that many queues forwarded packets.
pub(super) fn queues_used(balancer: &Balancer, wanted: usize) -> Result<String> {
    let stats = balancer.stats()?;
    let packets: Vec<u64> = stats
        .workers
        .iter()
        .map(|(_, frames)| frames.transmitted)
        .collect();
    let used = packets.iter().filter(|packets| **packets > 0).count();
    ensure!(
        used >= wanted,
        "{used} queues instead of {wanted} forwarded packets: {packets:?}"
    );
    Ok(format!("packets forwarded by queue: {packets:?}"))
}

/// A number of `show workers`, over all workers.
pub(super) fn sum(balancer: &Balancer, group: &str, name: &str) -> Result<u64> {
    let workers = workers(balancer)?;
    let counts = workers.iter().map(|worker| worker[group][name].as_u64());
    counts
        .sum::<Option<u64>>()
        .with_context(|| format!("`show workers` has no {name}"))
}

/// No frame was dropped, none is unaccounted for, and no queue stood still.
pub(super) fn frames_conserved(balancer: &Balancer) -> Result<String> {
    let frames = balancer.stats()?.frames;
    ensure!(frames.dropped == 0, "frames were dropped: {frames:?}");
    for name in ["rx-stalls", "tx-stalls"] {
        let stalls = sum(balancer, "io", name)?;
        ensure!(stalls == 0, "{name} is {stalls}");
    }
    frames_add_up(balancer)
}

/// Every frame is accounted for.
pub(super) fn frames_add_up(balancer: &Balancer) -> Result<String> {
    let frames = balancer.stats()?.frames;
    let workers = workers(balancer)?;
    ensure!(
        frames.add_up(),
        "frames do not add up: {frames:?}, {workers:?}"
    );
    for worker in workers {
        for (group, name) in [
            ("io", "frames-lost"),
            ("io", "invalid-descriptors"),
            ("socket", "rx-dropped"),
            ("socket", "rx-invalid-descriptors"),
            ("socket", "tx-invalid-descriptors"),
        ] {
            let count = worker[group][name].as_u64();
            ensure!(
                count == Some(0),
                "queue {}: {name} is {count:?}",
                worker["queue"]
            );
        }
    }
    Ok(format!(
        "{} received = {} transmitted + {} passed",
        frames.received, frames.transmitted, frames.passed
    ))
}

/// Ends the balancer as a service manager does.
pub(super) fn stop(balancer: Balancer) -> Result<String> {
    let (status, log) = balancer.stop_with_log()?;
    ensure!(status.success(), "ended with {status}: {log}");
    let last = log.lines().find(|line| line.contains("stopped: "));
    let last = last.with_context(|| format!("said nothing about its end: {log}"))?;
    if last.contains("frames were lost") {
        bail!("{last}");
    }
    Ok(last.to_owned())
}

/// A balancer that has nothing to do comes to rest.
pub(super) fn ensure_rests(balancer: &Balancer) -> Result<()> {
    let mut seen = String::new();
    for _ in 0..LOOKS {
        let (slept, used) = (sleeps(balancer)?, cpu_time(balancer.id())?);
        thread::sleep(WATCH);
        let used = cpu_time(balancer.id())?.saturating_sub(used);
        let woke: Vec<u64> = sleeps(balancer)?
            .iter()
            .zip(&slept)
            .map(|(now, before)| now - before)
            .collect();
        if is_rest(&woke, used) {
            return Ok(());
        }
        seen = format!("its workers woke {woke:?} times and it used {used:?} of the processor");
    }
    bail!("the balancer does not come to rest without traffic: in {WATCH:?} {seen}")
}

/// Whether a balancer rests whose workers woke so often and which used so much of the processor.
fn is_rest(woke: &[u64], used: Duration) -> bool {
    used < RESTING && woke.iter().all(|&times| times <= HANDFUL)
}

/// How often each worker has gone to sleep.
fn sleeps(balancer: &Balancer) -> Result<Vec<u64>> {
    workers(balancer)?
        .iter()
        .map(|worker| {
            let times = worker["io"]["sleeps"].as_u64();
            times.context("`show workers` has no sleeps")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_worker_must_run_and_have_what_it_should() {
        let worker = |running: bool, mode: &str| json!({"queue": 1, "running": running, "error": "gone", "mode": mode});
        let good = worker(true, "zero-copy");
        assert_eq!(
            all_serve(&[good.clone(), good.clone()], 2, true).unwrap(),
            "2 workers run (zero-copy, zero-copy)"
        );
        for (other, words) in [
            (None, "1 workers instead of 2"),
            (Some(worker(false, "zero-copy")), "has ended: \"gone\""),
            (Some(worker(true, "copy")), "copy instead of zero-copy"),
        ] {
            let workers: Vec<_> = [good.clone()].into_iter().chain(other).collect();
            let error = all_serve(&workers, 2, true).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        all_serve(&[good, worker(true, "copy")], 2, false).expect("nobody wants zero-copy");
    }

    #[test]
    fn rest_is_a_handful_of_looks_and_little_work() {
        let little = Duration::from_millis(30);
        assert!(is_rest(&[3, 20], little));
        assert!(!is_rest(&[3, 21], little));
        assert!(!is_rest(&[3, 3], Duration::from_millis(400)));
    }
}
