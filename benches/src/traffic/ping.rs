//! Echo requests (RFC 792, RFC 4443) over the kernel's ping sockets.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::lab::Namespace;

const HEADER: usize = 8;
/// Bytes behind the header of each echo request.
const PAYLOAD: usize = 56;

/// Sends `count` echo requests from `namespace` to `target`, the next one as soon as the last is
/// answered or `patience` is over, and gives the number of those that came back whole.
pub fn ping(namespace: &Namespace, target: IpAddr, count: u16, patience: Duration) -> Result<u16> {
    // Ping sockets are open to the groups of this range; none by default.
    namespace.sysctl("ipv4/ping_group_range", "0 0")?;
    namespace.run(|| {
        let (family, protocol, request, reply) = if target.is_ipv4() {
            (AddressFamily::Inet, SockProtocol::Icmp, 8, 0)
        } else {
            (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129)
        };
        let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)
            .context("cannot open a ping socket")?;
        // Datagram sockets of all kinds share the calls that are needed.
        let socket = UdpSocket::from(fd);
        socket.connect(SocketAddr::new(target, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(10)))?;
        let mut answered = 0;
        for sequence in 0..count {
            let mut message = [sequence as u8; HEADER + PAYLOAD];
            // Checksum and identifier are the kernel's.
            message[..HEADER].fill(0);
            message[0] = request;
            message[6..HEADER].copy_from_slice(&sequence.to_be_bytes());
            socket
                .send(&message)
                .context("cannot send an echo request")?;
            if answer_comes(&socket, reply, &message, patience)? {
                answered += 1;
            }
        }
        Ok(answered)
    })?
}

fn answer_comes(socket: &UdpSocket, reply: u8, request: &[u8], patience: Duration) -> Result<bool> {
    let mut answer = [0; HEADER + PAYLOAD + 1];
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let length = match socket.recv(&mut answer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => return Err(error).context("cannot receive an echo reply"),
        };
        if length == request.len() && answer[..2] == [reply, 0] && answer[6..length] == request[6..]
        {
            return Ok(true);
        }
    }
    Ok(false)
}
