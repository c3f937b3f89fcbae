//! Attaching a loaded program to an interface.

use std::io;

use aya::programs::{ProgramError, Xdp, xdp::XdpLink};

use crate::{
    error::{AttachError, chain, is_permission, os_error},
    interface::{self, Link},
    mode::{AttachedMode, XdpMode},
};

/// A program on an interface, until this is dropped.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// Held, not read: dropping it detaches the program.
    _link: XdpLink,
    pub(crate) mode: AttachedMode,
    pub(crate) fallback_reason: Option<String>,
}

impl Attachment {
    pub(crate) fn new(
        program: &mut Xdp,
        interface: &str,
        mode: XdpMode,
    ) -> Result<Self, AttachError> {
        let index = interface::index(interface).map_err(|source| AttachError::NoInterface {
            interface: interface.to_owned(),
            source,
        })?;
        let mut attach = |mode| Self::in_mode(program, interface, index, mode);
        match mode {
            XdpMode::Native => attach(AttachedMode::Native),
            XdpMode::Generic => attach(AttachedMode::Generic),
            XdpMode::Auto => match attach(AttachedMode::Native) {
                Err(error) if error.allows_fallback() => {
                    let generic = attach(AttachedMode::Generic)?;
                    Ok(Self {
                        fallback_reason: Some(error.to_string()),
                        ..generic
                    })
                }
                other => other,
            },
        }
    }

    fn in_mode(
        program: &mut Xdp,
        interface: &str,
        index: u32,
        mode: AttachedMode,
    ) -> Result<Self, AttachError> {
        let link = program
            .attach_to_if_index(index, mode.into())
            .and_then(|id| program.take_link(id))
            .map_err(|error| refusal(interface, index, mode, error))?;
        Ok(Self {
            _link: link,
            mode,
            fallback_reason: None,
        })
    }
}

fn refusal(interface: &str, index: u32, mode: AttachedMode, error: ProgramError) -> AttachError {
    let number = os_error(&error);
    let link = Link::query(index).unwrap_or_default();
    match number.map(io::Error::from_raw_os_error) {
        // EEXIST: a program of the other mode.
        Some(source)
            if matches!(source.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
                && (link.program.is_some() || number == Some(libc::EBUSY)) =>
        {
            AttachError::Busy {
                interface: interface.to_owned(),
                other: link.program,
            }
        }
        Some(source) if is_permission(&source) => AttachError::NotPermitted {
            action: format!("attaching an XDP program to {interface}"),
            source,
        },
        Some(source) if source.raw_os_error() == Some(libc::ENOMEM) => AttachError::NoMemory {
            action: format!("attaching an XDP program to {interface}"),
            source,
        },
        _ => AttachError::Refused {
            interface: interface.to_owned(),
            mode,
            reason: reason(interface, mode, number, link.mtu, &error),
            source: Box::new(error),
        },
    }
}

/// What an error number means when a program is attached, and what helps.
fn reason(
    interface: &str,
    mode: AttachedMode,
    number: Option<i32>,
    mtu: Option<u32>,
    error: &ProgramError,
) -> String {
    let mtu = mtu.map_or_else(|| "its MTU".to_owned(), |mtu| format!("its MTU of {mtu}"));
    let said = chain(error);
    match (mode, number) {
        (AttachedMode::Native, Some(libc::EOPNOTSUPP)) => {
            format!("the driver has none; use generic mode ({said})")
        }
        (AttachedMode::Native, Some(libc::EINVAL | libc::ERANGE)) => format!(
            "probably because {mtu} is too large for one page per packet, or because of an offload \
             such as LRO; lower the MTU (about 3500 is the limit of most drivers), \
             `ethtool -K` the offload off, or use generic mode ({said})"
        ),
        (AttachedMode::Native, Some(libc::ENOSPC)) => format!(
            "the driver has too few queues for it; give a veth as many RX queues as its peer has TX queues \
             (`ethtool -L {interface} rx N`), another interface fewer RX queues, or use generic mode ({said})"
        ),
        (AttachedMode::Native, _) => format!("{said}; the kernel's log may say more"),
        (AttachedMode::Generic, _) => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::sys::SyscallError;

    fn syscall(number: i32) -> ProgramError {
        ProgramError::SyscallError(SyscallError {
            call: "bpf_link_create",
            io_error: io::Error::from_raw_os_error(number),
        })
    }

    #[test]
    fn reasons_name_the_knob() {
        let said = |number, mtu| {
            reason(
                "lb0",
                AttachedMode::Native,
                Some(number),
                mtu,
                &syscall(number),
            )
        };
        assert!(said(libc::ERANGE, Some(9000)).contains("its MTU of 9000 is too large"));
        assert!(said(libc::EINVAL, None).contains("its MTU is too large"));
        assert!(said(libc::EOPNOTSUPP, None).contains("use generic mode"));
        assert!(said(libc::ENOSPC, None).contains("ethtool -L lb0 rx N"));
        assert!(said(libc::EIO, None).contains("Input/output error"));
    }

    #[test]
    fn errors_are_sorted_by_number() {
        let sorted = |number| refusal("lo", 1, AttachedMode::Native, syscall(number));
        assert!(matches!(sorted(libc::EBUSY), AttachError::Busy { .. }));
        assert!(matches!(
            sorted(libc::EPERM),
            AttachError::NotPermitted { .. }
        ));
        assert!(matches!(sorted(libc::ENOMEM), AttachError::NoMemory { .. }));
        let refused = sorted(libc::EOPNOTSUPP);
        assert!(refused.allows_fallback());
        assert!(matches!(refused, AttachError::Refused { .. }));
    }
}
