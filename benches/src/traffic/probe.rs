//! How long it takes until a service answers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::lab::Namespace;

use super::message::Request;

/// Time between two datagrams.
const INTERVAL: Duration = Duration::from_millis(20);
const PAYLOAD: usize = 64;

/// Sends datagrams to a [`Server`](super::Server) until one of them is answered; gives the time from
/// the first to the answer. An error when there is none for `patience`.
pub fn time_to_answer(
    namespace: &Namespace,
    target: SocketAddr,
    patience: Duration,
) -> Result<Duration> {
    namespace.run(|| {
        let any: SocketAddr = if target.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(INTERVAL))?;
        let started = Instant::now();
        let mut answer = [0; 2048];
        // The same one each time: an answer that comes late counts as well.
        let request = Request::new(0, PAYLOAD);
        while started.elapsed() <= patience {
            let next = Instant::now() + INTERVAL;
            // What cannot be sent now, because a link is down, may be sent later.
            let received = socket
                .send(request.as_bytes())
                .and_then(|_| socket.recv(&mut answer));
            match received {
                Ok(length) if request.check_datagram(&answer[..length]).is_ok() => {
                    return Ok(started.elapsed());
                }
                // An error comes at once.
                _ => std::thread::sleep(next.saturating_duration_since(Instant::now())),
            }
        }
        bail!(
            "{target} does not answer {} for {patience:?}",
            namespace.name()
        )
    })?
}
