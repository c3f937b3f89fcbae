//! Why a program could not be loaded or attached, and what to do about it.

use std::{error::Error, io};

use crate::{interface::AttachedProgram, mode::AttachedMode, tc::TcHook};

/// A program that could not be loaded or attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// No such interface in this thread's network namespace.
    #[error("interface {interface}: cannot be found ({source}); `ip link` lists those there are")]
    NoInterface {
        /// Name as given.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface has an XDP program already.
    #[error(
        "interface {interface}: another XDP program is attached{}; stop what owns it \
         (`ip link set dev {interface} xdp off` helps only when no process holds it)",
        described(other.as_ref())
    )]
    Busy {
        /// Name as given.
        interface: String,
        /// The program, if the kernel tells.
        other: Option<AttachedProgram>,
    },
    /// The process may not do this.
    #[error("{action}: not permitted; CAP_NET_ADMIN and CAP_BPF are needed, so run as root")]
    NotPermitted {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has no memory for the program's maps.
    #[error(
        "{action}: no memory ({source}); raise the memory limit of the cgroup, \
         or the limit of locked memory (`ulimit -l`)"
    )]
    NoMemory {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The driver or the network stack refuses the program in this mode.
    #[error("interface {interface}: {mode} XDP is refused: {reason}")]
    Refused {
        /// Name as given.
        interface: String,
        /// Mode that was tried.
        mode: AttachedMode,
        /// What the error number means here and what helps.
        reason: String,
        /// What the kernel said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The network stack refuses a tc program.
    #[error(
        "interface {interface}: a tc program at its egress is refused ({hook}): {}; the kernel needs \
         TCX (Linux 6.6), or CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF",
        chain(source.as_ref())
    )]
    TcRefused {
        /// Name as given.
        interface: String,
        /// What was tried.
        hook: TcHook,
        /// What the kernel said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The kernel does not take the program.
    #[error("eBPF program `{program}`: the kernel does not load it: {}", chain(source.as_ref()))]
    Load {
        /// Name of the program.
        program: &'static str,
        /// What the loader said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The embedded object is not the one this crate was written for.
    #[error("eBPF object `{program}` lacks `{lacks}`: run `cargo xtask bpf` and build again")]
    Object {
        /// Name of the object.
        program: &'static str,
        /// Program or map that is not in it.
        lacks: &'static str,
    },
    /// A map of the loaded program could not be written.
    #[error("eBPF program `{program}`: cannot write map {map}: {}", chain(source.as_ref()))]
    Map {
        /// Name of the program.
        program: &'static str,
        /// Name of the map.
        map: &'static str,
        /// What the loader said.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl AttachError {
    /// Sorts a failure to load by its error number.
    pub(crate) fn load(program: &'static str, source: aya::EbpfError) -> Self {
        let action = || format!("loading eBPF program `{program}`");
        match os_error(&source).map(io::Error::from_raw_os_error) {
            Some(error) if is_permission(&error) => Self::NotPermitted {
                action: action(),
                source: error,
            },
            Some(error) if error.raw_os_error() == Some(libc::ENOMEM) => Self::NoMemory {
                action: action(),
                source: error,
            },
            _ => Self::Load {
                program,
                source: Box::new(source),
            },
        }
    }

    /// Whether generic mode is worth a try after native mode failed like this.
    pub(crate) fn allows_fallback(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::NoMemory { .. })
    }
}

pub(crate) fn is_permission(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

/// The error number at the bottom of a chain of errors.
pub(crate) fn os_error(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(number) = io.raw_os_error()
        {
            return Some(number);
        }
        next = error.source();
    }
    None
}

/// A chain of errors on one line, without repetitions.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}

fn described(program: Option<&AttachedProgram>) -> String {
    program
        .map(|program| format!(": {program}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_names_the_other_program_and_the_remedy() {
        let error = AttachError::Busy {
            interface: "eth0".into(),
            other: Some(AttachedProgram {
                id: 7,
                name: Some("firewall".into()),
                mode: Some(AttachedMode::Native),
            }),
        };
        assert_eq!(
            error.to_string(),
            "interface eth0: another XDP program is attached: `firewall` (id 7, native); \
             stop what owns it (`ip link set dev eth0 xdp off` helps only when no process holds it)"
        );
    }

    #[test]
    fn the_error_number_is_found_at_the_bottom() {
        let error = aya::EbpfError::ProgramError(aya::programs::ProgramError::SyscallError(
            aya::sys::SyscallError {
                call: "bpf_prog_load",
                io_error: io::Error::from_raw_os_error(libc::EPERM),
            },
        ));
        assert_eq!(os_error(&error), Some(libc::EPERM));
        let error = AttachError::load("redirect", error);
        assert!(matches!(error, AttachError::NotPermitted { .. }), "{error}");
        assert!(!error.allows_fallback());
    }

    #[test]
    fn a_chain_says_nothing_twice() {
        let error = aya::EbpfError::FileError {
            path: "redirect.o".into(),
            error: io::Error::other("torn"),
        };
        assert_eq!(chain(&error), "error loading redirect.o: torn");
    }
}
