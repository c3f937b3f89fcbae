//! Attaching a loaded tc program to the egress of an interface.

use std::{fmt, io};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    tc::{
        NlOptions, SchedClassifierLink, TcAttachOptions, TcError, qdisc_add_clsact,
        qdisc_detach_program,
    },
};

use crate::{
    clsact,
    error::{AttachError, is_permission, os_error},
    interface,
};

/// How a tc program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcHook {
    /// By a link (TCX), which the kernel removes when the process ends. Takes Linux 6.6.
    Tcx,
    /// As a filter of the `clsact` discipline, which stays when the process is killed, and is removed at
    /// the next start.
    Filter,
}

impl fmt::Display for TcHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcx => "tcx",
            Self::Filter => "clsact",
        })
    }
}

/// A program at the egress of an interface, until this is dropped.
#[derive(Debug)]
pub(crate) struct TcAttachment {
    /// Dropping it detaches the program.
    link: Option<SchedClassifierLink>,
    pub(crate) hook: TcHook,
    /// Interface whose discipline goes with the program.
    discipline: Option<u32>,
}

impl TcAttachment {
    /// Attaches the program; `hook` left out is a link where the kernel has them, else a filter.
    pub(crate) fn new(
        program: &mut SchedClassifier,
        name: &str,
        interface: &str,
        hook: Option<TcHook>,
    ) -> Result<Self, AttachError> {
        remove_stale(name, interface)?;
        match hook {
            Some(TcHook::Tcx) => Self::by_link(program, interface),
            Some(TcHook::Filter) => Self::by_filter(program, interface),
            None => match Self::by_link(program, interface) {
                Err(AttachError::TcRefused { source, .. })
                    if os_error(source.as_ref()) == Some(libc::EINVAL) =>
                {
                    Self::by_filter(program, interface)
                }
                other => other,
            },
        }
    }

    fn by_link(program: &mut SchedClassifier, interface: &str) -> Result<Self, AttachError> {
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        Ok(Self {
            link: Some(attach(program, interface, options, TcHook::Tcx)?),
            hook: TcHook::Tcx,
            discipline: None,
        })
    }

    /// A discipline that is made for the filter goes with it.
    fn by_filter(program: &mut SchedClassifier, interface: &str) -> Result<Self, AttachError> {
        let made = match qdisc_add_clsact(interface) {
            Ok(()) => true,
            Err(error) => match ProgramError::from(error) {
                error if number(&error) == Some(libc::EEXIST) => false,
                error => return Err(refusal(interface, TcHook::Filter, error)),
            },
        };
        let index = index(interface)?;
        let mut attachment = Self {
            link: None,
            hook: TcHook::Filter,
            discipline: made.then_some(index),
        };
        let options = TcAttachOptions::Netlink(NlOptions::default());
        attachment.link = Some(attach(program, interface, options, TcHook::Filter)?);
        Ok(attachment)
    }
}

impl Drop for TcAttachment {
    fn drop(&mut self) {
        self.link = None;
        if let Some(index) = self.discipline {
            // An interface that has gone took its discipline along.
            let _ = clsact::remove_if_empty(index);
        }
    }
}

fn attach(
    program: &mut SchedClassifier,
    interface: &str,
    options: TcAttachOptions,
    hook: TcHook,
) -> Result<SchedClassifierLink, AttachError> {
    program
        .attach_with_options(interface, TcAttachType::Egress, options)
        .and_then(|id| program.take_link(id))
        .map_err(|error| refusal(interface, hook, error))
}

/// Removes filters with the program of this name, which a process that was killed left, and their
/// discipline unless others use it; whether there was one.
pub(crate) fn remove_stale(name: &str, interface: &str) -> Result<bool, AttachError> {
    match qdisc_detach_program(interface, TcAttachType::Egress, name) {
        Ok(()) => {
            // It does no harm if it stays.
            let _ = clsact::remove_if_empty(index(interface)?);
            Ok(true)
        }
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(refusal(interface, TcHook::Filter, error.into())),
    }
}

fn index(interface: &str) -> Result<u32, AttachError> {
    interface::index(interface).map_err(|source| AttachError::NoInterface {
        interface: interface.to_owned(),
        source,
    })
}

fn refusal(interface: &str, hook: TcHook, error: ProgramError) -> AttachError {
    match number(&error).map(io::Error::from_raw_os_error) {
        Some(source) if source.raw_os_error() == Some(libc::ENODEV) => AttachError::NoInterface {
            interface: interface.to_owned(),
            source,
        },
        Some(source) if is_permission(&source) => AttachError::NotPermitted {
            action: format!("attaching a tc program to {interface}"),
            source,
        },
        Some(source) if source.raw_os_error() == Some(libc::ENOMEM) => AttachError::NoMemory {
            action: format!("attaching a tc program to {interface}"),
            source,
        },
        _ => AttachError::TcRefused {
            interface: interface.to_owned(),
            hook,
            source: Box::new(error),
        },
    }
}

/// The error number; those that aya passes on as its own are no links of its chain.
fn number(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::TcError(TcError::IoError(error)) => error.raw_os_error(),
        ProgramError::TcError(TcError::NetlinkError(error)) | ProgramError::NetlinkError(error) => {
            error.raw_os_error()
        }
        other => os_error(other),
    }
}
