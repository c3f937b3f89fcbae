//! The worker's loop, without its thread.

use std::{io, os::fd::AsFd, thread, time::Duration};

use arrayvec::ArrayVec;

use super::{
    WorkerConfig,
    decision::{Balance, Decision},
    now_ns,
    status::Status,
    tasks::{self, Tasks},
    waker::Waker,
    watchdog::{Signs, Watchdog},
};
use crate::{
    capture::{Decided, Monitor},
    counters::{DropReason, WorkerCounters},
    forward::{BURST, Forwarder, Outcome, Packet, Selection, Verdict},
    port::{Activity, Census, Outgoing, PassPath, QueuePort, Received, kick::TailKick},
    service::{RealId, Subscription},
};

/// How often the queue is checked and the chunks are counted.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// One sleep while the TX ring is full, and how many of them without progress are enough.
const STALL_SLEEP: Duration = Duration::from_millis(1);
const STALL_SLEEPS: u32 = 10;

/// After the stop: how long received frames are still forwarded, and then how long frames on their
/// way out may take, looked at this often.
const LAST_FRAMES: Duration = Duration::from_millis(100);
const LAST_SLEEPS: u32 = 100;
const LAST_SLEEP: Duration = Duration::from_millis(1);

/// What one round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Frames received.
    pub received: usize,
    /// Chunks whose frames have left.
    pub reaped: usize,
    /// Whether a question has more steps.
    pub asked: bool,
}

impl Round {
    /// Whether the next round should come at once.
    pub const fn is_busy(self) -> bool {
        self.received > 0 || self.asked
    }
}

/// Queue, forwarder and what lies between them. [`spawn`](super::spawn) runs one on a thread of its
/// own; tests and benches call [`Engine::round`] themselves.
pub struct Engine<P: QueuePort, D = Balance> {
    queue: u32,
    port: P,
    forwarder: Forwarder,
    decision: D,
    subscription: Subscription,
    pass: Box<dyn PassPath + Send>,
    tasks: Tasks,
    monitor: Option<Box<Monitor>>,
    spin_ns: u64,
    tail: TailKick,
    received: ArrayVec<Received<P::Chunk>, BURST>,
    /// Frames for the TX ring, and beside each the bytes it arrived with.
    outgoing: ArrayVec<Outgoing<P::Chunk>, BURST>,
    arrived_bytes: ArrayVec<u32, BURST>,
    outcomes: [Outcome; BURST],
    activity: Activity,
    /// Chunks whose frames have left.
    reaped: u64,
    watchdog: Watchdog,
    /// As the last look found it.
    tx_stalled: bool,
    /// The clock when it was last read.
    now_ns: u64,
    next_check_ns: u64,
}

impl<P: QueuePort> Engine<P> {
    /// Gives the port's chunks to the kernel and the forwarder the newest table.
    pub fn new(
        config: &WorkerConfig,
        port: P,
        forwarder: Forwarder,
        subscription: Subscription,
        pass: Box<dyn PassPath + Send>,
    ) -> Self {
        Self::deciding(config, port, forwarder, subscription, pass, Balance)
    }
}

impl<P: QueuePort, D: Decision> Engine<P, D> {
    /// As [`Engine::new`], with something else to decide instead of the forwarder.
    pub fn deciding(
        config: &WorkerConfig,
        port: P,
        forwarder: Forwarder,
        subscription: Subscription,
        pass: Box<dyn PassPath + Send>,
        decision: D,
    ) -> Self {
        let (_, tasks) = tasks::channel();
        Self::assemble(config, port, forwarder, subscription, pass, tasks, decision)
    }

