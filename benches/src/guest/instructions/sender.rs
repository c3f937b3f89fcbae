//! Frames of many flows, given to a card in bursts.

use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};
use xdp_redirect::{CountCounter, CountProgram};

use super::FLOWS;
use crate::bench::IpFamily;
use crate::bench::frame::{self, Segment};
use crate::lab::Namespace;

/// How long a link may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(100);

/// A socket that sends whole frames through one interface.
pub(super) struct Sender {
    socket: OwnedFd,
    address: LinkAddr,
    frames: Vec<Vec<u8>>,
}

impl Sender {
    /// A sender in a namespace, from the Ethernet address `source` to `destination`. The calling thread
    /// becomes one that no other interrupts: what a burst takes would depend on how many frames of it are
    /// there when a worker gets its turn.
    pub(super) fn open(
        namespace: &Namespace,
        interface: &str,
        destination: [u8; 6],
        source: [u8; 6],
    ) -> Result<Self> {
        set_thread_priority_and_policy(
            thread_native_id(),
            ThreadPriority::Max,
            ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo),
        )
        .map_err(|error| anyhow!("SCHED_FIFO is refused: {error:?}"))?;
        let (socket, address) = namespace.run(|| -> Result<_> {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                None,
            )?;
            let address = getifaddrs()?
                .filter(|found| found.interface_name == interface)
                .find_map(|found| found.address?.as_link_addr().copied())
                .with_context(|| format!("no interface {interface}"))?;
            Ok((socket, address))
        })??;
        let template = frame::template(IpFamily::V4, Segment::Ack, destination, source);
        let frames = (0..FLOWS)
            .map(|flow| {
                let mut frame = template.clone();
                frame::set_flow(&mut frame, IpFamily::V4, flow);
                frame
            })
            .collect();
        Ok(Self {
            socket,
            address,
            frames,
        })
    }

    /// Sends `bursts` of `burst` frames, one burst each period from `begin` on.
    pub(super) fn send(
        &self,
        burst: usize,
        bursts: usize,
        begin: Instant,
        period: Duration,
    ) -> Result<()> {
        let mut frames = self.frames.iter().cycle();
        for number in 0..bursts as u32 {
            sleep_until(begin + number * period);
            for frame in frames.by_ref().take(burst) {
                self.one(frame)?;
            }
        }
        Ok(())
    }

    /// Sends frames until one comes back.
    pub(super) fn wait_for_link(&self, counter: &CountProgram, kind: CountCounter) -> Result<()> {
        let before = counter.frames(kind)?;
        let deadline = Instant::now() + PATIENCE;
        while counter.frames(kind)? == before {
            ensure!(
                Instant::now() < deadline,
                "no frame comes back for {PATIENCE:?}"
            );
            self.one(&self.frames[0])?;
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn one(&self, frame: &[u8]) -> Result<()> {
        loop {
            let sent = sendto(
                self.socket.as_raw_fd(),
                frame,
                &self.address,
                MsgFlags::empty(),
            );
            match sent {
                Ok(_) => return Ok(()),
                // The card's ring is full.
                Err(Errno::ENOBUFS | Errno::EAGAIN) => thread::yield_now(),
                Err(error) => return Err(error).context("a frame cannot be sent"),
            }
        }
    }
}

/// Sleeps until a moment, which may be over.
pub(super) fn sleep_until(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()));
}
