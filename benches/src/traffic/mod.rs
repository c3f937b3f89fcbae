//! Clients and servers of the lab's own, for demo and tests.
//!
//! A server answers every request with its number, the payload it got and the payload's checksum, so a
//! client can tell which real it reached and that every byte arrived. All of it runs on threads inside
//! namespaces, in this process.

mod background;
mod client;
mod held;
mod message;
mod ping;
mod probe;
mod server;
mod web;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Runtime;

pub use client::{run_connections, run_datagrams};
pub use held::{HeldConnections, HeldReport};
pub use message::{MAX_PAYLOAD, REQUEST_HEADER};
pub use ping::ping;
pub use probe::time_to_answer;
pub use server::Server;
pub use web::WebServer;

/// Failures that a [`Tally`] keeps the words of.
const KEPT_FAILURES: usize = 5;

/// What a client shall do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub target: SocketAddr,
    /// How many connections or datagrams.
    pub count: usize,
    /// How many at the same time.
    pub concurrency: usize,
    /// Bytes of payload of a request, up to [`MAX_PAYLOAD`]; the request is [`REQUEST_HEADER`] longer.
    /// All of the payload comes back from a connection; a datagram is answered by one of its own
    /// length, in which the payload's last few bytes have no room.
    pub payload: usize,
    /// Longest time for one connection, or for all attempts of one datagram.
    pub timeout: Duration,
}

/// What became of the connections or datagrams of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answered with the right payload, by the number of the server.
    pub by_server: BTreeMap<u16, u64>,
    /// Not answered, or with the wrong payload.
    pub failed: u64,
    /// Datagrams that had to be sent again.
    pub resent: u64,
    /// What happened to the first few that failed.
    pub failures: Vec<String>,
}

impl Tally {
    /// Number of those that went well.
    pub fn answered(&self) -> u64 {
        self.by_server.values().sum()
    }

    /// How many `server` answered.
    pub fn of_server(&self, server: u16) -> u64 {
        self.by_server.get(&server).copied().unwrap_or_default()
    }

    fn count(&mut self, outcome: Result<Answered>) {
        match outcome {
            Ok(answered) => {
                *self.by_server.entry(answered.server).or_default() += 1;
                self.resent += u64::from(answered.resent);
            }
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < KEPT_FAILURES {
                    self.failures.push(format!("{error:#}"));
                }
            }
        }
    }
}

/// One exchange that went well.
#[derive(Clone, Copy, Debug)]
struct Answered {
    server: u16,
    resent: u32,
}

/// Lets this process open as many descriptors as the system allows it: the clients' and the servers'
/// ends of thousands of connections are all in here.
pub fn raise_descriptor_limit() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
            .context("cannot raise the limit of open files")?;
    }
    Ok(())
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start an I/O runtime")
}
