//! Memory, rings and a socket for one queue: how they are had, and why not.

use std::{
    error::Error,
    io,
    num::NonZeroU32,
    os::fd::{AsRawFd, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit},
};
use xsk_rs::{
    CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem,
    config::{
        BindFlags, FrameSize, Interface as InterfaceName, LibxdpFlags, QueueSize, SocketConfig,
        UmemConfig,
    },
};

use super::{
    config::{BUSY_POLL_BUDGET, SocketMode, XskConfig, chunk_size_under},
    error::XskError,
    interface::{Interface, kernel_release},
    options,
    probe::SocketProbe,
};
use crate::{forward::BURST, port::kick::errno};

fn check_frames(config: &XskConfig) -> Result<(), XskError> {
    let frames = config.frames;
    if (XskConfig::MIN_FRAMES..=XskConfig::MAX_FRAMES).contains(&frames) {
        Ok(())
    } else {
        Err(XskError::Frames { frames })
    }
}

/// Memory and the descriptors of its chunks.
pub(super) struct Memory {
    pub(super) umem: Umem,
    pub(super) descriptors: Vec<FrameDesc>,
    /// Its size.
    pub(super) bytes: usize,
    /// Whether it is made of huge pages.
    pub(super) huge_pages: bool,
}

/// A socket that is bound to its queue, and what it came with.
pub(super) struct Opened {
    /// Index of the interface.
    pub(super) interface: u32,
    pub(super) memory: Memory,
    /// Bytes of each chunk.
    pub(super) chunk_size: usize,
    pub(super) tx: TxQueue,
    pub(super) rx: RxQueue,
    pub(super) fill: FillQueue,
    pub(super) completion: CompQueue,
    /// Whether the device reads and writes the memory itself.
    pub(super) zero_copy: bool,
    pub(super) probe: SocketProbe,
}

/// Takes the memory and binds a socket to the queue.
pub(super) fn open(config: &XskConfig) -> Result<Opened, XskError> {
    check_frames(config)?;
    let interface = Interface::open(&config.interface).map_err(|error| match errno(&error) {
        Errno::ENODEV => XskError::NoSuchInterface {
            interface: config.interface.clone(),
        },
        _ => XskError::Interface {
            interface: config.interface.clone(),
            source: error,
        },
    })?;
    let driver = interface.driver().unwrap_or_else(|error| {
        tracing::warn!(
            interface = config.interface,
            %error,
            "the driver is unknown: chunks are as large as for most"
        );
        String::new()
    });
    let attempt = Attempt {
        config,
        index: interface.index(),
        driver,
    };
    let chunk_size = attempt.chunk_size()?;
    let queues = interface
        .queues()
        .map_err(|error| attempt.refused("counting queues", error))?;
    if config.queue >= queues {
        return Err(XskError::NoSuchQueue {
            interface: config.interface.clone(),
            queue: config.queue,
            queues,
            driver: attempt.driver,
        });
    }
    attempt.open(chunk_size)
}

/// One try to open a socket, with what its errors name.
struct Attempt<'a> {
    config: &'a XskConfig,
    /// Index of the interface.
    index: u32,
    driver: String,
}

