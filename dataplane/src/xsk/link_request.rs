//! One question to the kernel's routing socket: how many receive queues an interface has. For
//! drivers that cannot say it through ethtool.

use std::io;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use std::os::fd::AsRawFd;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const IFLA_NUM_RX_QUEUES: u16 = 32;
/// Bytes of a netlink header, and of the link header behind it.
const HEADER: usize = 16;

/// Receive queues of the interface with this index.
pub(super) fn receive_queues(index: u32) -> io::Result<u32> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let mut request = [0_u8; 2 * HEADER];
    request[..4].copy_from_slice(&(2 * HEADER as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&RTM_GETLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    request[HEADER + 4..HEADER + 8].copy_from_slice(&index.to_ne_bytes());
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut reply = vec![0; 1 << 16];
    let len = recv(socket.as_raw_fd(), &mut reply, MsgFlags::empty())?;
    find_queues(&reply[..len]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Finds the attribute in an answer to `RTM_GETLINK`.
fn find_queues(reply: &[u8]) -> Option<u32> {
    let u16_at = |at: usize| Some(u16::from_ne_bytes(*reply.get(at..)?.first_chunk()?));
    if u16_at(4)? != RTM_NEWLINK {
        return None;
    }
    let mut at = 2 * HEADER;
    loop {
        let len = usize::from(u16_at(at)?);
        if u16_at(at + 2)? == IFLA_NUM_RX_QUEUES {
            return Some(u32::from_ne_bytes(*reply.get(at + 4..)?.first_chunk()?));
        }
        // Attributes start at multiples of four; their length counts their own header.
        at += len.max(4).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_namespace_has_a_loopback_with_one_queue() {
        assert_eq!(receive_queues(1).ok(), Some(1));
    }

    #[test]
    fn an_answer_cut_anywhere_gives_nothing() {
        let mut reply = vec![0_u8; 2 * HEADER];
        reply[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
        reply.extend([6, 0, 3, 0, b'l', 0, 0, 0]);
        reply.extend([8, 0, 32, 0]);
        reply.extend(7_u32.to_ne_bytes());
        assert_eq!(find_queues(&reply), Some(7));
        for len in 0..reply.len() {
            assert_eq!(find_queues(&reply[..len]), None, "{len} bytes");
        }
    }
}
