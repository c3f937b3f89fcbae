//! A worker on its thread: start, questions, sleep, trouble, stop.

mod common;
mod worker_rig;

use std::{
    ops::ControlFlow,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use common::{
    V4_REALS,
    frames::{Segment, tcp},
    settings, vip,
};
use dataplane::{
    counters::Counter,
    port::memory::{Link, MemoryConfig, MemoryNic},
    service::{Protocol, Publisher, ServiceControl, ServiceSpec, VipFlags},
    worker::{AskError, Priority, WorkerConfig, WorkerError, WorkerHandle, spawn},
};
use thread_priority::{RealtimeThreadSchedulePolicy, ThreadSchedulePolicy, thread_schedule_policy};
use worker_rig::{Parts, assert_accounted, redirected};

const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    worker: WorkerHandle,
    nic: MemoryNic,
    control: ServiceControl,
    publisher: Publisher,
}

fn services() -> ServiceSpec {
    let vip = vip(
        "203.0.113.10",
        80,
        Protocol::Tcp,
        VipFlags::empty(),
        V4_REALS,
    );
    ServiceSpec {
        settings: settings(),
        vips: vec![vip],
        ..ServiceSpec::default()
    }
}

fn start(config: &WorkerConfig, memory: &MemoryConfig) -> Running {
    let parts = Parts::new(&services(), memory);
    let subscription = parts.publisher.subscribe();
    let worker = spawn(
        config,
        parts.port,
        parts.forwarder,
        subscription,
        Box::new(parts.kernel),
    )
    .expect("a worker");
    Running {
        worker,
        nic: parts.nic,
        control: parts.control,
        publisher: parts.publisher,
    }
}

fn started() -> Running {
    start(&WorkerConfig::default(), &MemoryConfig::default())
}

fn frame(flow: u16) -> Vec<u8> {
    let client = format!("192.0.2.10:{}", 1024 + flow);
    redirected(&tcp(&client, "203.0.113.10:80", Segment::Ack), 20)
}

/// Waits for what another thread will do.
#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never happened: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn frames_that_arrive_while_it_sleeps_wake_it() {
    let running = started();
    for flow in 0..20 {
        let sleeps = &running.worker.counters().io.sleeps;
        let before = sleeps.get();
        running.nic.inject(&frame(flow)).unwrap();
        eventually("the frame leaves", || running.nic.take().is_some());
        eventually("sleep", || sleeps.get() > before);
    }
    let report = running.worker.stop();
    assert!(report.error.is_none());
    let census = report.census.unwrap();
    assert_eq!((census.hands, census.lost(0)), (0, 0));
    assert_accounted(running.worker.counters());
}

#[test]
fn an_idle_worker_sleeps_also_after_it_was_called() {
    let running = started();
    let worker = &running.worker;
    let sleeps = &worker.counters().io.sleeps;
    assert_eq!(worker.ask(|_, _| 1, PATIENCE), Ok(1));
    let before = sleeps.get();
    eventually("sleep", || sleeps.get() > before);
    let rounds = worker.rounds();
    thread::sleep(Duration::from_millis(2_500));
    // One round for each check; two to spare.
    let rounds = worker.rounds() - rounds;
    assert!(rounds <= 5, "{rounds} rounds");
}

#[test]
fn frames_that_never_complete_do_not_keep_it_awake() {
    let running = started();
    running.nic.withhold_completions(true);
    running.nic.inject(&frame(0)).unwrap();
    eventually("the frame leaves", || running.nic.take().is_some());
    thread::sleep(Duration::from_millis(2_500));
    // Ten doublings from 1 ms to 512 ms, then two a second, checks, and some to spare.
    assert!(
        running.worker.rounds() <= 24,
        "{} rounds",
        running.worker.rounds()
    );
    running.nic.withhold_completions(false);
    assert_eq!(running.nic.complete(1), 1);
    assert!(running.worker.stop().error.is_none());
}

