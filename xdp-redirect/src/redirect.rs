//! The `redirect` program: attachment, sockets, VIPs, counters.

use std::{
    fmt,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya::{
    maps::{MapError, lpm_trie::Key},
    programs::ProgramError,
};
use xdp_layout::{
    AddressKey, MAX_QUEUES, PrefixKey, REDIRECT_FLAGS, REDIRECT_GUE_PORT, REDIRECT_HAS_PREFIXES,
    Tag, VipKey,
};

use crate::{
    attach::Attachment,
    counters::RedirectCounters,
    error::{AttachError, chain},
    mode::{AttachedMode, XdpMode},
    object::{self, Cells, HashTable, Loaded, PerCpu, PrefixTable, Sockets},
    test_run::{self, Ingress, TestRun},
    tunnels::Tunnels,
    vips::{self, Content, Place, Store, Value, VipEntry, VipError},
};

/// The `redirect` program on an interface. Dropping it detaches the program.
pub struct Redirect {
    /// Before the maps, so that the program is off the interface when they go.
    attachment: Option<Attachment>,
    loaded: Loaded,
    sockets: Sockets,
    tables: Tables,
    held: Content,
    counters: PerCpu<u64>,
}

impl fmt::Debug for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redirect")
            .field("attachment", &self.attachment)
            .field("places", &self.held.len())
            .finish_non_exhaustive()
    }
}

impl Redirect {
    /// Loads the program, attached to nothing: VIPs and sockets can be set first.
    pub fn load() -> Result<Self, AttachError> {
        let mut loaded = object::REDIRECT.load()?;
        Ok(Self {
            attachment: None,
            sockets: loaded.map("XSKS")?,
            tables: Tables {
                vips: loaded.map("VIPS")?,
                vip_prefixes: loaded.map("VIP_PREFIXES")?,
                addresses: loaded.map("ADDRESSES")?,
                address_prefixes: loaded.map("ADDRESS_PREFIXES")?,
                tunnels: loaded.map("TUNNELS")?,
                settings: loaded.map("SETTINGS")?,
            },
            held: Content::new(),
            counters: loaded.map("COUNTERS")?,
            loaded,
        })
    }

    /// Loads the program and attaches it. Without VIPs and sockets it passes every packet.
    pub fn attach(interface: &str, mode: XdpMode) -> Result<Self, AttachError> {
        let mut redirect = Self::load()?;
        redirect.attach_to(interface, mode)?;
        Ok(redirect)
    }

    /// Attaches a loaded program, or moves an attached one to another interface or mode.
    pub fn attach_to(&mut self, interface: &str, mode: XdpMode) -> Result<(), AttachError> {
        self.attachment = None;
        let program = self.loaded.program_mut()?;
        self.attachment = Some(Attachment::new(program, interface, mode)?);
        Ok(())
    }

    /// Takes the program off its interface; VIPs and sockets stay.
    pub fn detach(&mut self) {
        self.attachment = None;
    }

    /// Mode the program is attached in, if it is attached.
    pub fn mode(&self) -> Option<AttachedMode> {
        self.attachment.as_ref().map(|attachment| attachment.mode)
    }

    /// Why native mode did not work, if [`XdpMode::Auto`] took generic mode.
    pub fn fallback_reason(&self) -> Option<&str> {
        self.attachment.as_ref()?.fallback_reason.as_deref()
    }

