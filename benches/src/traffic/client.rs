//! Clients that come, ask once and go.

use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::lab::Namespace;

use super::message::Request;
use super::{Answered, Plan, Tally, raise_descriptor_limit, runtime};

/// Time after which a datagram without answer is sent again.
const RESEND: Duration = Duration::from_secs(1);

/// Opens the connections of a plan, one request each. `progress` hears how many have ended.
pub fn run_connections(
    namespace: &Namespace,
    plan: &Plan,
    progress: impl FnMut(usize) + Send,
) -> Result<Tally> {
    run(namespace, plan, progress, connection)
}

/// Sends the datagrams of a plan, each from a socket of its own. `progress` hears how many have
/// been answered or given up.
pub fn run_datagrams(
    namespace: &Namespace,
    plan: &Plan,
    progress: impl FnMut(usize) + Send,
) -> Result<Tally> {
    run(namespace, plan, progress, datagram)
}

fn run<F>(
    namespace: &Namespace,
    plan: &Plan,
    mut progress: impl FnMut(usize) + Send,
    exchange: impl Fn(Plan, u64) -> F + Sync,
) -> Result<Tally>
where
    F: Future<Output = Result<Answered>> + Send + 'static,
{
    raise_descriptor_limit()?;
    namespace.run(|| {
        runtime()?.block_on(async {
            let mut tally = Tally::default();
            let mut running = JoinSet::new();
            let mut ended = 0;
            let mut numbers = 0..plan.count as u64;
            loop {
                while running.len() < plan.concurrency.max(1)
                    && let Some(number) = numbers.next()
                {
                    running.spawn(exchange(plan.clone(), number));
                }
                let Some(outcome) = running.join_next().await else {
                    return Ok(tally);
                };
                tally.count(outcome.unwrap_or_else(|error| Err(error.into())));
                ended += 1;
                progress(ended);
            }
        })
    })?
}

async fn connection(plan: Plan, number: u64) -> Result<Answered> {
    let exchange = async {
        let mut stream = TcpStream::connect(plan.target)
            .await
            .context("cannot connect")?;
        stream.set_nodelay(true)?;
        let request = Request::new(number, plan.payload);
        let server = request.exchange(&mut stream).await?;
        Ok(Answered { server, resent: 0 })
    };
    timeout(plan.timeout, exchange)
        .await
        .map_err(|_| anyhow!("connection {number} not done after {:?}", plan.timeout))?
}

async fn datagram(plan: Plan, number: u64) -> Result<Answered> {
    let any: SocketAddr = if plan.target.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(plan.target).await?;
    let request = Request::new(number, plan.payload);
    let mut answer = vec![0; usize::from(u16::MAX)];
    let end = Instant::now() + plan.timeout;
    let mut resent = 0;
    while Instant::now() < end {
        socket
            .send(request.as_bytes())
            .await
            .context("cannot send")?;
        let try_until = end.min(Instant::now() + RESEND);
        if let Ok(length) = timeout_at(try_until, socket.recv(&mut answer)).await {
            let server = request.check_datagram(&answer[..length.context("cannot receive")?])?;
            return Ok(Answered { server, resent });
        }
        resent += 1;
    }
    bail!("datagram {number} not answered within {:?}", plan.timeout)
}