impl Attempt<'_> {
    fn chunk_size(&self) -> Result<usize, XskError> {
        let config = self.config;
        chunk_size_under(&self.driver, config.mode, config.max_frame).ok_or(XskError::MaxFrame {
            max_frame: config.max_frame,
        })
    }

    fn refused(&self, step: &'static str, source: io::Error) -> XskError {
        let config = self.config;
        let interface = config.interface.clone();
        let queue = config.queue;
        match errno(&source) {
            Errno::EPERM | Errno::EACCES => XskError::Privilege { interface, queue },
            Errno::EAFNOSUPPORT => XskError::NoKernelSupport { interface, queue },
            _ => XskError::Refused {
                interface,
                queue,
                driver: self.driver.clone(),
                mode: config.mode,
                step,
                source,
            },
        }
    }

    fn open(&self, chunk_size: usize) -> Result<Opened, XskError> {
        let memory = self.memory(chunk_size)?;
        let (tx, rx, fill, completion) = self.socket(&memory.umem)?;
        // SAFETY: `rx` keeps the descriptor open beyond the end of this function.
        let fd = unsafe { BorrowedFd::borrow_raw(rx.fd().as_raw_fd()) };
        let zero_copy =
            options::is_zero_copy(fd).map_err(|error| self.refused("reading the mode", error))?;
        if self.config.busy_poll {
            options::set_busy_poll(fd, true)
                .and_then(|()| options::set_busy_poll_budget(fd, BUSY_POLL_BUDGET))
                .map_err(|error| self.refused("setting busy polling", error))?;
        }
        if !zero_copy && let Err(error) = options::set_send_budget(fd, BURST as u16) {
            tracing::debug!(
                interface = self.config.interface,
                queue = self.config.queue,
                %error,
                "the kernel keeps to 32 frames a send",
            );
        }
        let probe = SocketProbe::new(fd)
            .map_err(|error| self.refused("duplicating the descriptor", error))?;
        Ok(Opened {
            interface: self.index,
            memory,
            chunk_size,
            tx,
            rx,
            fill,
            completion,
            zero_copy,
            probe,
        })
    }

    fn memory(&self, chunk_size: usize) -> Result<Memory, XskError> {
        const HUGE_PAGE: usize = 2 << 20;
        let frames = self.config.frames as usize;
        if self.config.huge_pages {
            // Chunks for whole huge pages: the kernel maps nothing less.
            let rounded = (frames * chunk_size).next_multiple_of(HUGE_PAGE) / chunk_size;
            match self.umem(rounded, chunk_size, true) {
                Ok(memory) => return Ok(memory),
                Err(XskError::Memory { source, .. }) => tracing::warn!(
                    interface = self.config.interface,
                    queue = self.config.queue,
                    error = %source,
                    "no huge pages to be had, using ordinary ones; reserve some with sysctl vm.nr_hugepages",
                ),
                Err(error) => return Err(error),
            }
        }
        self.umem(frames, chunk_size, false)
    }

    fn umem(&self, frames: usize, chunk_size: usize, huge: bool) -> Result<Memory, XskError> {
        let invalid = |what| self.refused(what, io::ErrorKind::InvalidInput.into());
        let size = |entries| QueueSize::new(entries).map_err(|_| invalid("sizing the rings"));
        let bytes = frames * chunk_size;
        let chunk = FrameSize::new(chunk_size as u32).map_err(|_| invalid("sizing the chunks"))?;
        let umem_config = UmemConfig::builder()
            .frame_size(chunk)
            .fill_queue_size(size(XskConfig::fill_ring(self.config.frames))?)
            .comp_queue_size(size(XskConfig::completion_ring(self.config.frames))?)
            .frame_headroom(0)
            .build()
            .map_err(|_| invalid("sizing the chunks"))?;
        let count = NonZeroU32::new(frames as u32).ok_or_else(|| invalid("sizing the memory"))?;
        let (umem, descriptors) = Umem::new(umem_config, count, huge).map_err(|error| {
            let source = cause(&error);
            let interface = self.config.interface.clone();
            let queue = self.config.queue;
            match errno(&source) {
                // What the kernel says when pinning would exceed the limit.
                Errno::ENOBUFS => XskError::MemoryLimit {
                    interface,
                    queue,
                    bytes,
                    limit: getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft),
                },
                Errno::ENOMEM => XskError::Memory {
                    interface,
                    queue,
                    bytes,
                    source,
                },
                _ => self.refused("registering the memory", source),
            }
        })?;
        Ok(Memory {
            umem,
            descriptors,
            bytes,
            huge_pages: huge,
        })
    }

    fn socket(&self, umem: &Umem) -> Result<(TxQueue, RxQueue, FillQueue, CompQueue), XskError> {
        let config = self.config;
        let invalid = |what| self.refused(what, io::ErrorKind::InvalidInput.into());
        let name: InterfaceName = config
            .interface
            .parse()
            .map_err(|_| invalid("reading the interface's name"))?;
        let ring = QueueSize::new(XskConfig::traffic_ring(config.frames))
            .map_err(|_| invalid("sizing the rings"))?;
        let mode = match config.mode {
            SocketMode::Auto => BindFlags::empty(),
            SocketMode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
            SocketMode::Copy => BindFlags::XDP_COPY,
        };
        let socket_config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(mode | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();

        let started = Instant::now();
        let mut pause = Duration::from_millis(10);
        loop {
            // SAFETY: libxdp loads no program, and no other socket is created from this UMEM.
            let created = unsafe { Socket::new(socket_config, umem, &name, config.queue) };
            let source = match created {
                Ok((tx, rx, Some((fill, completion)))) => return Ok((tx, rx, fill, completion)),
                Ok((_, _, None)) => return Err(invalid("creating the fill ring")),
                Err(error) => cause(&error),
            };
            let interface = config.interface.clone();
            let queue = config.queue;
            let waited = started.elapsed();
            match errno(&source) {
                Errno::EBUSY if waited < config.busy_retry => {
                    thread::sleep(pause.min(config.busy_retry.saturating_sub(waited)));
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
                Errno::EBUSY => {
                    return Err(XskError::Busy {
                        interface,
                        queue,
                        waited,
                    });
                }
                // Drivers differ in how they say so; the queue exists, so the mode is what is wrong.
                Errno::EOPNOTSUPP | Errno::EINVAL if config.mode == SocketMode::ZeroCopy => {
                    return Err(XskError::ZeroCopyUnsupported {
                        interface,
                        queue,
                        driver: self.driver.clone(),
                        kernel: kernel_release(),
                        source,
                    });
                }
                _ => return Err(self.refused("binding the socket", source)),
            }
        }
    }
}

/// The system's error below a creation error of xsk-rs.
fn cause(error: &dyn Error) -> io::Error {
    error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error)
        .map_or_else(
            || io::Error::other(error.to_string()),
            io::Error::from_raw_os_error,
        )
}
