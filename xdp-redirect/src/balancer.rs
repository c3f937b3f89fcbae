//! The `balancer` program, the balancer wholly in the kernel: attachment, services, flows, counters.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, ErrorKind},
    mem,
};

use aya::{
    maps::{MapError, lpm_trie::Key},
    programs::{ProgramError, Xdp},
    util::{nr_cpus, online_cpus},
};
use xdp_layout::{
    AddressKey, MAX_VIPS, PrefixKey, Tag, VipKey,
    balancer::{
        ConfigValue, FlowKey, FlowValue, RING_SIZE, Real, RealValue, Settings, TRAFFIC_WORDS,
        VIP_FLAGS, Vip, VipValue, WILDCARD,
    },
    counter::BALANCER_WORDS,
};

use crate::{
    attach::Attachment,
    balancer_counters::{BalancerCounters, FlowTraffic},
    error::{AttachError, chain},
    mode::{AttachedMode, XdpMode},
    object::{self, Cells, HashTable, Loaded, PerCpu, PrefixTable},
    test_run::{self, Ingress, TestRun},
    vips::{self, Content, Place, Store, Value, VipEntry, VipError},
};

/// Name of the program.
const PROGRAM: &str = "balancer";

/// How the program is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalancerOptions {
    /// Flows that each CPU has room for, in each address family's table: a new flow takes the place of
    /// one of the same CPU. The kernel takes the memory at once.
    pub flow_table_capacity: usize,
}

impl BalancerOptions {
    /// Bytes that the flow tables take, about, with these CPUs: an entry with its key, its value and
    /// the kernel's head of 48 bytes, and for each entry one to two heads of hash buckets.
    pub const fn memory_for(flow_table_capacity: usize, cpus: usize) -> usize {
        const HEAD: usize = 48;
        const BUCKET: usize = 16;
        let entries = flow_table_capacity.saturating_mul(cpus);
        let v4 = HEAD + FlowKey::SIZE_V4 + FlowValue::SIZE;
        let v6 = HEAD + FlowKey::SIZE_V6 + FlowValue::SIZE;
        let buckets = match entries.checked_next_power_of_two() {
            Some(buckets) => buckets,
            None => usize::MAX,
        };
        entries
            .saturating_mul(v4 + v6)
            .saturating_add(buckets.saturating_mul(2 * BUCKET))
    }

    /// CPUs that each have a share of the flow tables: all that the kernel could ever bring up.
    pub fn cpus() -> io::Result<usize> {
        nr_cpus().map_err(unreadable)
    }

    /// CPUs that can run the program now.
    pub fn online_cpus() -> io::Result<Vec<u32>> {
        online_cpus().map_err(unreadable)
    }

    /// Entries of a flow table: the kernel divides them among the CPUs.
    fn entries(self) -> Result<u32, AttachError> {
        let refused = |source: io::Error| AttachError::Load {
            program: PROGRAM,
            source: Box::new(source),
        };
        let cpus = Self::cpus().map_err(refused)?;
        self.flow_table_capacity
            .checked_mul(cpus)
            .and_then(|entries| u32::try_from(entries).ok())
            .filter(|&entries| entries > 0)
            .ok_or_else(|| {
                let message = format!(
                    "a flow table for {} flows on each of {cpus} CPUs cannot be had; give 1 to {}",
                    self.flow_table_capacity,
                    u32::MAX as usize / cpus.max(1)
                );
                refused(io::Error::new(ErrorKind::InvalidInput, message))
            })
    }
}

fn unreadable((path, error): (&'static str, io::Error)) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

/// Services that the program's maps could not take.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BalancerError {
    /// The maps that find VIPs.
    #[error(transparent)]
    Vip(#[from] VipError),
    /// Something that makes no sense; nothing was changed.
    #[error("{what}: {reason}")]
    Invalid {
        /// VIP or real.
        what: String,
        /// Field, value and remedy.
        reason: String,
    },
    /// The kernel refused a change.
    #[error(
        "cannot write map {map}: {}; {}",
        chain(source),
        if *restored { "the maps hold what they held before" } else { "the maps hold part of the change" }
    )]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
        /// Whether what was done before it could be taken back.
        restored: bool,
    },
}

impl BalancerError {
    fn map(map: &'static str) -> impl Fn(MapError) -> Self {
        move |source| Self::Map {
            map,
            source,
            restored: false,
        }
    }

    fn invalid(what: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self::Invalid {
            what: what.to_string(),
            reason: reason.into(),
        }
    }
}