#[test]
fn the_last_frame_leaves_without_another_one() {
    let running = started();
    running.nic.hold_last(1);
    for flow in 0..10 {
        running.nic.inject(&frame(flow)).unwrap();
        eventually("the frame leaves", || running.nic.take().is_some());
    }
}

#[test]
fn a_spinning_worker_does_not_sleep_until_its_time_is_over() {
    let config = WorkerConfig {
        spin: Some(Duration::from_hours(1)),
        ..WorkerConfig::default()
    };
    let running = start(&config, &MemoryConfig::default());
    running.nic.inject(&frame(0)).unwrap();
    eventually("the frame leaves", || running.nic.take().is_some());
    let io = &running.worker.counters().io;
    let sleeps = io.sleeps.get();
    let rounds = running.worker.rounds();
    eventually("rounds", || running.worker.rounds() > rounds + 1_000);
    assert_eq!(io.sleeps.get(), sleeps);
    assert!(running.worker.stop().error.is_none());
}

#[test]
fn the_table_is_swapped_under_traffic_without_a_drop() {
    let mut running = started();
    let transmitted = |running: &Running| running.worker.counters().transmitted.packets.get();
    running.nic.discard(true);
    let mut injected = 0_u64;
    for swap in 1..=1_000_u32 {
        let mut spec = services();
        spec.vips[0].reals[0].weight = 1 + swap % 3;
        running
            .publisher
            .publish(running.control.apply(&spec).unwrap());
        for flow in 0..20 {
            if running.nic.inject(&frame(flow)).is_ok() {
                injected += 1;
            }
        }
    }
    eventually("all frames leave", || transmitted(&running) == injected);
    let newest = u64::from(running.publisher.current().generation());
    running.worker.wake();
    eventually("the newest table", || {
        running.worker.counters().generation.get() == newest
    });
    assert!(injected >= 1_000);
    assert_eq!(running.publisher.collect(), 0, "no old table is held");
    assert_accounted(running.worker.counters());
}

#[test]
fn a_sleeping_worker_picks_a_table_up_when_it_is_woken() {
    let mut running = started();
    eventually("sleep", || running.worker.counters().io.sleeps.get() > 0);
    let table = running.control.apply(&ServiceSpec::default()).unwrap();
    let generation = u64::from(table.generation());
    running.publisher.publish(table);
    running.worker.wake();
    eventually("the table", || {
        running.worker.counters().generation.get() == generation
    });
}

#[test]
fn questions_are_answered_on_the_worker_while_it_sleeps() {
    let config = WorkerConfig {
        queue: 3,
        cpu: Some(0),
        ..WorkerConfig::default()
    };
    let running = start(&config, &MemoryConfig::default());
    running.nic.inject(&frame(0)).unwrap();
    eventually("the frame leaves", || running.nic.take().is_some());
    let (flows, now_ns, name, cpus) = running
        .worker
        .ask(
            |forwarder, now_ns| {
                let affinity =
                    nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
                let cpus = (0..nix::sched::CpuSet::count())
                    .filter(|cpu| affinity.is_set(*cpu).unwrap())
                    .collect::<Vec<_>>();
                let name = thread::current().name().map(str::to_owned);
                (forwarder.flow_count(), now_ns, name, cpus)
            },
            PATIENCE,
        )
        .unwrap();
    assert_eq!(flows, 1);
    assert!(now_ns > 0);
    assert_eq!(name.as_deref(), Some("kx-worker-3"));
    assert_eq!(cpus, [0]);
    assert_eq!((running.worker.queue(), running.worker.cpu()), (3, Some(0)));
}