    pub(super) fn assemble(
        config: &WorkerConfig,
        mut port: P,
        mut forwarder: Forwarder,
        subscription: Subscription,
        pass: Box<dyn PassPath + Send>,
        tasks: Tasks,
        decision: D,
    ) -> Self {
        port.refill();
        forwarder.set_table(subscription.current());
        let now_ns = now_ns();
        Self {
            queue: config.queue,
            port,
            forwarder,
            decision,
            subscription,
            pass,
            tasks,
            monitor: None,
            spin_ns: config.spin.map_or(0, nanoseconds),
            tail: TailKick::new(now_ns),
            received: ArrayVec::new(),
            outgoing: ArrayVec::new(),
            arrived_bytes: ArrayVec::new(),
            outcomes: [Outcome {
                verdict: Verdict::Pass,
                vip: 0,
                real: RealId::NONE,
                selection: Selection::None,
            }; BURST],
            activity: Activity::default(),
            reaped: 0,
            watchdog: Watchdog::default(),
            tx_stalled: false,
            now_ns,
            next_check_ns: now_ns + nanoseconds(CHECK_INTERVAL),
        }
    }

    /// The forwarder.
    pub const fn forwarder(&self) -> &Forwarder {
        &self.forwarder
    }

    /// Copies packets for a capture from now on, or does not any more; returns the monitor there was.
    pub fn set_monitor(&mut self, monitor: Option<Box<Monitor>>) -> Option<Box<Monitor>> {
        std::mem::replace(&mut self.monitor, monitor)
    }

    /// Where the chunks are. Between two rounds the engine holds none.
    pub fn census(&mut self) -> Census {
        self.port.census()
    }

    /// One round of the loop; see the [module](super). Never sleeps, unless the TX ring is full.
    ///
    /// # Errors
    /// The queue is gone. All frames are accounted for nevertheless.
    pub fn round(&mut self) -> io::Result<Round> {
        if let Some(table) = self.subscription.poll() {
            self.forwarder.set_table(table);
        }
        let reaped = self.port.reap();
        if reaped > 0 {
            self.tail.progress(self.now_ns);
            self.reaped += reaped as u64;
        }
        let received = self.port.receive(&mut self.received);
        let mut sent = Ok(());
        if received > 0 {
            self.now_ns = now_ns();
            self.forwarder.counters().io.bursts.add(1);
            sent = match self.monitor.take() {
                None => {
                    self.forward();
                    self.send()
                }
                Some(monitor) => self.forward_watched(monitor),
            };
        }
        self.port.refill();
        let asked = self.tasks.step(&mut self.forwarder, &mut self.monitor);
        self.publish_activity();
        sent.map(|()| Round {
            received,
            reaped,
            asked,
        })
    }

    /// Forwards and sends as always, with a monitor that sees the frames before and the verdicts after.
    #[cold]
    fn forward_watched(&mut self, mut monitor: Box<Monitor>) -> io::Result<()> {
        for frame in &mut self.received {
            monitor.arrives(self.port.bytes(&mut frame.chunk), frame.len);
        }
        let stalled = |engine: &Self| {
            let (packets, _) = engine.forwarder.counters().dropped(DropReason::TxStalled);
            packets
        };
        let stalled_before = stalled(self);
        self.forward();
        let sent = self.send();
        monitor.decided(&Decided {
            now_ns: self.now_ns,
            forwarder: &self.forwarder,
            outcomes: &self.outcomes,
            stalled: (stalled(self) - stalled_before) as usize,
        });
        // Whoever started the capture may have given up on this worker when it was too busy to answer.
        // Nobody is left then to free the monitor elsewhere, and all bursts would pay for it.
        if monitor.is_read() {
            self.monitor = Some(monitor);
        }
        sent
    }

    /// Decides about the received frames and leaves those to be sent in `outgoing`.
    fn forward(&mut self) {
        if !self.decide() {
            self.drop_bad_tags();
            self.decide();
        }
        for (frame, outcome) in self.received.drain(..).zip(&self.outcomes) {
            match outcome.verdict {
                Verdict::Transmit { len } => self.outgoing.push(Outgoing {
                    chunk: frame.chunk,
                    len,
                }),
                Verdict::Pass | Verdict::Drop(_) => self.port.recycle(frame.chunk),
            }
        }
    }

