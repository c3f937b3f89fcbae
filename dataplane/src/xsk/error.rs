//! Why a socket could not be opened.

use std::{io, time::Duration};

use super::config::{LARGEST_FRAME, OLDEST_KERNEL, SocketMode, XskConfig};

/// Why a socket could not be opened. The text names interface, queue and remedy.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// No such interface in this network namespace.
    #[error(
        "interface {interface}: not found in this network namespace; `ip link` lists what there is"
    )]
    NoSuchInterface {
        /// Its name.
        interface: String,
    },

    /// The interface cannot be looked at.
    #[error("interface {interface}: cannot be looked at ({source}); is this process at a limit?")]
    Interface {
        /// Its name.
        interface: String,
        /// The system's error.
        source: io::Error,
    },

    /// The interface has fewer queues.
    #[error(
        "{interface} queue {queue}: the interface ({driver}) has {queues} receive queue(s), \
         numbered from 0; choose among them, or add queues with `ethtool -L {interface} combined N`"
    )]
    NoSuchQueue {
        /// Interface.
        interface: String,
        /// Queue asked for.
        queue: u32,
        /// Queues there are.
        queues: u32,
        /// Driver.
        driver: String,
    },

    /// Number of frames out of range.
    #[error(
        "frames = {frames}: must be from {} to {}",
        XskConfig::MIN_FRAMES,
        XskConfig::MAX_FRAMES
    )]
    Frames {
        /// What was asked for.
        frames: u32,
    },

    /// No chunk holds such a frame.
    #[error("max_frame = {max_frame}: must be at most {LARGEST_FRAME}")]
    MaxFrame {
        /// What was asked for.
        max_frame: u16,
    },

    /// The process lacks the right.
    #[error(
        "{interface} queue {queue}: no permission to open an AF_XDP socket; run as root or with the \
         capabilities CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF"
    )]
    Privilege {
        /// Interface.
        interface: String,
        /// Queue.
        queue: u32,
    },

    /// The kernel has no `AF_XDP`.
    #[error(
        "{interface} queue {queue}: this kernel has no AF_XDP sockets; it takes CONFIG_XDP_SOCKETS \
         and Linux {OLDEST_KERNEL} or later"
    )]
    NoKernelSupport {
        /// Interface.
        interface: String,
        /// Queue.
        queue: u32,
    },

    /// The memory may not be pinned.
    #[error(
        "{interface} queue {queue}: {bytes} bytes of packet memory exceed the limit of locked memory \
         ({limit} bytes for all queues together); raise it with `ulimit -l unlimited` or \
         LimitMEMLOCK=infinity, grant CAP_IPC_LOCK, or use fewer frames"
    )]
    MemoryLimit {
        /// Interface.
        interface: String,
        /// Queue.
        queue: u32,
        /// Memory asked for.
        bytes: usize,
        /// `RLIMIT_MEMLOCK`.
        limit: u64,
    },

    /// The memory cannot be had.
    #[error(
        "{interface} queue {queue}: {bytes} bytes of packet memory cannot be had ({source}); use \
         fewer frames or free memory"
    )]
    Memory {
        /// Interface.
        interface: String,
        /// Queue.
        queue: u32,
        /// Memory asked for.
        bytes: usize,
        /// The system's answer.
        source: io::Error,
    },

    /// Another socket has the queue.
    #[error(
        "{interface} queue {queue}: busy for {} ms: another process has an AF_XDP socket on it; stop \
         that process (`ss --xdp -ap` names it) or choose another queue",
        waited.as_millis()
    )]
    Busy {
        /// Interface.
        interface: String,
        /// Queue.
        queue: u32,
        /// How long it was tried.
        waited: Duration,
    },

    /// Zero-copy was insisted on and is not to be had.
    #[error(
        "{interface} queue {queue}: the driver ({driver}) of this kernel ({kernel}) does not support \
         zero-copy here ({source}); use mode = \"auto\" or \"copy\""
    )]
    ZeroCopyUnsupported {
        /// Interface.
        interface: String,
        /// Queue.
        queue: u32,
        /// Driver.
        driver: String,
        /// The kernel's release.
        kernel: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The kernel refused for another reason.
    #[error("{interface} queue {queue} (driver {driver}, mode {mode}): {step} failed: {source}")]
    Refused {
        /// Interface.
        interface: String,
        /// Queue.
        queue: u32,
        /// Driver.
        driver: String,
        /// Mode asked for.
        mode: SocketMode,
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}
