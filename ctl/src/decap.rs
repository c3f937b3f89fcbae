//! `katran-xsk decap`: for real servers. Strips tunnels that arrive for this host and hands the inner
//! packets to its stack, until SIGTERM or SIGINT.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, Write as _},
    net::IpAddr,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection,
    packet_core::NetlinkMessage,
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
    },
    sys::SocketAddr as NetlinkAddress,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use xdp_redirect::{Decap, DecapCounters, DecapOptions};

use crate::{cli::DecapArgs, interface::Presence};

/// Changes of addresses come in groups: they are read once for those within this time.
const SETTLE: Duration = Duration::from_millis(50);
/// How often is looked whether the interface is still there.
const LOOK: Duration = Duration::from_secs(1);
/// Addresses are read again after this time without a change, in case that a message was lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the command until it is told to stop.
pub fn run(args: &DecapArgs) -> anyhow::Result<ExitCode> {
    // One thread, this one: interfaces are looked up in its network namespace.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    runtime.block_on(decap(args))
}

async fn decap(args: &DecapArgs) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut show = signal(SignalKind::user_defined1())?;

    let follows = !args.any_destination && args.destinations.is_empty();
    let (sender, mut changes) = mpsc::channel(1);
    let destinations = if follows {
        let addresses = Addresses::new().context("netlink")?;
        let destinations = addresses.read().await?;
        tokio::spawn(addresses.follow(sender.clone()));
        destinations
    } else {
        args.destinations.clone()
    };
    let count = destinations.len();
    let options = DecapOptions {
        gue_port: args.gue_port,
        destinations,
        any_destination: args.any_destination,
    };
    let mut decap = Decap::attach(&args.iface, args.xdp_mode, &options)?;
    let presence = Presence::of(&args.iface)?;
    say(&format!("{}\n", summary(args, &decap, follows, count)));

    let mut report = args.interval.map(interval);
    if let Some(report) = &mut report {
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once.
        report.tick().await;
    }
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = show.recv() => print_counters(&decap)?,
            () = tick(report.as_mut()) => print_counters(&decap)?,
            // The program goes with the interface, and nothing here notices by itself.
            _ = look.tick() => presence.check()?,
            // There is always a sender, so this waits for ever when nothing is followed.
            Some(destinations) = changes.recv() => follow(&mut decap, &destinations),
        }
    }
    drop(sender);
    print_counters(&decap)?;
    decap.detach();
    Ok(ExitCode::SUCCESS)
}

fn summary(args: &DecapArgs, decap: &Decap, follows: bool, count: usize) -> String {
    let mode = decap
        .mode()
        .map_or_else(String::new, |mode| format!(", XDP {mode}"));
    let fallback = match decap.fallback_reason() {
        Some(reason) => format!(" because native failed: {reason}"),
        None => String::new(),
    };
    let destinations = if args.any_destination {
        "any address".to_owned()
    } else if follows {
        format!("this host's addresses ({count} now, followed)")
    } else {
        format!("{count} addresses")
    };
    let gue = match args.gue_port {
        0 => "not GUE".to_owned(),
        port => format!("GUE on UDP port {port}"),
    };
    format!(
        "katran-xsk {} decapsulates on {}{mode}{fallback}: IP in IP, {gue}; to {destinations}",
        env!("CARGO_PKG_VERSION"),
        args.iface
    )
}

/// Never, without an interval.
async fn tick(interval: Option<&mut tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn follow(decap: &mut Decap, destinations: &[IpAddr]) {
    if let Err(error) = decap.set_destinations(destinations) {
        tracing::error!(
            %error,
            "this host's addresses cannot be followed; give --destination or --any-destination"
        );
    }
}

fn print_counters(decap: &Decap) -> anyhow::Result<()> {
    say(&table(
        &decap.counters().context("counters cannot be read")?,
    ));
    Ok(())
}

/// Writes to standard output. Packets matter more than who reads about them: when nobody does any
/// more, as behind `head`, decapsulation goes on.
fn say(text: &str) {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            tracing::warn!(%error, "standard output cannot be written");
        }
        _ => {}
    }
}

fn table(counters: &DecapCounters) -> String {
    let mut text = "\n".to_owned();
    let width = counters
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0);
    for (name, traffic) in counters.iter() {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{name:width$}  {:>12} packets  {:>15} bytes",
            traffic.packets, traffic.bytes
        );
    }
    text
}

/// The addresses of this host's interfaces.
struct Addresses {
    handle: Handle,
    changes: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, NetlinkAddress)>,
}

impl Addresses {
    fn new() -> io::Result<Self> {
        let (connection, handle, changes) =
            new_multicast_connection(&[MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr])?;
        tokio::spawn(connection);
        Ok(Self { handle, changes })
    }

    /// All of them, loopback addresses left out.
    async fn read(&self) -> Result<Vec<IpAddr>, rtnetlink::Error> {
        let messages: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await?;
        let addresses: BTreeSet<IpAddr> = messages.iter().filter_map(address).collect();
        Ok(addresses.into_iter().collect())
    }

    /// Sends them whenever they may have changed, for as long as the task lives.
    async fn follow(mut self, sender: mpsc::Sender<Vec<IpAddr>>) {
        loop {
            self.changed().await;
            match self.read().await {
                Ok(addresses) => {
                    if sender.send(addresses).await.is_err() {
                        return;
                    }
                }
                Err(error) => tracing::warn!(%error, "this host's addresses cannot be read"),
            }
        }
    }

    /// Sleeps until they may have changed.
    async fn changed(&mut self) {
        match timeout(PATIENCE, self.changes.next()).await {
            Ok(Some(_)) => {
                sleep(SETTLE).await;
                while let Ok(message) = self.changes.try_recv() {
                    drop(message);
                }
            }
            // The connection is gone: reading fails and says why.
            Ok(None) => sleep(PATIENCE).await,
            Err(_) => {}
        }
    }
}

/// The address that packets for this host carry: on a point-to-point link `Address` is the peer's.
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
    .or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
    .filter(|address| !address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: Vec<AddressAttribute>) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.attributes = attributes;
        message
    }

    #[test]
    fn the_local_end_of_a_link_counts() {
        let local: IpAddr = "192.0.2.1".parse().unwrap();
        let peer: IpAddr = "192.0.2.2".parse().unwrap();
        let both = vec![
            AddressAttribute::Address(peer),
            AddressAttribute::Local(local),
        ];
        assert_eq!(address(&message(both)), Some(local));
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(
            address(&message(vec![AddressAttribute::Address(v6)])),
            Some(v6)
        );
        let loopback = "127.0.0.1".parse().unwrap();
        assert_eq!(
            address(&message(vec![AddressAttribute::Local(loopback)])),
            None
        );
        assert_eq!(address(&message(vec![])), None);
    }
}
