//! Sending frames as they are (`AF_PACKET`).

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
};

/// One end of a link.
pub(crate) struct Wire {
    socket: OwnedFd,
    interface: u32,
}

impl Wire {
    /// Opens an interface of this thread's network namespace.
    pub(crate) fn open(interface: u32) -> Self {
        // SAFETY: no pointers are passed.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
        assert!(socket >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the call above gave a descriptor that nothing else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        Self { socket, interface }
    }

    /// Sends a frame that starts with its Ethernet header.
    pub(crate) fn send(&self, frame: &[u8]) {
        // SAFETY: every field of this C structure may be zero.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = self.interface.cast_signed();
        // SAFETY: frame and address are live objects of the sizes given.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        assert_eq!(
            sent,
            frame.len().cast_signed(),
            "{}",
            io::Error::last_os_error()
        );
    }
}