    /// Decides about the received frames, `outcomes[n]` for the frame `received[n]`, counts all but those
    /// to be sent and leaves the bytes of those in `arrived_bytes`. False, and nothing is done, if a frame
    /// has a bad tag.
    fn decide(&mut self) -> bool {
        let Self {
            port,
            forwarder,
            decision,
            pass,
            received,
            outcomes,
            arrived_bytes,
            ..
        } = self;
        let mut packets = ArrayVec::<Packet<'_>, BURST>::new();
        for frame in received {
            let Some(packet) = Packet::tagged(port.bytes(&mut frame.chunk), frame.len) else {
                return false;
            };
            packets.push(packet);
        }
        decision.decide(forwarder, self.now_ns, &mut packets, outcomes);

        let counters: &WorkerCounters = forwarder.counters();
        for (packet, outcome) in packets.iter().zip(outcomes) {
            let bytes = packet.frame_len();
            match outcome.verdict {
                Verdict::Transmit { .. } => arrived_bytes.push(bytes as u32),
                Verdict::Pass if pass.pass(packet.frame()).is_ok() => {
                    counters.passed.count(bytes as u64);
                }
                Verdict::Pass => {
                    outcome.verdict = Verdict::Drop(DropReason::PassFailed);
                    counters.drop(DropReason::PassFailed, bytes as u64);
                }
                Verdict::Drop(_) => {}
            }
        }
        true
    }

    /// Drops and counts received frames whose tag is not what the XDP program writes.
    #[cold]
    fn drop_bad_tags(&mut self) {
        let counters: &WorkerCounters = self.forwarder.counters();
        for mut frame in self.received.take() {
            if Packet::tagged(self.port.bytes(&mut frame.chunk), frame.len).is_some() {
                self.received.push(frame);
            } else {
                counters.received.count(frame.len as u64);
                counters.drop(DropReason::BadTag, frame.len as u64);
                self.port.recycle(frame.chunk);
            }
        }
    }

    /// Sends what is in `outgoing`, waiting for room if need be, and drops what cannot be sent.
    fn send(&mut self) -> io::Result<()> {
        let mut result = self.transmit();
        if result.is_ok() && !self.outgoing.is_empty() {
            self.forwarder.counters().io.tx_ring_full.add(1);
            result = self.wait_for_room();
        }
        let counters: &WorkerCounters = self.forwarder.counters();
        for (frame, bytes) in self.outgoing.drain(..).zip(self.arrived_bytes.drain(..)) {
            self.port.recycle(frame.chunk);
            counters.drop(DropReason::TxStalled, bytes.into());
        }
        result
    }

    /// Moves what the TX ring takes and has the kernel send it.
    fn transmit(&mut self) -> io::Result<()> {
        let accepted = self.port.transmit(&mut self.outgoing);
        if accepted > 0 {
            self.tail.progress(self.now_ns);
        }
        let counters = self.forwarder.counters();
        let bytes = self.arrived_bytes.drain(..accepted).map(u64::from).sum();
        counters.transmitted.packets.add(accepted as u64);
        counters.transmitted.bytes.add(bytes);
        self.port.flush()
    }

    fn wait_for_room(&mut self) -> io::Result<()> {
        let mut sleeps = 0;
        while !self.outgoing.is_empty() && sleeps < STALL_SLEEPS {
            let left = self.outgoing.len();
            self.reaped += self.port.reap() as u64;
            self.transmit()?;
            if self.outgoing.len() < left {
                sleeps = 0;
            } else {
                self.port.wait_for_room(STALL_SLEEP)?;
                sleeps += 1;
            }
        }
        Ok(())
    }

    fn publish_activity(&mut self) {
        let activity = self.port.activity();
        if activity != self.activity {
            let io = &self.forwarder.counters().io;
            io.tx_kicks.set(activity.tx_kicks);
            io.fill_kicks.set(activity.fill_kicks);
            io.fill_ring_full.set(activity.fill_ring_full);
            io.invalid_descriptors.set(activity.invalid_descriptors);
            self.activity = activity;
        }
    }

