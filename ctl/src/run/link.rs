//! Tells what becomes of the interface's link and of its queues while packets flow.
//!
//! The kernel says when a link changes. It says nothing when `ethtool -L` changes the queues, so those are
//! looked at from time to time, and the link with them, in case that a message was lost.

use std::time::Duration;

use anyhow::Context as _;
use dataplane::xsk::Interface;
use futures::{StreamExt as _, TryStreamExt as _, channel::mpsc::UnboundedReceiver, pin_mut};
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkFlags, LinkMessage},
    },
    sys::SocketAddr as NetlinkAddress,
};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{MissedTickBehavior, interval},
};

use super::settings;
use crate::control::{Link, LinkState, SharedLink};

/// How often the interface is looked at without a message.
const LOOK: Duration = Duration::from_secs(2);

/// Follows one interface.
pub(super) struct LinkWatch {
    interface: String,
    index: u32,
    /// Queues with a worker; nothing where every queue is served, whatever their number.
    workers: Option<Vec<u32>>,
    handle: Handle,
    changes: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, NetlinkAddress)>,
    connection: JoinHandle<()>,
    link: SharedLink,
}

impl LinkWatch {
    /// Looks at the interface for the first time. Must be called on a thread in its network namespace.
    pub(super) async fn new(
        interface: &str,
        index: u32,
        workers: Option<Vec<u32>>,
    ) -> anyhow::Result<Self> {
        let (connection, handle, changes) =
            new_multicast_connection(&[MulticastGroup::Link]).context("netlink")?;
        let connection = tokio::spawn(connection);
        let asked = || format!("interface {interface}: cannot be asked");
        let link = Link {
            state: state(&handle, index).await.with_context(asked)?,
            without_worker: without_worker(interface, workers.as_deref())
                .await
                .with_context(asked)?,
        };
        Ok(Self {
            interface: interface.to_owned(),
            index,
            workers,
            handle,
            changes,
            connection,
            link: SharedLink::new(link),
        })
    }

    /// What was last seen, for others.
    pub(super) fn link(&self) -> SharedLink {
        self.link.clone()
    }

    /// What an operator should know of it.
    pub(super) fn warnings(&self) -> Vec<String> {
        let link = self.link.get();
        let (state, queues) = (
            state_warning(&self.interface, link.state),
            queue_warning(&self.interface, &link.without_worker),
        );
        state.into_iter().chain(queues).collect()
    }

    /// Tells of changes, for as long as the task lives.
    pub(super) async fn run(mut self) {
        // What was said until now is of the time when the program was attached and the sockets were bound:
        // many drivers take the link down for that. The first look shows what has come of it.
        while self.changes.try_recv().is_ok() {}
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // There is none when the connection is gone, and then looks are all there is.
                Some((message, _)) = self.changes.next() => {
                    if let Some(state) = change(message.payload, self.index) {
                        self.tell_state(state);
                    }
                }
                _ = look.tick() => self.look().await,
            }
        }
    }

    async fn look(&self) {
        match state(&self.handle, self.index).await {
            Ok(state) => self.tell_state(state),
            Err(error) => tracing::debug!("the link cannot be looked at: {error:#}"),
        }
        match without_worker(&self.interface, self.workers.as_deref()).await {
            Ok(queues) => self.tell_queues(queues),
            Err(error) => tracing::debug!("the queues cannot be counted: {error:#}"),
        }
    }

    fn tell_state(&self, state: LinkState) {
        let link = self.link.get();
        if link.state == state {
            return;
        }
        self.link.set(Link { state, ..link });
        if let Some(warning) = state_warning(&self.interface, state) {
            tracing::warn!("{warning}");
        } else {
            tracing::info!(interface = self.interface, "the link is up again");
        }
    }

    fn tell_queues(&self, without_worker: Vec<u32>) {
        let link = self.link.get();
        if link.without_worker == without_worker {
            return;
        }
        let warning = queue_warning(&self.interface, &without_worker);
        self.link.set(Link {
            without_worker,
            ..link
        });
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        } else {
            tracing::info!(interface = self.interface, "all queues have a worker");
        }
    }
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