/// A flow in the program's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelFlow {
    /// Its addresses and ports.
    pub key: FlowKey,
    /// Its real.
    pub value: FlowValue,
}

/// The `balancer` program on an interface. Dropping it detaches the program.
pub struct Balancer {
    /// Before the maps, so that the program is off the interface when they go.
    attachment: Option<Attachment>,
    loaded: Loaded,
    tables: Tables,
    rings: Cells<RingSlots>,
    reals: Cells<[u8; RealValue::SIZE]>,
    flows_v4: HashTable<{ FlowKey::SIZE_V4 }, [u8; FlowValue::SIZE]>,
    flows_v6: HashTable<{ FlowKey::SIZE_V6 }, [u8; FlowValue::SIZE]>,
    counters: PerCpu<[u64; BALANCER_WORDS]>,
    vip_traffic: PerCpu<[u64; TRAFFIC_WORDS]>,
    real_traffic: PerCpu<[u64; TRAFFIC_WORDS]>,
    /// Entries of each flow table.
    entries: u32,
    held: Held,
}

type RingSlots = [u16; RING_SIZE];

/// What the maps hold, rings not counted: those are read back when they are to be compared.
#[derive(Clone, Default)]
struct Held {
    content: Content,
    reals: BTreeMap<u32, [u8; RealValue::SIZE]>,
    settings: Option<Settings>,
}

impl fmt::Debug for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancer")
            .field("attachment", &self.attachment)
            .field("places", &self.held.content.len())
            .field("reals", &self.held.reals.len())
            .finish_non_exhaustive()
    }
}

impl Balancer {
    /// Loads the program, attached to nothing and without VIPs.
    pub fn load(options: &BalancerOptions) -> Result<Self, AttachError> {
        let entries = options.entries()?;
        let sizes = [("FLOWS_V4", entries), ("FLOWS_V6", entries)];
        let mut loaded = object::BALANCER.load_sized(&sizes)?;
        Ok(Self {
            attachment: None,
            tables: Tables {
                vips: loaded.map("VIPS")?,
                vip_prefixes: loaded.map("VIP_PREFIXES")?,
                addresses: loaded.map("ADDRESSES")?,
                address_prefixes: loaded.map("ADDRESS_PREFIXES")?,
                config: loaded.map("CONFIG")?,
                settings: NO_SETTINGS,
            },
            rings: loaded.map("RINGS")?,
            reals: loaded.map("REALS")?,
            flows_v4: loaded.map("FLOWS_V4")?,
            flows_v6: loaded.map("FLOWS_V6")?,
            counters: loaded.map("COUNTERS")?,
            vip_traffic: loaded.map("VIP_TRAFFIC")?,
            real_traffic: loaded.map("REAL_TRAFFIC")?,
            entries,
            held: Held::default(),
            loaded,
        })
    }

    /// Attaches the loaded program. An attached one is taken off its interface first, and stays off if
    /// this fails.
    pub fn attach_to(&mut self, interface: &str, mode: XdpMode) -> Result<(), AttachError> {
        self.attachment = None;
        let program = self.loaded.program_mut()?;
        self.attachment = Some(Attachment::new(program, interface, mode)?);
        Ok(())
    }

    /// Takes the program off its interface; services and flows stay.
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

