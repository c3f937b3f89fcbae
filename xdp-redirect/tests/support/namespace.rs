//! A network namespace for one test thread; it goes when the thread does.

use std::{fs::File, os::fd::AsFd, process::Command};

use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns, unshare},
};

/// A network namespace with nothing but an idle `lo`.
pub(crate) struct Namespace(File);

impl Namespace {
    /// Makes a namespace and moves the calling thread into it.
    pub(crate) fn enter_new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
        Self(File::open("/proc/thread-self/ns/net").expect("the namespace is there"))
    }

    /// Makes a namespace; the calling thread stays where it is.
    pub(crate) fn new_beside() -> Self {
        let here = File::open("/proc/thread-self/ns/net").expect("the namespace is there");
        let beside = Self::enter_new();
        setns(here.as_fd(), CloneFlags::CLONE_NEWNET).expect("coming back");
        beside
    }

    /// Does something in this namespace and comes back.
    pub(crate) fn within<T>(&self, action: impl FnOnce() -> T) -> T {
        let here = File::open("/proc/thread-self/ns/net").expect("the namespace is there");
        setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).expect("entering a namespace");
        let result = action();
        setns(here.as_fd(), CloneFlags::CLONE_NEWNET).expect("coming back");
        result
    }

    /// Moves an interface of the calling thread's namespace into this one.
    pub(crate) fn adopt(&self, interface: &str) {
        use std::os::fd::AsRawFd as _;
        // A child process has the file under the same number until it runs the program.
        let descriptor = format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd());
        ip(&["link", "set", interface, "netns", &descriptor]);
    }
}

/// Runs `ip` in the namespace of the calling thread.
pub(crate) fn ip(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("iproute2 is installed");
    assert!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Makes a pair of veths with this many queues and sets both up.
pub(crate) fn veth(name: &str, peer: &str, queues: u32) {
    let queues = queues.to_string();
    let mut arguments = vec!["link", "add", name, "numrxqueues", &queues];
    arguments.extend(["numtxqueues", &queues, "type", "veth", "peer", "name", peer]);
    arguments.extend(["numrxqueues", &queues, "numtxqueues", &queues]);
    ip(&arguments);
    ip(&["link", "set", name, "up"]);
    ip(&["link", "set", peer, "up"]);
}

/// Index of an interface in the namespace of the calling thread.
pub(crate) fn index(interface: &str) -> u32 {
    if_nametoindex(interface).expect("the interface is there")
}