async fn state(handle: &Handle, index: u32) -> anyhow::Result<LinkState> {
    let answers = handle.link().get().match_index(index).execute();
    pin_mut!(answers);
    let message = answers.try_next().await?.context("no answer")?;
    Ok(state_of(&message))
}

async fn without_worker(interface: &str, workers: Option<&[u32]>) -> anyhow::Result<Vec<u32>> {
    let Some(workers) = workers else {
        return Ok(Vec::new());
    };
    let name = interface.to_owned();
    // It waits while a driver is being set up anew.
    let queues = spawn_blocking(move || Interface::open(&name)?.queues()).await??;
    Ok((0..queues)
        .filter(|queue| !workers.contains(queue))
        .collect())
}

/// What a message says of the interface's link, if it is about that.
fn change(payload: NetlinkPayload<RouteNetlinkMessage>, index: u32) -> Option<LinkState> {
    match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message))
            if message.header.index == index =>
        {
            Some(state_of(&message))
        }
        _ => None,
    }
}

fn state_of(message: &LinkMessage) -> LinkState {
    let flags = message.header.flags;
    if !flags.contains(LinkFlags::Up) {
        LinkState::Down
    } else if !flags.contains(LinkFlags::LowerUp) {
        LinkState::NoCarrier
    } else {
        LinkState::Up
    }
}

fn state_warning(interface: &str, state: LinkState) -> Option<String> {
    match state {
        LinkState::Up => None,
        LinkState::NoCarrier => Some(format!(
            "interface {interface} has no carrier: nothing arrives until the other end of the link is back"
        )),
        LinkState::Down => Some(format!(
            "interface {interface} is down: nothing arrives until `ip link set dev {interface} up`"
        )),
    }
}

fn queue_warning(interface: &str, without: &[u32]) -> Option<String> {
    if without.is_empty() {
        return None;
    }
    let without: Vec<_> = without.iter().map(|&queue| queue as usize).collect();
    Some(format!(
        "queues without a worker: {}; VIP packets that arrive there go to the kernel; restart with \
         queues = \"all\", or set the number of queues with `ethtool -L {interface}`",
        settings::display(&without)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(index: u32, flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        message
    }

    #[test]
    fn only_what_is_said_of_the_interface_counts() {
        let payload = |message| NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message));
        let up = LinkFlags::Up | LinkFlags::LowerUp;
        for (flags, state) in [
            (up, LinkState::Up),
            (LinkFlags::Up, LinkState::NoCarrier),
            (LinkFlags::LowerUp, LinkState::Down),
            (LinkFlags::empty(), LinkState::Down),
        ] {
            assert_eq!(change(payload(message(7, flags)), 7), Some(state));
            assert_eq!(change(payload(message(8, flags)), 7), None);
        }
        let gone = RouteNetlinkMessage::DelLink(message(7, up));
        assert_eq!(change(NetlinkPayload::InnerMessage(gone), 7), None);
    }

    #[tokio::test]
    async fn queues_beyond_those_with_a_worker_are_named() {
        for (workers, without) in [
            (None, vec![]),
            (Some(vec![0]), vec![]),
            (Some(vec![1]), vec![0]),
        ] {
            let watch = LinkWatch::new("lo", 1, workers).await.unwrap();
            assert_eq!(watch.link().get().without_worker, without);
        }
        assert_eq!(queue_warning("eth0", &[]), None);
        assert_eq!(
            queue_warning("eth0", &[2, 3, 4]).unwrap(),
            "queues without a worker: 2-4; VIP packets that arrive there go to the kernel; restart with \
             queues = \"all\", or set the number of queues with `ethtool -L eth0`"
        );
    }
}
