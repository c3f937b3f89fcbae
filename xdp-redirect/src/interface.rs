//! What the kernel says about an interface: index, MTU, attached XDP program.

use std::{fmt, io};

use aya::programs::loaded_programs;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::net::if_::if_nametoindex;

use crate::mode::AttachedMode;

/// An XDP program that is attached to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// Number of the program, as `bpftool prog` shows it.
    pub id: u32,
    /// Name of the program; asking for it takes `CAP_BPF` or `CAP_SYS_ADMIN`.
    pub name: Option<String>,
    /// Mode; none if the driver offloads it or runs several.
    pub mode: Option<AttachedMode>,
}

impl fmt::Display for AttachedProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "`{name}` (id {}", self.id)?,
            None => write!(f, "one of unknown name (id {}", self.id)?,
        }
        match self.mode {
            Some(mode) => write!(f, ", {mode})"),
            None => f.write_str(")"),
        }
    }
}

/// The XDP program attached to an interface of this thread's network namespace, if there is one.
pub fn attached_program(interface: &str) -> io::Result<Option<AttachedProgram>> {
    Ok(Link::query(index(interface)?)?.program)
}

/// Index of an interface in this thread's network namespace.
pub(crate) fn index(interface: &str) -> io::Result<u32> {
    if_nametoindex(interface).map_err(io::Error::from)
}

/// Answer of the kernel about one interface.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// Bytes of the largest IP packet.
    pub(crate) mtu: Option<u32>,
    pub(crate) program: Option<AttachedProgram>,
}

impl Link {
    pub(crate) fn query(index: u32) -> io::Result<Self> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        let mut message = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::from(RouteNetlinkMessage::GetLink(request)),
        );
        message.header.flags = NLM_F_REQUEST;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);

        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.send(&bytes, 0)?;
        // Reads a whole datagram, however large: interfaces with many virtual functions have long
        // answers.
        let (answer, _) = socket.recv_from_full()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                Ok(Self::read(&link.attributes))
            }
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the kernel answered a question about an interface with something else",
            )),
        }
    }

    fn read(attributes: &[LinkAttribute]) -> Self {
        let mut link = Self::default();
        for attribute in attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => link.mtu = Some(*mtu),
                LinkAttribute::Xdp(xdp) => link.program = program(xdp),
                _ => {}
            }
        }
        link
    }
}

fn program(xdp: &[LinkXdp]) -> Option<AttachedProgram> {
    let mut mode = None;
    let mut id = None;
    for attribute in xdp {
        match attribute {
            LinkXdp::Attached(XdpAttached::Driver) => mode = Some(AttachedMode::Native),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some(AttachedMode::Generic),
            LinkXdp::ProgId(number)
            | LinkXdp::DrvProgId(number)
            | LinkXdp::SkbProgId(number)
            | LinkXdp::HwProgId(number) => id = id.or(Some(*number)),
            _ => {}
        }
    }
    let id = id.filter(|&id| id != 0)?;
    Some(AttachedProgram {
        id,
        name: name(id),
        mode,
    })
}

fn name(id: u32) -> Option<String> {
    loaded_programs()
        .map_while(Result::ok)
        .find(|program| program.id() == id)?
        .name_as_str()
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_answers_without_privilege() {
        let link = Link::query(index("lo").expect("every namespace has lo")).expect("an answer");
        assert!(link.mtu.is_some_and(|mtu| mtu > 0));
        assert_eq!(link.program, None);
    }

    #[test]
    fn a_missing_interface_is_an_error() {
        let error = attached_program("no-such-link").expect_err("no such interface");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn programs_are_read_whatever_their_mode() {
        let attached = [
            LinkXdp::Attached(XdpAttached::SocketBuffer),
            LinkXdp::SkbProgId(u32::MAX),
        ];
        let found = program(&attached).expect("a program");
        assert_eq!(
            (found.id, found.mode),
            (u32::MAX, Some(AttachedMode::Generic))
        );
        assert_eq!(program(&[LinkXdp::Attached(XdpAttached::None)]), None);
    }

    #[test]
    fn a_program_is_named_for_humans() {
        let mut program = AttachedProgram {
            id: 12,
            name: Some("firewall".into()),
            mode: Some(AttachedMode::Native),
        };
        assert_eq!(program.to_string(), "`firewall` (id 12, native)");
        program.name = None;
        program.mode = None;
        assert_eq!(program.to_string(), "one of unknown name (id 12)");
    }
}
