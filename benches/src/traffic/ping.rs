//! Echo requests (RFC 792, RFC 4443) over the kernel's ping sockets.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, socket,
};

use crate::lab::Namespace;

const HEADER: usize = 8;
/// Bytes behind the header of each echo request.
const PAYLOAD: usize = 56;
/// Identifier of each echo request; a ping socket's is what would be its port.
///
/// The kernel would draw one for each socket, and with it a checksum. A VIP answers as Katran does,
/// and eight of the 65,536 checksums are then off by one, for which the client drops the reply. With
/// this identifier the first 256 requests have none of them.
const IDENTIFIER: u16 = 1;

/// Sends `count` echo requests from `namespace` to `target`, the next one as soon as the last is
/// answered or `patience` is over, and gives the number of those that came back whole.
pub fn ping(namespace: &Namespace, target: IpAddr, count: u16, patience: Duration) -> Result<u16> {
    // Ping sockets are open to the groups of this range; none by default.
    namespace.sysctl("ipv4/ping_group_range", "0 0")?;
    namespace.run(|| {
        let (family, protocol, any, request, reply) = if target.is_ipv4() {
            let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
            (AddressFamily::Inet, SockProtocol::Icmp, any, 8, 0)
        } else {
            let any = IpAddr::from(Ipv6Addr::UNSPECIFIED);
            (AddressFamily::Inet6, SockProtocol::IcmpV6, any, 128, 129)
        };
        let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)
            .context("cannot open a ping socket")?;
        let identifier = SocketAddr::new(any, IDENTIFIER);
        bind(fd.as_raw_fd(), &SockaddrStorage::from(identifier))
            .with_context(|| format!("another ping socket has the identifier {IDENTIFIER}"))?;
        // Datagram sockets of all kinds share the calls that are needed.
        let socket = UdpSocket::from(fd);
        socket.connect(SocketAddr::new(target, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(10)))?;
        let mut answered = 0;
        for sequence in 0..count {
            let mut message = [sequence as u8; HEADER + PAYLOAD];
            // The kernel adds checksum and identifier.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plan;

    /// One's complement sum of 16-bit words (RFC 1071).
    fn sum(words: impl IntoIterator<Item = u16>) -> u16 {
        words.into_iter().fold(0, |sum, word| {
            let (sum, carry) = sum.overflowing_add(word);
            sum + u16::from(carry)
        })
    }

    #[test]
    fn no_reply_of_a_vip_has_a_checksum_that_is_off() {
        let pseudo_header = [plan::client_v6(0), plan::vip_v6(0)]
            .into_iter()
            .flat_map(|address| address.segments())
            .chain([(HEADER + PAYLOAD) as u16, 58]);
        let pseudo_header = sum(pseudo_header);
        for sequence in 0..256 {
            let filler = sequence | sequence << 8;
            let behind_the_type = sum([IDENTIFIER, sequence]
                .into_iter()
                .chain([filler; PAYLOAD / 2]));
            let v4 = !sum([8 << 8, behind_the_type]);
            assert!(v4.swap_bytes().checked_add(8).is_some(), "{sequence}");
            let v6 = !sum([128 << 8, behind_the_type, pseudo_header]);
            assert!(v6.swap_bytes().checked_sub(1).is_some(), "{sequence}");
        }
    }
}