#[test]
fn a_walk_takes_one_step_per_round_and_lets_others_in() {
    let running = started();
    let (steps, seen) = mpsc::channel();
    let rounds_before = running.worker.rounds();
    thread::scope(|scope| {
        let walk = scope.spawn(|| {
            let mut left = 500;
            running.worker.ask_steps(
                move |_, _| {
                    steps.send(left).unwrap();
                    left -= 1;
                    if left == 0 {
                        ControlFlow::Break("done")
                    } else {
                        ControlFlow::Continue(())
                    }
                },
                PATIENCE,
            )
        });
        seen.recv().unwrap();
        assert_eq!(running.worker.ask(|_, _| 7, PATIENCE), Ok(7));
        assert_eq!(walk.join().unwrap(), Ok("done"));
    });
    assert_eq!(seen.iter().count(), 499);
    assert!(running.worker.rounds() >= rounds_before + 500);
}

#[test]
fn a_question_that_takes_too_long_is_given_up() {
    let running = started();
    let (step, seen) = mpsc::channel();
    let result = running.worker.ask_steps(
        move |_, _| {
            let _ = step.send(());
            ControlFlow::<()>::Continue(())
        },
        Duration::from_millis(50),
    );
    assert_eq!(result, Err(AskError::Timeout));
    // The closure is dropped, and with it the sender.
    eventually("the end of the walk", || {
        while seen.try_recv().is_ok() {}
        seen.try_recv() == Err(mpsc::TryRecvError::Disconnected)
    });
    assert_eq!(running.worker.ask(|_, _| (), PATIENCE), Ok(()));
}

#[test]
fn questions_have_a_bounded_queue_and_end_with_the_worker() {
    let running = started();
    let worker = &running.worker;
    let (release, blocked) = mpsc::channel::<()>();
    let (entered, entry) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            worker.ask(
                move |_, _| {
                    entered.send(()).unwrap();
                    let _ = blocked.recv();
                },
                PATIENCE,
            )
        });
        entry.recv().unwrap();
        let busy = (0..1_000).map(|_| worker.ask(|_, _| (), Duration::ZERO));
        let first_busy = busy
            .into_iter()
            .position(|answer| answer == Err(AskError::Busy));
        assert_eq!(first_busy, Some(64));
        drop(release);
    });
    eventually("room", || worker.ask(|_, _| (), PATIENCE).is_ok());
    worker.stop();
    assert_eq!(worker.ask(|_, _| (), PATIENCE), Err(AskError::Gone));
}

#[test]
fn what_was_received_is_forwarded_before_the_end() {
    let running = started();
    let (release, blocked) = mpsc::channel::<()>();
    let (entered, entry) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            running.worker.ask(
                move |_, _| {
                    entered.send(()).unwrap();
                    let _ = blocked.recv();
                },
                PATIENCE,
            )
        });
        entry.recv().unwrap();
        (0..300).for_each(|flow| running.nic.inject(&frame(flow)).unwrap());
        running.worker.request_stop();
        drop(release);
    });
    running.nic.discard(true);
    let report = running.worker.stop();
    assert!(report.error.is_none() && !running.worker.is_running());
    assert_eq!(running.worker.counters().transmitted.packets.get(), 300);
    let census = report.census.unwrap();
    assert_eq!((census.rx, census.hands, census.lost(0)), (0, 0, 0));
    // Asking again changes nothing.
    assert_eq!(running.worker.stop().census, Some(census));
}

/// The error with which a worker ends in this state of its interface.
fn ended_by(link: Link) -> Arc<WorkerError> {
    let running = started();
    running.nic.set_link(link);
    eventually("the end", || !running.worker.is_running());
    let error = running.worker.error().expect("an error");
    assert!(error.to_string().contains("queue 0"), "{error}");
    assert_eq!(running.worker.ask(|_, _| (), PATIENCE), Err(AskError::Gone));
    assert!(running.worker.stop().error.is_some());
    assert_accounted(running.worker.counters());
    error
}

