//! What the tests on real sockets share: privilege, network namespaces, raw frames.

use std::{
    io::{self, Write as _},
    mem::size_of,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::{
    net::if_::if_nametoindex,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};

/// A network namespace of the calling thread and of threads it starts; gone with the last of them.
/// One test at a time has one, so that tests can count descriptors.
pub(crate) struct Namespace(
    #[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>,
);

impl Namespace {
    /// Enters a new namespace in which a veth pair of `queues` queues is up. `None` without the
    /// right to, said aloud; a failure where `CI` or `KATRAN_XSK_REQUIRE_ROOT` forbids skipping.
    pub(crate) fn enter(test: &str, name: &str, peer: &str, queues: u32) -> Option<Self> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

        let is_root = std::fs::metadata("/proc/self")
            .expect("/proc is mounted")
            .uid()
            == 0;
        if !is_root {
            let strict = ["CI", "KATRAN_XSK_REQUIRE_ROOT"].into_iter().find(|name| {
                std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0")
            });
            assert!(
                strict.is_none(),
                "{test} must run because {} is set, but this is not root",
                strict.unwrap_or_default()
            );
            // Past the harness, which keeps to itself what `eprintln!` writes; at once, so that the
            // lines of other tests do not cut it.
            let line = format!("SKIPPED {test}: not root\n");
            let _ = io::stderr().write_all(line.as_bytes());
            return None;
        }
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
        let count = queues.to_string();
        let mut arguments = vec!["link", "add", name, "numrxqueues", &count];
        arguments.extend(["numtxqueues", &count, "type", "veth", "peer", "name", peer]);
        arguments.extend(["numrxqueues", &count, "numtxqueues", &count]);
        ip(&arguments);
        ip(&["link", "set", name, "up"]);
        ip(&["link", "set", peer, "up"]);
        ip(&["link", "set", "lo", "up"]);
        Some(Self(guard))
    }
}

/// Runs `ip` in the namespace of the calling thread.
pub(crate) fn ip(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("iproute2 is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "ip {}: {error}",
        arguments.join(" ")
    );
}

/// Sends and receives whole frames at an interface.
pub(crate) struct FrameSocket(OwnedFd);

impl FrameSocket {
    pub(crate) fn bind(interface: &str) -> Self {
        let all = SockProtocol::EthAll;
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            all,
        )
        .expect("a packet socket");
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: if_nametoindex(interface)
                .expect("the interface")
                .cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the address is readable for its length.
        let result = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "bind: {}", io::Error::last_os_error());
        Self(socket)
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty()).expect("the frame is sent");
    }

    /// The next frame, in either direction; `None` when none comes for five seconds.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        use std::os::fd::AsFd as _;
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(5_000_u16)).expect("poll");
        if !fds[0].any().unwrap_or(false) {
            return None;
        }
        let mut frame = vec![0; 4096];
        let len = recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()).expect("a frame");
        frame.truncate(len);
        Some(frame)
    }
}
