//! The `clsact` queueing discipline, to which tc filters are attached on kernels without TCX.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

const KIND: &str = "clsact";

/// Removes the discipline of an interface, unless it still has filters.
pub(crate) fn remove_if_empty(index: u32) -> io::Result<()> {
    for direction in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
        let mut message = message(index);
        message.header.parent = handle(direction);
        let question = RouteNetlinkMessage::GetTrafficFilter(message);
        if ask(question, NLM_F_DUMP)? > 0 {
            return Ok(());
        }
    }
    let mut message = message(index);
    message.header.handle = handle(0);
    message.header.parent = TcHandle::CLSACT;
    message.attributes = vec![TcAttribute::Kind(KIND.to_owned())];
    ask(RouteNetlinkMessage::DelQueueDiscipline(message), NLM_F_ACK).map(drop)
}

fn message(index: u32) -> TcMessage {
    TcMessage::with_index(index.cast_signed())
}

const fn handle(minor: u16) -> TcHandle {
    TcHandle {
        major: TcHandle::CLSACT.major,
        minor,
    }
}

/// Sends a request and counts the messages of the answer, without looking into them.
fn ask(request: RouteNetlinkMessage, flags: u16) -> io::Result<usize> {
    let mut request = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(request));
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let mut messages = 0;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let invalid = || io::Error::new(io::ErrorKind::InvalidData, "an answer is cut short");
            let buffer = NetlinkBuffer::new_checked(rest).map_err(|_| invalid())?;
            match i32::from(buffer.message_type()) {
                libc::NLMSG_DONE => return Ok(messages),
                libc::NLMSG_ERROR => {
                    let code = buffer.payload().first_chunk().ok_or_else(invalid)?;
                    return match i32::from_ne_bytes(*code) {
                        0 => Ok(messages),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                _ => messages += 1,
            }
            let length = (buffer.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
