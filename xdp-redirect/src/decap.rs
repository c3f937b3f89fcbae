//! The `decap` program of real servers: attachment, destinations, counters.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use aya::{maps::MapError, programs::ProgramError};
use xdp_layout::{
    AddressKey, DECAP_ANY_DESTINATION, DEFAULT_GUE_PORT, DecapConfig, FAMILY_V4, FAMILY_V6,
    MAX_DECAP_DESTINATIONS,
};

use crate::{
    attach::Attachment,
    counters::DecapCounters,
    error::{AttachError, chain},
    mode::{AttachedMode, XdpMode},
    object::{self, Cells, HashTable, Loaded, PerCpu},
    test_run::{self, Ingress, TestRun},
};

/// What is decapsulated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecapOptions {
    /// UDP destination port of GUE; zero leaves GUE alone.
    pub gue_port: u16,
    /// Outer destinations that are this host's.
    pub destinations: Vec<IpAddr>,
    /// Decapsulate whatever the outer destination. Whoever can reach this host can then send it
    /// inner packets from anywhere.
    pub any_destination: bool,
}

impl Default for DecapOptions {
    fn default() -> Self {
        Self {
            gue_port: DEFAULT_GUE_PORT,
            destinations: Vec::new(),
            any_destination: false,
        }
    }
}

/// Destinations that could not be set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecapError {
    /// More than can be held; nothing was changed.
    #[error(
        "{0} destinations are more than the {MAX_DECAP_DESTINATIONS} that can be held; name only \
         those that tunnels arrive at, or take any destination"
    )]
    TooMany(usize),
    /// The kernel refused a change; those before it are made.
    #[error("cannot change destination {destination}: {}", chain(source))]
    Map {
        /// Address that was to be added or removed.
        destination: IpAddr,
        /// What the kernel said.
        source: MapError,
    },
}

/// The `decap` program on an interface. Dropping it detaches the program.
///
/// In generic mode the kernel may not correct the checksum that some network cards compute over
/// the whole received packet. Should its log speak of `hw csum failure`, use native mode or switch
/// receive checksumming off (`ethtool -K IFACE rx off`).
pub struct Decap {
    /// Before the maps, so that the program is off the interface when they go.
    attachment: Option<Attachment>,
    loaded: Loaded,
    destinations: HashTable<{ AddressKey::SIZE }, u32>,
    held: BTreeSet<IpAddr>,
    counters: PerCpu<[u64; 2]>,
}

impl fmt::Debug for Decap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decap")
            .field("attachment", &self.attachment)
            .field("destinations", &self.held)
            .finish_non_exhaustive()
    }
}

impl Decap {
    /// Loads the program, attached to nothing.
    pub fn load(options: &DecapOptions) -> Result<Self, AttachError> {
        const PROGRAM: &str = "decap";
        let mut loaded = object::DECAP.load()?;
        let mut config: Cells<[u8; DecapConfig::SIZE]> = loaded.map("CONFIG")?;
        let value = DecapConfig {
            gue_port: options.gue_port.to_be_bytes(),
            flags: if options.any_destination {
                DECAP_ANY_DESTINATION
            } else {
                0
            },
        };
        config
            .set(0, value.to_bytes(), 0)
            .map_err(|source| AttachError::Map {
                program: PROGRAM,
                map: "CONFIG",
                source: Box::new(source),
            })?;
        let mut decap = Self {
            attachment: None,
            destinations: loaded.map("DESTINATIONS")?,
            held: BTreeSet::new(),
            counters: loaded.map("COUNTERS")?,
            loaded,
        };
        decap
            .set_destinations(&options.destinations)
            .map_err(|source| AttachError::Map {
                program: PROGRAM,
                map: "DESTINATIONS",
                source: Box::new(source),
            })?;
        Ok(decap)
    }

    /// Loads the program and attaches it.
    pub fn attach(
        interface: &str,
        mode: XdpMode,
        options: &DecapOptions,
    ) -> Result<Self, AttachError> {
        let mut decap = Self::load(options)?;
        let program = decap.loaded.program_mut()?;
        decap.attachment = Some(Attachment::new(program, interface, mode)?);
        Ok(decap)
    }

    /// Takes the program off its interface.
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

    /// Makes exactly these addresses this host's: additions first, removals last.
    pub fn set_destinations(&mut self, destinations: &[IpAddr]) -> Result<(), DecapError> {
        let wanted: BTreeSet<_> = destinations.iter().copied().collect();
        if wanted.len() > MAX_DECAP_DESTINATIONS as usize {
            return Err(DecapError::TooMany(wanted.len()));
        }
        let added: Vec<_> = wanted.difference(&self.held).copied().collect();
        let removed: Vec<_> = self.held.difference(&wanted).copied().collect();
        for destination in added {
            self.destinations
                .insert(key(destination), 1, 0)
                .map_err(|source| DecapError::Map {
                    destination,
                    source,
                })?;
            self.held.insert(destination);
        }
        for destination in removed {
            self.destinations
                .remove(&key(destination))
                .map_err(|source| DecapError::Map {
                    destination,
                    source,
                })?;
            self.held.remove(&destination);
        }
        Ok(())
    }

    /// What became of the packets so far, on all CPUs.
    pub fn counters(&self) -> Result<DecapCounters, MapError> {
        DecapCounters::read(&self.counters)
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

/// The address as maps hold it.
pub(crate) fn key(address: IpAddr) -> [u8; AddressKey::SIZE] {
    let (address, family) = match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            (bytes, FAMILY_V4)
        }
        IpAddr::V6(v6) => (v6.octets(), FAMILY_V6),
    };
    AddressKey {
        address,
        family,
        zero: [0; 3],
    }
    .to_bytes()
}
