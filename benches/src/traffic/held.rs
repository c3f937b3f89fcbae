//! Connections that stay open and show that they live.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::lab::Namespace;

use super::background::Background;
use super::message::Request;
use super::{KEPT_FAILURES, Plan};

/// Time between two looks at the connections while they are awaited.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Open TCP connections, each of which sends a request, waits for the answer, rests and begins
/// again. Dropping it closes them.
#[derive(Debug)]
pub struct HeldConnections {
    connections: Arc<[Connection]>,
    _background: Background,
}

/// What became of held connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldReport {
    /// Alive, by the number of the server.
    pub by_server: BTreeMap<u16, u64>,
    /// Broken: reset, closed, silent for too long, damaged or answered by another server.
    pub broken: u64,
    /// What happened to the first few that broke.
    pub failures: Vec<String>,
}

impl HeldReport {
    /// Number of connections that live.
    pub fn alive(&self) -> u64 {
        self.by_server.values().sum()
    }

    /// Number of living connections to `server`.
    pub fn of_server(&self, server: u16) -> u64 {
        self.by_server.get(&server).copied().unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Connection {
    exchanges: AtomicU64,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Opening,
    Open {
        server: u16,
    },
    Broken(String),
}

impl Connection {
    fn state(&self) -> State {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

impl HeldConnections {
    /// Opens the connections of a plan and returns when each has got its first answer or is broken.
    /// `rest` is the pause between an answer and the next request; `plan.timeout` is the longest
    /// time an answer may take.
    pub fn open(namespace: &Namespace, plan: &Plan, rest: Duration) -> Result<Self> {
        let connections: Arc<[Connection]> =
            (0..plan.count).map(|_| Connection::default()).collect();
        let (plan, shared) = (plan.clone(), Arc::clone(&connections));
        let background = Background::start(namespace, move || {
            let opening = Arc::new(Semaphore::new(plan.concurrency.max(1)));
            for index in 0..shared.len() {
                let (plan, shared) = (plan.clone(), Arc::clone(&shared));
                let opening = Arc::clone(&opening);
                tokio::spawn(async move {
                    let connection = &shared[index];
                    let result = hold(&plan, index as u64, rest, connection, &opening).await;
                    if let Err(error) = result {
                        connection.set(State::Broken(format!("{error:#}")));
                    }
                });
            }
            Ok(())
        })?;
        let held = Self {
            connections,
            _background: background,
        };
        while held
            .connections
            .iter()
            .any(|connection| matches!(connection.state(), State::Opening))
        {
            thread::sleep(POLL_INTERVAL);
        }
        Ok(held)
    }

    /// Waits until every connection has done a whole exchange that began after this call, or is
    /// broken.
    pub fn verify(&self) -> HeldReport {
        let mut report = HeldReport::default();
        let counts = |connection: &Connection| connection.exchanges.load(Ordering::Acquire);
        let before: Vec<u64> = self.connections.iter().map(counts).collect();
        for (connection, before) in self.connections.iter().zip(before) {
            // The exchange that runs now may be over already but for the counting; so two more.
            let state = loop {
                let state = connection.state();
                if matches!(state, State::Broken(_)) || counts(connection) >= before + 2 {
                    break state;
                }
                thread::sleep(POLL_INTERVAL);
            };
            let reason = match state {
                State::Open { server } => {
                    *report.by_server.entry(server).or_default() += 1;
                    continue;
                }
                State::Opening => "still not open".to_owned(),
                State::Broken(reason) => reason,
            };
            report.broken += 1;
            if report.failures.len() < KEPT_FAILURES {
                report.failures.push(reason);
            }
        }
        report
    }

    /// Exchanges of all connections so far.
    pub fn exchanges(&self) -> u64 {
        self.connections
            .iter()
            .map(|connection| connection.exchanges.load(Ordering::Relaxed))
            .sum()
    }

    /// Waits until the connections together have done `count` more exchanges.
    pub fn wait_for_exchanges(&self, count: u64, longest: Duration) -> Result<()> {
        let goal = self.exchanges() + count;
        let deadline = Instant::now() + longest;
        while self.exchanges() < goal {
            ensure!(
                Instant::now() < deadline,
                "{} of {count} exchanges missing after {longest:?}",
                goal - self.exchanges()
            );
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

/// The life of one connection; ends only with an error.
async fn hold(
    plan: &Plan,
    index: u64,
    rest: Duration,
    connection: &Connection,
    opening: &Semaphore,
) -> Result<()> {
    let permit = opening.acquire().await?;
    let mut stream = timeout(plan.timeout, TcpStream::connect(plan.target))
        .await
        .map_err(|_| anyhow!("not connected after {:?}", plan.timeout))?
        .context("cannot connect")?;
    stream.set_nodelay(true)?;
    let mut permit = Some(permit);
    let mut first = None;
    for round in 0.. {
        // Payloads differ between connections and between rounds.
        let request = Request::new((round << 32) | index, plan.payload);
        let server = timeout(plan.timeout, request.exchange(&mut stream))
            .await
            .map_err(|_| anyhow!("no answer for {:?}", plan.timeout))??;
        let first = *first.get_or_insert(server);
        ensure!(
            server == first,
            "answered by server {server}, but opened to server {first}"
        );
        if permit.take().is_some() {
            connection.set(State::Open { server });
        }
        connection.exchanges.fetch_add(1, Ordering::Release);
        sleep(rest).await;
    }
    Ok(())
}
