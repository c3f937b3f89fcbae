//! Anonymous network namespaces.
//!
//! A namespace of the lab has no name in the file system: this process holds a descriptor of it and
//! the processes started in it keep it alive. When all of them are gone, however they ended, the
//! kernel takes the namespace with its interfaces away.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use std::os::fd::AsRawFd;

use super::sys::{self, Offload};

/// A network namespace that lives as long as this value and the processes in it.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
    fd: Arc<OwnedFd>,
}

impl Namespace {
    /// Creates a namespace. `name` is only for messages and thread names.
    pub fn new(name: &str) -> Result<Self> {
        let fd = on_thread(name, || -> Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("cannot create a network namespace (are you root?)")?;
            let file = File::open("/proc/thread-self/ns/net")
                .context("cannot open /proc/thread-self/ns/net")?;
            Ok(file.into())
        })?;
        Ok(Self {
            name: name.into(),
            fd: Arc::new(fd),
        })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        let file = File::open("/proc/thread-self/ns/net")
            .context("cannot open /proc/thread-self/ns/net")?;
        Ok(Self {
            name: "current".into(),
            fd: Arc::new(file.into()),
        })
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The descriptor that holds the namespace.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Path under which other processes of this user can enter the namespace while this process
    /// lives, for example with `nsenter --net=PATH`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }

    /// Inode that identifies the namespace: what `readlink /proc/PID/ns/net` shows in brackets.
    pub fn inode(&self) -> Result<u64> {
        Ok(fs::metadata(self.path())?.ino())
    }

    /// Runs `work` inside the namespace, on a thread of its own. Sockets opened there stay in the
    /// namespace. A panic of `work` goes on in the caller.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R> {
        on_thread(&self.name, || {
            setns(&*self.fd, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter the namespace `{}`", self.name))?;
            Ok(work())
        })
    }

    /// Starts a thread in the namespace that may outlive the caller.
    pub fn spawn_thread<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<R>>> {
        let namespace = self.clone();
        thread::Builder::new()
            .name(self.name.to_string())
            .spawn(move || {
                setns(&*namespace.fd, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter the namespace `{}`", namespace.name))?;
                Ok(work())
            })
            .context("cannot start a thread")
    }

    /// A command whose process will run inside the namespace and be killed when the thread that
    /// starts it ends. Start it with [`Process::spawn`](super::Process::spawn) to let it live until
    /// its handle is dropped.
    ///
    /// The file system is the caller's: /sys/class/net keeps showing the caller's interfaces.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        sys::enter_namespace_on_exec(&mut command, Arc::clone(&self.fd));
        command
    }

    /// Writes a setting under /proc/sys/net; `key` has slashes, as in `ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.run(|| fs::write(&path, value))?.with_context(|| {
            format!(
                "cannot write {value} to {path} in namespace `{}`",
                self.name
            )
        })
    }

    /// Turns off TX checksum offload of an interface, so that what leaves it has complete checksums
    /// also where the other end hands packets on without looking at offload marks.
    pub fn disable_tx_checksum(&self, interface: &str) -> Result<()> {
        self.disable(interface, Offload::TxChecksum)
    }

    /// Turns off GRO of an interface, so that a router hands on the packets that arrived.
    pub fn disable_gro(&self, interface: &str) -> Result<()> {
        self.disable(interface, Offload::Gro)
    }

    /// Sets the number of queues of an interface, as `ethtool -L INTERFACE combined N` does, or
    /// `rx N tx N` where queues for both do not exist.
    pub fn set_queues(&self, interface: &str, queues: u32) -> Result<()> {
        self.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            sys::set_queues(&socket, interface, queues)
        })?
        .with_context(|| {
            format!(
                "cannot give {interface} in namespace `{}` {queues} queues",
                self.name
            )
        })
    }

    /// Has threads of the kernel's own receive for an interface, one for each queue, instead of whoever
    /// is interrupted. On a veth it takes an XDP program, at one end or the other.
    pub fn set_threaded(&self, interface: &str) -> Result<()> {
        self.set_attribute(interface, "threaded", "1")
    }

    /// Writes to a file of the interface in /sys.
    pub fn set_attribute(&self, interface: &str, attribute: &str, value: &str) -> Result<()> {
        self.run(|| -> Result<()> {
            // /sys shows the interfaces of whoever mounted it, so mount one; the thread's own file
            // system goes with the thread.
            unshare(CloneFlags::CLONE_NEWNS).context("cannot have a file system of its own")?;
            let nothing = None::<&str>;
            let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(nothing, "/", nothing, flags, nothing).context("cannot make / private")?;
            mount(
                Some("sysfs"),
                "/sys",
                Some("sysfs"),
                MsFlags::empty(),
                nothing,
            )
            .context("cannot mount /sys")?;
            let path = format!("/sys/class/net/{interface}/{attribute}");
            fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))
        })?
        .with_context(|| {
            format!(
                "cannot set {attribute} of {interface} in namespace `{}`",
                self.name
            )
        })
    }

    fn disable(&self, interface: &str, offload: Offload) -> Result<()> {
        self.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            sys::disable(&socket, interface, offload)
        })?
        .with_context(|| {
            format!(
                "cannot turn off {offload:?} of {interface} in namespace `{}`",
                self.name
            )
        })
    }
}

/// Runs `work` on a fresh thread, so that what it does to its namespace ends with it.
fn on_thread<R: Send>(name: &str, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, work)
            .context("cannot start a thread")?
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))
    })
}