    /// Balances exactly these VIPs over these reals, by difference and while packets flow. If that
    /// fails, what was in force before is restored as far as the kernel lets us, and the error says
    /// whether.
    ///
    /// Flows keep their reals: an entry holds the real's id, and one whose id is no longer that of the
    /// real at its index counts as none.
    pub fn apply(
        &mut self,
        settings: &Settings,
        vips: &[Vip<'_>],
        reals: &[Real],
    ) -> Result<(), BalancerError> {
        let wanted = Held {
            content: content(vips)?,
            reals: real_values(reals)?,
            settings: Some(*settings),
        };
        let before = self.held.clone();
        let mut replaced = Vec::new();
        let Err(error) = self.change(&wanted, vips, &mut replaced) else {
            return Ok(());
        };
        let restored = self.restore(&before, &replaced).is_ok();
        Err(match error {
            BalancerError::Map { map, source, .. } => BalancerError::Map {
                map,
                source,
                restored,
            },
            BalancerError::Vip(VipError::Map {
                action,
                source,
                left,
            }) => BalancerError::Vip(VipError::Map {
                action,
                source,
                left: if restored { 0 } else { left.max(1) },
            }),
            other => other,
        })
    }

    /// In an order in which no packet meets half a change: reals before the rings that name them;
    /// VIPs that go before those that may get their number, with its ring.
    fn change(
        &mut self,
        wanted: &Held,
        vips: &[Vip<'_>],
        replaced: &mut Vec<(u32, Box<RingSlots>)>,
    ) -> Result<(), BalancerError> {
        for (&index, value) in &wanted.reals {
            self.set_real(index, Some(*value))?;
        }
        if let Some(settings) = wanted.settings {
            self.set_settings(settings)?;
        }
        let stays = staying(&self.held.content, &wanted.content);
        vips::transition(&mut self.tables, &mut self.held.content, &stays)?;
        for vip in vips {
            self.set_ring(vip, replaced)?;
        }
        vips::transition(&mut self.tables, &mut self.held.content, &wanted.content)?;
        self.remove_reals_but(&wanted.reals)
    }

    /// Takes a change back as far as it got.
    fn restore(
        &mut self,
        before: &Held,
        replaced: &[(u32, Box<RingSlots>)],
    ) -> Result<(), BalancerError> {
        for (&index, value) in &before.reals {
            self.set_real(index, Some(*value))?;
        }
        for (number, slots) in replaced {
            self.rings
                .set(*number, slots.as_ref(), 0)
                .map_err(BalancerError::map("RINGS"))?;
        }
        vips::transition(&mut self.tables, &mut self.held.content, &before.content)?;
        if let Some(settings) = before.settings {
            self.set_settings(settings)?;
        }
        self.remove_reals_but(&before.reals)
    }

    /// Empties the places of reals that are not among these.
    fn remove_reals_but(
        &mut self,
        kept: &BTreeMap<u32, [u8; RealValue::SIZE]>,
    ) -> Result<(), BalancerError> {
        let held = self.held.reals.keys().copied();
        let gone: Vec<_> = held.filter(|index| !kept.contains_key(index)).collect();
        for index in gone {
            self.set_real(index, None)?;
        }
        Ok(())
    }

    fn set_real(
        &mut self,
        index: u32,
        value: Option<[u8; RealValue::SIZE]>,
    ) -> Result<(), BalancerError> {
        if self.held.reals.get(&index) == value.as_ref() {
            return Ok(());
        }
        self.reals
            .set(index, value.unwrap_or_default(), 0)
            .map_err(BalancerError::map("REALS"))?;
        match value {
            Some(value) => self.held.reals.insert(index, value),
            None => self.held.reals.remove(&index),
        };
        Ok(())
    }

    fn set_settings(&mut self, settings: Settings) -> Result<(), BalancerError> {
        let has_prefixes = self.held.content.contains_key(&Place::HasPrefixes);
        if self.held.settings == Some(settings) {
            return Ok(());
        }
        let before = mem::replace(&mut self.tables.settings, settings);
        if let Err(error) = self.tables.configure(has_prefixes) {
            self.tables.settings = before;
            return Err(BalancerError::map("CONFIG")(error));
        }
        self.held.settings = Some(settings);
        Ok(())
    }

    fn set_ring(
        &mut self,
        vip: &Vip<'_>,
        replaced: &mut Vec<(u32, Box<RingSlots>)>,
    ) -> Result<(), BalancerError> {
        let number = u32::from(vip.number);
        let wanted: &RingSlots = vip.ring.try_into().map_err(|_| {
            BalancerError::invalid(
                entry(vip),
                format!(
                    "its ring has {} slots; rings of {RING_SIZE} slots are held",
                    vip.ring.len()
                ),
            )
        })?;
        let map = BalancerError::map("RINGS");
        let held = Box::new(self.rings.get(&number, 0).map_err(&map)?);
        if *held != *wanted {
            self.rings.set(number, wanted, 0).map_err(&map)?;
            replaced.push((number, held));
        }
        Ok(())
    }

    /// What became of the packets so far, on all CPUs.
    pub fn counters(&self) -> Result<BalancerCounters, MapError> {
        let cpus = self.counters_by_cpu()?;
        Ok(cpus
            .iter()
            .fold(BalancerCounters::ZERO, |sum, cpu| sum.plus(cpu)))
    }

    /// What became of the packets so far, by CPU.
    pub fn counters_by_cpu(&self) -> Result<Vec<BalancerCounters>, MapError> {
        let cpus = self.counters.get(&0, 0)?;
        Ok(cpus.iter().map(BalancerCounters::new).collect())
    }

    /// What was counted under a VIP's number, by CPU. Numbers are used again and counters are not
    /// reset.
    pub fn vip_traffic(&self, number: u16) -> Result<Vec<FlowTraffic>, MapError> {
        traffic(&self.vip_traffic, u32::from(number))
    }

    /// What was counted under a real's index, likewise.
    pub fn real_traffic(&self, index: u32) -> Result<Vec<FlowTraffic>, MapError> {
        traffic(&self.real_traffic, index)
    }

    /// Flows in the tables, IPv4 first. Each is two calls into the kernel; flows that come
    /// and go meanwhile may be left out or come twice. The walk ends after twice as many as there can be:
    /// the kernel begins again where the flow that it stood at has gone.
    pub fn flows(&self) -> impl Iterator<Item = Result<KernelFlow, MapError>> + '_ {
        let limit = 2 * self.entries as usize;
        let v4 = self
            .flows_v4
            .iter()
            .take(limit)
            .map(|entry| entry.map(|(key, value)| kernel_flow(FlowKey::from_v4(key), value)));
        let v6 = self
            .flows_v6
            .iter()
            .take(limit)
            .map(|entry| entry.map(|(key, value)| kernel_flow(FlowKey::from_v6(key), value)));
        v4.chain(v6)
    }

    /// A flow's entry. The kernel does not count this as a use of it.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<FlowValue>, MapError> {
        let found = if let Some(key) = key.to_v4() {
            self.flows_v4.get(&key, 0)
        } else if let Some(key) = key.to_v6() {
            self.flows_v6.get(&key, 0)
        } else {
            return Ok(None);
        };
        match found {
            Ok(value) => Ok(Some(FlowValue::from_bytes(value))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forgets a flow; false if there was none.
    pub fn remove_flow(&mut self, key: &FlowKey) -> Result<bool, MapError> {
        let removed = if let Some(key) = key.to_v4() {
            self.flows_v4.remove(&key)
        } else if let Some(key) = key.to_v6() {
            self.flows_v6.remove(&key)
        } else {
            return Ok(false);
        };
        match removed {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Runs the program over one frame of at least 14 bytes, without sending anything.
    pub fn test_run(
        &self,
        frame: &[u8],
        ingress: Option<Ingress>,
    ) -> Result<TestRun, ProgramError> {
        test_run::run(self.program()?, frame, ingress)
    }

    /// The program in the kernel.
    pub(crate) fn program(&self) -> Result<&Xdp, ProgramError> {
        self.loaded
            .program()
            .map_err(|_| ProgramError::UnexpectedProgramType)
    }
}

fn kernel_flow(key: FlowKey, value: [u8; FlowValue::SIZE]) -> KernelFlow {
    KernelFlow {
        key,
        value: FlowValue::from_bytes(value),
    }
}

fn traffic(
    cells: &PerCpu<[u64; TRAFFIC_WORDS]>,
    number: u32,
) -> Result<Vec<FlowTraffic>, MapError> {
    let cpus = cells.get(&number, 0)?;
    Ok(cpus.iter().copied().map(FlowTraffic::from).collect())
}

/// The VIP as the maps that find it have it.
fn entry(vip: &Vip<'_>) -> VipEntry {
    VipEntry {
        address: vip.address,
        prefix_len: vip.prefix_len,
        port: vip.port,
        protocol: vip.protocol,
        generation: vip.generation,
        vip: vip.number,
        // Nothing is written in front of a packet that could be read as a tag.
        room: Tag::SIZE as u8,
    }
}

/// Generation and number of a [`VipValue`], in front of its flags.
type VipIdentity = [u8; mem::offset_of!(VipValue, flags)];

/// Of what the maps hold, what no packet may miss during a change: VIPs that keep number and generation,
/// also if their flags are about to change.
fn staying(held: &Content, wanted: &Content) -> Content {
    let identity = |value: &Value| VipIdentity::try_from(&value[..size_of::<VipIdentity>()]).ok();
    held.iter()
        .filter(|(place, value)| wanted.get(place).map(identity) == Some(identity(value)))
        .map(|(place, value)| (*place, *value))
        .collect()
}

/// What the maps that find VIPs are to hold.
fn content(vips: &[Vip<'_>]) -> Result<Content, BalancerError> {
    let entries: Vec<_> = vips.iter().map(entry).collect();
    let mut content = vips::content(&entries)?;
    let mut numbers = BTreeMap::new();
    for (vip, entry) in vips.iter().zip(&entries) {
        if u32::from(vip.number) >= MAX_VIPS {
            let reason = format!("number {} is not below {MAX_VIPS}", vip.number);
            return Err(BalancerError::invalid(entry, reason));
        }
        if let Some(other) = numbers.insert(vip.number, entry) {
            let reason = format!("number {} is that of {other}", vip.number);
            return Err(BalancerError::invalid(entry, reason));
        }
        let unknown = vip.flags & !VIP_FLAGS;
        if unknown != 0 {
            let reason = format!("flags {unknown:#x} are not known to the program");
            return Err(BalancerError::invalid(entry, reason));
        }
        let single = if vip.address.is_ipv4() { 32 } else { 128 };
        let is_wildcard = vip.port == 0 || vip.prefix_len != single;
        let value = VipValue {
            generation: vip.generation,
            number: vip.number,
            flags: vip.flags | if is_wildcard { WILDCARD } else { 0 },
        };
        let (place, _) = vips::places(entry);
        content.insert(place, value.to_bytes());
    }
    Ok(content)
}

fn real_values(reals: &[Real]) -> Result<BTreeMap<u32, [u8; RealValue::SIZE]>, BalancerError> {
    let mut values = BTreeMap::new();
    for real in reals {
        let what = format!("real {}", real.address);
        if real.index() == 0 {
            return Err(BalancerError::invalid(what, "index 0 means no real"));
        }
        if values
            .insert(real.index(), RealValue::new(real).to_bytes())
            .is_some()
        {
            let reason = format!("index {} is another real's", real.index());
            return Err(BalancerError::invalid(what, reason));
        }
    }
    Ok(values)
}

/// Before there are services, no packet asks for settings.
const NO_SETTINGS: Settings = Settings {
    next_hop: None,
    max_frame: 0,
    connection_rate_cap: 0,
};

/// The maps that find VIPs, and the settings, one bit of which says which maps to ask.
struct Tables {
    vips: HashTable<{ VipKey::SIZE }, Value>,
    vip_prefixes: PrefixTable<{ PrefixKey::SIZE }, Value>,
    addresses: HashTable<{ AddressKey::SIZE }, Value>,
    address_prefixes: PrefixTable<{ PrefixKey::SIZE }, Value>,
    config: Cells<[u8; ConfigValue::SIZE]>,
    settings: Settings,
}

impl Tables {
    fn configure(&mut self, has_prefixes: bool) -> Result<(), MapError> {
        let value = ConfigValue::new(&self.settings, has_prefixes);
        self.config.set(0, value.to_bytes(), 0)
    }
}

const _: () = assert!(size_of::<Value>() == VipValue::SIZE);

impl Store for Tables {
    type Error = MapError;

    fn put(&mut self, place: &Place, value: Value) -> Result<(), MapError> {
        match place {
            Place::Vip(key) => self.vips.insert(key, value, 0),
            Place::VipPrefix(length, key) => {
                self.vip_prefixes.insert(&Key::new(*length, *key), value, 0)
            }
            Place::HasPrefixes => self.configure(true),
            Place::AddressPrefix(length, key) => {
                self.address_prefixes
                    .insert(&Key::new(*length, *key), value, 0)
            }
            Place::Address(key) => self.addresses.insert(key, value, 0),
            // The program takes no tunnels apart, so nobody asks for these.
            Place::GuePort | Place::Tunnel(_) => Err(MapError::ElementNotFound),
        }
    }

    fn remove(&mut self, place: &Place) -> Result<(), MapError> {
        match place {
            Place::Vip(key) => self.vips.remove(key),
            Place::VipPrefix(length, key) => self.vip_prefixes.remove(&Key::new(*length, *key)),
            Place::HasPrefixes => self.configure(false),
            Place::AddressPrefix(length, key) => {
                self.address_prefixes.remove(&Key::new(*length, *key))
            }
            Place::Address(key) => self.addresses.remove(key),
            Place::GuePort | Place::Tunnel(_) => Err(MapError::ElementNotFound),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vip_stays_in_place_when_only_its_flags_change() {
        let content_of = |number, generation, flags| {
            content(&[Vip {
                address: [203, 0, 113, 10].into(),
                prefix_len: 32,
                port: 80,
                protocol: 6,
                number,
                generation,
                flags,
                ring: &[],
            }])
            .expect("a valid VIP")
        };
        let held = content_of(3, 7, 0);
        assert_eq!(staying(&held, &content_of(3, 7, VIP_FLAGS)), held);
        // Another VIP in its place must not meet the old ring.
        for other in [content_of(4, 7, 0), content_of(3, 8, 0)] {
            let left = staying(&held, &other);
            assert!(left.keys().all(|place| matches!(place, Place::Address(_))));
        }
        assert!(staying(&held, &Content::new()).is_empty());
    }
}