#[test]
fn a_worker_whose_queue_is_gone_says_whether_the_interface_is() {
    let error = ended_by(Link::Gone);
    assert!(
        matches!(*error, WorkerError::Removed { queue: 0, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("was removed"), "{error}");
    let error = ended_by(Link::Broken);
    assert!(
        matches!(*error, WorkerError::Queue { queue: 0, .. }),
        "{error}"
    );
    assert!(!error.to_string().contains("removed"), "{error}");
}

#[test]
fn a_link_that_comes_back_finds_the_worker_running() {
    let running = started();
    running.nic.discard(true);
    running.nic.inject(&frame(0)).unwrap();
    eventually("the frame leaves", || running.nic.sent() == 1);
    running.nic.set_link(Link::Down);
    thread::sleep(Duration::from_millis(1_200));
    assert!(running.worker.is_running());
    running.nic.set_link(Link::Up);
    running.nic.inject(&frame(1)).unwrap();
    eventually("the frame leaves", || running.nic.sent() == 2);
}

#[test]
fn a_panic_is_reported_and_leaves_others_alone() {
    let other = started();
    let running = started();
    let answer = running.worker.ask(|_, _| panic!("on purpose"), PATIENCE);
    assert_eq!(answer, Err::<(), _>(AskError::Gone));
    eventually("the end", || !running.worker.is_running());
    let report = running.worker.stop();
    let error = report.error.expect("an error");
    assert!(
        matches!(&*error, WorkerError::Panicked { message, .. } if message == "on purpose"),
        "{error}"
    );
    assert!(report.census.is_none());
    assert_eq!(other.worker.ask(|_, _| 1, PATIENCE), Ok(1));
}

#[test]
fn a_cpu_that_is_not_there_is_named() {
    let parts = Parts::new(&services(), &MemoryConfig::default());
    let config = WorkerConfig {
        queue: 5,
        cpu: Some(100_000),
        ..WorkerConfig::default()
    };
    let subscription = parts.publisher.subscribe();
    let result = spawn(
        &config,
        parts.port,
        parts.forwarder,
        subscription,
        Box::new(parts.kernel),
    );
    let text = result.expect_err("no such cpu").to_string();
    assert!(
        text.contains("queue 5") && text.contains("cpu 100000") && text.contains("(0"),
        "{text}"
    );
}

#[test]
fn a_worker_takes_its_priority_or_says_why_not() {
    let parts = Parts::new(&services(), &MemoryConfig::default());
    let config = WorkerConfig {
        priority: Priority::RealTime,
        ..WorkerConfig::default()
    };
    let worker = spawn(
        &config,
        parts.port,
        parts.forwarder,
        parts.publisher.subscribe(),
        Box::new(parts.kernel),
    );
    if let Err(refused) = Priority::RealTime.probe() {
        let error = worker.expect_err("others may not either").to_string();
        assert!(error.contains(&refused.to_string()), "{error}");
        assert!(error.contains("CAP_SYS_NICE"), "{error}");
        return;
    }
    let worker = worker.expect("started");
    assert_eq!(worker.priority(), Priority::RealTime);
    let policy = worker.ask(|_, _| thread_schedule_policy().ok(), PATIENCE);
    let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    assert_eq!(policy, Ok(Some(fifo)));
}

#[test]
fn dropping_the_handle_ends_the_thread() {
    let running = started();
    let probe = running.nic.clone();
    let (sender, receiver) = mpsc::channel::<()>();
    // Lives as long as the worker does.
    let keep = move |_: &mut dataplane::forward::Forwarder, _| {
        let _ = &sender;
        ControlFlow::<()>::Continue(())
    };
    let worker = running.worker;
    thread::scope(|scope| {
        scope.spawn(|| worker.ask_steps(keep, Duration::from_millis(20)));
    });
    drop(worker);
    assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    assert_eq!(probe.waiting(), 0);
}

#[test]
fn counters_can_be_read_by_others() {
    fn is_sync<T: Sync>(_: &T) {}
    let running = started();
    is_sync(&running.worker);
    is_sync(&Counter::default());
}
