//! The least `AF_XDP` socket that an XSKMAP takes: a UMEM and a receive ring, bound to a queue.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr, thread,
    time::{Duration, Instant},
};

const CHUNK: usize = 4096;
const CHUNKS: usize = 16;

/// Memory of the UMEM, which must start at a page.
#[derive(Clone)]
#[repr(align(4096))]
struct Page([u8; CHUNK]);

/// A bound socket. It never reads: its rings are not mapped.
pub(crate) struct XskSocket {
    socket: OwnedFd,
    /// The kernel writes packets here; nobody looks at them.
    _umem: Vec<Page>,
}

impl XskSocket {
    /// Binds a socket, in copy mode, to a queue of an interface of this thread's namespace.
    pub(crate) fn bind(interface: u32, queue: u32) -> Self {
        // SAFETY: no pointers are passed.
        let socket = check(unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW, 0) });
        // SAFETY: the call above gave a descriptor that nothing else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let mut umem = vec![Page([0; CHUNK]); CHUNKS];
        let start = umem.as_mut_ptr();
        let socket = Self {
            socket,
            _umem: umem,
        };
        socket.set(
            libc::XDP_UMEM_REG,
            &libc::xdp_umem_reg {
                addr: start as u64,
                len: (CHUNK * CHUNKS) as u64,
                chunk_size: CHUNK as u32,
                headroom: 0,
                flags: 0,
                tx_metadata_len: 0,
            },
        );
        for ring in [
            libc::XDP_UMEM_FILL_RING,
            libc::XDP_UMEM_COMPLETION_RING,
            libc::XDP_RX_RING,
        ] {
            socket.set(ring, &(CHUNKS as u32));
        }
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: libc::XDP_COPY,
            sxdp_ifindex: interface,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        let bind = || {
            // SAFETY: the address is a live `sockaddr_xdp` of the size given.
            let result = unsafe {
                libc::bind(
                    socket.socket.as_raw_fd(),
                    ptr::from_ref(&address).cast(),
                    size_of::<libc::sockaddr_xdp>() as u32,
                )
            };
            if result < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(())
            }
        };
        // The kernel lets go of a queue some time after its last socket was closed.
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = bind() {
            assert_eq!(error.raw_os_error(), Some(libc::EBUSY), "{error}");
            assert!(Instant::now() < deadline, "queue {queue} stays busy");
            thread::sleep(Duration::from_millis(1));
        }
        socket
    }

    fn set<T>(&self, option: i32, value: &T) {
        // SAFETY: the value is a live object of the size given, and the kernel only reads it.
        check(unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_XDP,
                option,
                ptr::from_ref(value).cast(),
                size_of::<T>() as u32,
            )
        });
    }
}

impl AsFd for XskSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn check(result: i32) -> i32 {
    assert!(result >= 0, "{}", io::Error::last_os_error());
    result
}