    /// Runs rounds until told to stop.
    pub(super) fn run(&mut self, status: &Status, waker: &Waker) -> io::Result<()> {
        let mut last_frame_ns = 0;
        while !status.stop_requested() {
            status.rounds.add(1);
            let round = self.round()?;
            if round.received > 0 {
                last_frame_ns = self.now_ns;
            } else {
                self.now_ns = now_ns();
                if !round.asked {
                    if self.now_ns.saturating_sub(last_frame_ns) < self.spin_ns {
                        self.port.spin();
                    } else {
                        self.sleep(waker)?;
                    }
                }
            }
            if self.now_ns >= self.next_check_ns {
                self.check()?;
            }
        }
        self.finish()
    }

    /// Sleeps until something is to be done.
    fn sleep(&mut self, waker: &Waker) -> io::Result<()> {
        let unfinished = self.port.unfinished();
        let until_check = Duration::from_nanos(self.next_check_ns.saturating_sub(self.now_ns));
        let timeout = self
            .tail
            .sleep_limit(unfinished, self.now_ns)
            .map_or(until_check, |limit| limit.min(until_check));
        self.forwarder.counters().io.sleeps.add(1);
        let wake = self.port.wait(timeout, waker.as_fd())?;
        if wake.called {
            waker.drain();
        }
        self.now_ns = now_ns();
        if self.tail.is_due(unfinished, self.now_ns) {
            let reaped = self.port.reap();
            if reaped > 0 {
                self.tail.progress(self.now_ns);
                self.reaped += reaped as u64;
            } else {
                self.tail.in_vain(self.now_ns);
                self.port.kick()?;
            }
        }
        Ok(())
    }

    /// Finds out whether the queue is still there, whether all chunks are, and whether both
    /// directions move, and calls the driver for one that does not. The worker's thread calls it about
    /// once a second.
    ///
    /// # Errors
    /// The queue is gone.
    pub fn check(&mut self) -> io::Result<()> {
        self.next_check_ns = self.now_ns + nanoseconds(CHECK_INTERVAL);
        self.count_chunks();
        self.port.check()?;
        self.rouse_what_stands_still()
    }

    fn rouse_what_stands_still(&mut self) -> io::Result<()> {
        let counters = self.forwarder.counters();
        let findings = self.watchdog.look(Signs {
            received: counters.received.packets.get(),
            fill_ring_empty: self.port.fill_ring_empty(),
            reaped: self.reaped,
            unfinished: self.port.unfinished(),
        });
        let queue = self.queue;
        if findings.rx_silent && self.port.rouse_receiver()? {
            counters.io.rx_stalls.add(1);
            tracing::warn!(queue, "nothing was received until the driver was called");
        }
        if findings.tx_stalled {
            counters.io.tx_stalls.add(1);
            let called = self.port.rouse_sender()?;
            if !self.tx_stalled {
                tracing::warn!(
                    queue,
                    called,
                    "no frame leaves; if that goes on while the link is up, restart katran-xsk, which \
                     sets the queue up anew"
                );
            }
        }
        self.tx_stalled = findings.tx_stalled;
        Ok(())
    }

    /// Between two rounds the worker holds no chunk.
    fn count_chunks(&mut self) -> Census {
        let census = self.port.census();
        let lost = census.lost(0) as u64;
        let frames_lost = &self.forwarder.counters().io.frames_lost;
        if lost != frames_lost.get() {
            tracing::error!(queue = self.queue, lost, ?census, "frames are lost");
            frames_lost.set(lost);
        }
        census
    }

    /// Forwards what the RX ring still holds and waits a moment for what is being sent.
    fn finish(&mut self) -> io::Result<()> {
        let end_ns = now_ns() + nanoseconds(LAST_FRAMES);
        while self.round()?.received > 0 && self.now_ns < end_ns {}
        for _ in 0..LAST_SLEEPS {
            self.port.reap();
            if self.port.unfinished() == 0 {
                break;
            }
            self.port.kick()?;
            thread::sleep(LAST_SLEEP);
        }
        Ok(())
    }

    /// Whether the queue's interface is known to be gone.
    pub(super) fn interface_removed(&self) -> bool {
        self.port.interface_removed()
    }

    /// Counts the chunks a last time and closes the port.
    pub fn close(mut self) -> Census {
        self.publish_activity();
        self.count_chunks()
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