    /// Sends the packets of an RX queue to a bound `AF_XDP` socket. The kernel lets go of the
    /// socket when it is closed.
    pub fn set_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), QueueError> {
        self.sockets
            .set(queue, socket.as_raw_fd(), 0)
            .map_err(|source| QueueError::new("cannot set the socket", queue, source))
    }

    /// Hands the packets of an RX queue to the kernel again.
    pub fn clear_socket(&mut self, queue: u32) -> Result<(), QueueError> {
        match self.sockets.unset(queue) {
            // The socket was closed, or never there.
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok(())
            }
            other => {
                other.map_err(|source| QueueError::new("cannot clear the socket", queue, source))
            }
        }
    }

    /// Makes exactly these VIPs known, and no tunnels; see [`Redirect::apply`].
    pub fn apply_vips(&mut self, entries: &[VipEntry]) -> Result<(), VipError> {
        self.apply(entries, &Tunnels::default())
    }

    /// Makes exactly these VIPs and tunnels known, by difference and while packets flow. If that fails,
    /// the previous ones are restored as far as the kernel lets us, and the error says how far.
    pub fn apply(&mut self, entries: &[VipEntry], tunnels: &Tunnels) -> Result<(), VipError> {
        let mut wanted = vips::content(entries)?;
        tunnels.add_to(&mut wanted)?;
        vips::transition(&mut self.tables, &mut self.held, &wanted)
    }

    /// What became of the packets so far, on all CPUs.
    pub fn counters(&self) -> Result<RedirectCounters, MapError> {
        RedirectCounters::read(&self.counters)
    }

    /// Runs the program over one frame of at least 14 bytes, without sending anything.
    pub fn test_run(
        &self,
        frame: &[u8],
        ingress: Option<Ingress>,
    ) -> Result<TestRun, ProgramError> {
        let program = self
            .loaded
            .program()
            .map_err(|_| ProgramError::UnexpectedProgramType)?;
        test_run::run(program, frame, ingress)
    }
}

/// A queue whose socket could not be set or cleared.
#[derive(Debug, thiserror::Error)]
#[error(
    "queue {queue}: {action}: {}{}",
    chain(source),
    if *queue < MAX_QUEUES { "" } else { " (queues 0 to 255 can have one)" }
)]
pub struct QueueError {
    /// RX queue.
    pub queue: u32,
    action: &'static str,
    source: MapError,
}

impl QueueError {
    fn new(action: &'static str, queue: u32, source: MapError) -> Self {
        Self {
            queue,
            action,
            source,
        }
    }
}

/// The maps that find VIPs and decap destinations.
struct Tables {
    vips: HashTable<{ VipKey::SIZE }, Value>,
    vip_prefixes: PrefixTable<{ PrefixKey::SIZE }, Value>,
    addresses: HashTable<{ AddressKey::SIZE }, Value>,
    address_prefixes: PrefixTable<{ PrefixKey::SIZE }, Value>,
    tunnels: HashTable<{ AddressKey::SIZE }, Value>,
    settings: Cells<u32>,
}

const _: () = assert!(size_of::<Value>() == Tag::SIZE);

impl Store for Tables {
    type Error = MapError;

    fn put(&mut self, place: &Place, value: Value) -> Result<(), MapError> {
        match place {
            Place::Vip(key) => self.vips.insert(key, value, 0),
            Place::VipPrefix(length, key) => {
                self.vip_prefixes.insert(&Key::new(*length, *key), value, 0)
            }
            Place::HasPrefixes => self.settings.set(REDIRECT_FLAGS, REDIRECT_HAS_PREFIXES, 0),
            Place::AddressPrefix(length, key) => {
                self.address_prefixes
                    .insert(&Key::new(*length, *key), value, 0)
            }
            Place::Address(key) => self.addresses.insert(key, value, 0),
            Place::GuePort => {
                let [high, low, ..] = value;
                let port = u16::from_ne_bytes([high, low]);
                self.settings.set(REDIRECT_GUE_PORT, u32::from(port), 0)
            }
            Place::Tunnel(key) => self.tunnels.insert(key, value, 0),
        }
    }

    fn remove(&mut self, place: &Place) -> Result<(), MapError> {
        match place {
            Place::Vip(key) => self.vips.remove(key),
            Place::VipPrefix(length, key) => self.vip_prefixes.remove(&Key::new(*length, *key)),
            Place::HasPrefixes => self.settings.set(REDIRECT_FLAGS, 0, 0),
            Place::AddressPrefix(length, key) => {
                self.address_prefixes.remove(&Key::new(*length, *key))
            }
            Place::Address(key) => self.addresses.remove(key),
            Place::GuePort => self.settings.set(REDIRECT_GUE_PORT, 0, 0),
            Place::Tunnel(key) => self.tunnels.remove(key),
        }
    }
}
