//! From desired state to [`ServiceTable`]: validation, numbering, ring generation.
//!
//! VIP and real numbers follow katran-compat section 3.6: first-in-first-out free lists, so that a
//! number that was given back is reused last.

use std::{
    collections::{HashSet, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use ahash::RandomState;
use conntrack::SharedTable;
use hashbrown::HashMap;
use maglev::{DEFAULT_RING_SIZE, Endpoint, HashFunction, Ring};

use super::{
    plain::Plain,
    server_ids::ServerIds,
    source_routes::SourceRoutes,
    spec::{DecapSpec, Encapsulation, Protocol, ServiceSpec, Settings, VipFlags, VipKey, VipSpec},
    table::{Detours, MAX_DECAP, MAX_REALS, MAX_VIPS, Real, RealId, RouteReals, ServiceTable, Vip},
};

/// Smallest `max_frame`: Ethernet, IPv6 and TCP headers.
const MIN_MAX_FRAME: u16 = 14 + 40 + 20;
/// Smallest `max_frame` with too-big replies: IPv6's minimum MTU and the Ethernet header.
const MIN_MAX_FRAME_TOO_BIG: u16 = 14 + 1280;
/// Largest `max_frame`: what fits a UMEM chunk beside the kernel's and our head room.
const MAX_MAX_FRAME: u16 = 3_500;

/// A desired state that cannot be compiled. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}; {remedy}")]
pub struct ServiceError {
    /// What is wrong, as in `vip 203.0.113.10:80/tcp, real 198.51.100.11, weight`.
    pub field: String,
    /// The value and what is wrong about it.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl ServiceError {
    pub(super) fn new(
        field: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

#[derive(Clone, Debug)]
struct RealSlot {
    real: Real,
    /// VIP memberships, places in rings that outlived those, server ids and source routes; a slot without any keeps its address for the flows that still use it.
    references: u32,
}

/// What a VIP's ring is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RingInputs {
    hash: HashFunction,
    /// Address, weight and number of each real, sorted, as the order of listing does not count.
    reals: Vec<(IpAddr, u32, u16)>,
    /// Reals with weight 0 take part.
    unfiltered: bool,
}

impl RingInputs {
    /// As the ring is after the last change. One of the hash function alone filters nothing, as in Katran
    /// (katran-compat section 3.6), and what leaves hash function and reals alone leaves the ring alone.
    fn new(spec: &VipSpec, numbers: &[u16], old: Option<&Self>) -> Self {
        let reals = spec.reals.iter().zip(numbers);
        let mut reals: Vec<_> = reals
            .map(|(real, number)| (real.address, real.weight, *number))
            .collect();
        reals.sort_unstable();
        let mut new = Self {
            hash: spec.hash,
            reals,
            unfiltered: false,
        };
        new.unfiltered = old
            .filter(|old| old.weights().eq(new.weights()))
            .is_some_and(|old| old.hash != new.hash || old.unfiltered);
        new
    }

    fn weights(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        let reals = self.reals.iter();
        reals.map(|(address, weight, _)| (*address, *weight))
    }

    /// Whether some real gets slots.
    fn is_usable(&self) -> bool {
        self.weights()
            .any(|(_, weight)| self.unfiltered || weight > 0)
    }

    fn build(&self, vip: &VipKey) -> Result<Arc<Ring>, ServiceError> {
        let reals = self.reals.iter();
        let endpoints: Vec<Endpoint> = reals
            .map(|(address, weight, number)| Endpoint::new(u32::from(*number), *weight, *address))
            .collect();
        let build = if self.unfiltered {
            Ring::build_unfiltered
        } else {
            Ring::build
        };
        build(self.hash, DEFAULT_RING_SIZE, &endpoints)
            .map(Arc::new)
            .map_err(|error| {
                ServiceError::new(
                    format!("vip {vip}"),
                    format!("its ring cannot be built: {error}"),
                    "correct the list of reals",
                )
            })
    }
}

#[derive(Clone, Debug)]
struct VipSlot {
    vip: Vip,
    ring_inputs: RingInputs,
    reals: Vec<u16>,
    /// Reals of the ring, while it is one that the VIP keeps although none of its reals has a weight:
    /// references of their own, so that no number in the ring goes to somebody else.
    kept: Vec<u16>,
}

impl VipSlot {
    fn references(self) -> impl Iterator<Item = u16> {
        self.reals.into_iter().chain(self.kept)
    }
}

#[derive(Clone, Debug)]
struct State {
    vips: Vec<Option<VipSlot>>,
    free_vips: VecDeque<u16>,
    vip_numbers: HashMap<VipKey, u16, RandomState>,
    reals: Vec<Option<RealSlot>>,
    free_reals: VecDeque<u16>,
    real_numbers: HashMap<IpAddr, u16, RandomState>,
    server_ids: ServerIds,
    /// Indices of the reals that server ids name, by [`ServerIds::reals`].
    named_reals: Arc<[u16]>,
    source_routes: SourceRoutes,
    route_reals: RouteReals,
    decap: HashMap<IpAddr, DecapSpec, RandomState>,
    global: Option<GlobalTable>,
}

/// The flows that workers leave for each other.
#[derive(Clone, Debug)]
struct GlobalTable {
    capacity: usize,
    flows: Arc<SharedTable>,
}

/// Holds the numbering between tables and makes a new table of each desired state.
#[derive(Clone, Debug)]
pub struct ServiceControl {
    generation: u32,
    state: State,
    table: Arc<ServiceTable>,
}

impl Default for ServiceControl {
    fn default() -> Self {
        Self::new()
    }
}

impl ServiceControl {
    /// No VIPs, generation 1.
    pub fn new() -> Self {
        let state = State {
            vips: vec![None; MAX_VIPS],
            free_vips: (0..MAX_VIPS as u16).collect(),
            vip_numbers: HashMap::default(),
            reals: vec![None; MAX_REALS],
            free_reals: (1..MAX_REALS as u16).collect(),
            real_numbers: HashMap::default(),
            server_ids: ServerIds::default(),
            named_reals: Arc::default(),
            source_routes: SourceRoutes::default(),
            route_reals: RouteReals::default(),
            decap: HashMap::default(),
            global: None,
        };
        let table = Arc::new(state.table(1, Settings::default()));
        Self {
            generation: 1,
            state,
            table,
        }
    }

    /// The table made last.
    pub fn table(&self) -> Arc<ServiceTable> {
        Arc::clone(&self.table)
    }

    /// Makes a table of the desired state.
    ///
    /// VIPs that stay keep their number, reals that stay keep their index, and a VIP whose reals,
    /// weights and hash function stay shares its ring with the previous table. A VIP of which the hash
    /// function alone changes has its reals of weight 0 in the ring until its reals change too.
    ///
    /// # Errors
    ///
    /// The first thing in `spec` that cannot be served; the previous table stays the newest.
    pub fn apply(&mut self, spec: &ServiceSpec) -> Result<Arc<ServiceTable>, ServiceError> {
        self.make(spec, None)
    }

    /// As [`apply`](Self::apply), to withdraw the change that made `self` of `running`: the rings are
    /// filled by the same rules as in `running`, whose desired state `spec` is.
    ///
    /// # Errors
    ///
    /// As of [`apply`](Self::apply).
    pub fn withdraw(
        &mut self,
        spec: &ServiceSpec,
        running: &Self,
    ) -> Result<Arc<ServiceTable>, ServiceError> {
        self.make(spec, Some(&running.state))
    }

    fn make(
        &mut self,
        spec: &ServiceSpec,
        running: Option<&State>,
    ) -> Result<Arc<ServiceTable>, ServiceError> {
        validate(spec)?;
        let generation = self.generation.wrapping_add(1).max(1);
        let mut state = self.state.clone();
        state.apply(spec, running, generation)?;
        self.table = Arc::new(state.table(generation, spec.settings));
        self.state = state;
        self.generation = generation;
        Ok(self.table())
    }
}

impl State {
    /// Rings are what `running` has, or, if it is not given, what a change of this state makes of them.
    fn apply(
        &mut self,
        spec: &ServiceSpec,
        running: Option<&Self>,
        generation: u32,
    ) -> Result<(), ServiceError> {
        let wanted: HashSet<VipKey> = spec.vips.iter().map(|vip| vip.key).collect();
        let mut released: Vec<u16> = Vec::new();
        for slot in &mut self.vips {
            if let Some(old) = slot.take_if(|old| !wanted.contains(&old.vip.key)) {
                self.vip_numbers.remove(&old.vip.key);
                self.free_vips.push_back(old.vip.number);
                released.extend(old.references());
            }
        }
        let local = local_reals(spec);
        // References are taken before any is given back, so that a real which only moves between
        // VIPs keeps its index.
        for vip in &spec.vips {
            released.extend(self.put_vip(vip, spec, &local, running, generation)?);
        }
        let named_reals = self.acquire_reals(spec.server_ids.reals(), "server_id")?;
        self.decap = spec.decap.iter().map(|own| (own.address, *own)).collect();
        self.put_global_table(spec)?;
        let routes = RouteReals {
            v4: self.acquire_reals(spec.source_routes.reals(true), "source_route")?,
            v6: self.acquire_reals(spec.source_routes.reals(false), "source_route")?,
        };
        let old_routes = std::mem::replace(&mut self.route_reals, routes);
        released.extend(old_routes.v4.iter().chain(&*old_routes.v6));
        self.source_routes = spec.source_routes.clone();
        self.server_ids = spec.server_ids.clone();
        let old_named = std::mem::replace(&mut self.named_reals, named_reals);
        released.extend(&*old_named);
        // All at once: one by one it takes the square of the number of reals that come back.
        let mut free = std::mem::take(&mut self.free_reals);
        free.retain(|index| !self.is_referenced(*index));
        self.free_reals = free;
        for index in released {
            self.release_real(index);
        }
        Ok(())
    }

    fn ring_inputs(&self, key: &VipKey) -> Option<&RingInputs> {
        let number = self.vip_numbers.get(key)?;
        let slot = self.vips[usize::from(*number)].as_ref()?;
        Some(&slot.ring_inputs)
    }

    /// Makes or drops the table that the workers share; one that stays keeps its flows.
    fn put_global_table(&mut self, spec: &ServiceSpec) -> Result<(), ServiceError> {
        let capacity = spec.settings.global_table_capacity;
        if !spec.vips.iter().any(VipSpec::uses_global_table) {
            self.global = None;
        } else if self
            .global
            .as_ref()
            .is_none_or(|old| old.capacity != capacity)
        {
            let flows = SharedTable::new(capacity).map_err(|error| {
                ServiceError::new(
                    "balancer.global_table_capacity",
                    error.to_string(),
                    "give another capacity, or remove the flag global-lru from all VIPs",
                )
            })?;
            self.global = Some(GlobalTable {
                capacity,
                flows: Arc::new(flows),
            });
        }
        Ok(())
    }

    /// Adds or changes a VIP; returns the real indices it referenced before.
    fn put_vip(
        &mut self,
        spec: &VipSpec,
        all: &ServiceSpec,
        local: &HashSet<IpAddr>,
        running: Option<&Self>,
        generation: u32,
    ) -> Result<Vec<u16>, ServiceError> {
        let reals = spec
            .reals
            .iter()
            .map(|real| {
                self.acquire_real(real.address, Some(local.contains(&real.address)), || {
                    format!("vip {}, real {}", spec.key, real.address)
                })
            })
            .collect::<Result<Vec<u16>, _>>()?;
        let number = match self.vip_numbers.get(&spec.key) {
            Some(number) => *number,
            None => self.free_vips.pop_front().ok_or_else(|| {
                ServiceError::new(
                    format!("vip {}", spec.key),
                    format!("all {MAX_VIPS} VIP numbers are in use"),
                    "remove a VIP first",
                )
            })?,
        };
        let old = self.vips[usize::from(number)].take();
        let before = match running {
            Some(running) => running.ring_inputs(&spec.key),
            None => old.as_ref().map(|old| &old.ring_inputs),
        };
        let ring_inputs = RingInputs::new(spec, &reals, before);
        let last_ring = old.as_ref().filter(|old| !old.vip.ring.is_empty());
        let last_ring = last_ring.filter(|_| !ring_inputs.is_usable());
        let same = old
            .as_ref()
            .filter(|old| old.ring_inputs == ring_inputs && old.kept.is_empty());
        let (ring, kept) = match (last_ring, same) {
            (Some(old), _) if all.settings.keep_last_ring => {
                let ring = Arc::clone(&old.vip.ring);
                let kept = self.keep_reals(&ring, spec, all)?;
                (ring, kept)
            }
            (_, Some(old)) => (Arc::clone(&old.vip.ring), Vec::new()),
            _ => (ring_inputs.build(&spec.key)?, Vec::new()),
        };
        let detours = detours(spec, all);
        let vip = Vip {
            key: spec.key,
            number,
            generation: old.as_ref().map_or(generation, |old| old.vip.generation),
            room: self.room(spec, &kept, all),
            flags: spec.flags,
            detours,
            down: down_reals(spec, &reals, detours),
            hash: spec.hash,
            ring,
        };
        self.vip_numbers.insert(spec.key, number);
        self.vips[usize::from(number)] = Some(VipSlot {
            vip,
            ring_inputs,
            reals,
            kept,
        });
        Ok(old
            .map(|old| old.references().collect())
            .unwrap_or_default())
    }

    /// Takes a reference to each real of a ring that the VIP keeps.
    fn keep_reals(
        &mut self,
        ring: &Ring,
        spec: &VipSpec,
        all: &ServiceSpec,
    ) -> Result<Vec<u16>, ServiceError> {
        let kept: Vec<u16> = ring.shares().iter().map(|(number, _)| *number).collect();
        for index in &kept {
            // The VIP's slot before this change still refers to it.
            if let Some(slot) = &mut self.reals[usize::from(*index)] {
                let address = slot.real.address;
                validate_source(
                    &format!("vip {}, last real {address}", spec.key),
                    address,
                    all,
                )?;
                slot.references += 1;
            }
        }
        Ok(kept)
    }

    /// Head room for the largest outer header among the reals of the VIP, of the ring it keeps and of
    /// the routes it follows, or for its own family when there are none.
    fn room(&self, spec: &VipSpec, kept: &[u16], all: &ServiceSpec) -> u8 {
        let encapsulation = all.settings.encapsulation;
        let kept = kept
            .iter()
            .filter_map(|index| self.reals[usize::from(*index)].as_ref())
            .map(|slot| slot.real.address);
        let routed = if spec.flags.contains(VipFlags::SRC_ROUTING) {
            all.source_routes.reals(spec.key.address.is_ipv4())
        } else {
            &[]
        };
        let largest = spec
            .reals
            .iter()
            .map(|real| real.address)
            .chain(kept)
            .chain(routed.iter().copied())
            .map(|address| encapsulation.overhead(address.is_ipv4()))
            .max()
            .unwrap_or_else(|| encapsulation.overhead(spec.key.address.is_ipv4()));
        largest as u8
    }

    /// Takes a reference to each of these reals, which sections of this name select.
    fn acquire_reals(
        &mut self,
        reals: &[IpAddr],
        section: &str,
    ) -> Result<Arc<[u16]>, ServiceError> {
        let reals = reals.iter();
        reals
            .map(|real| self.acquire_real(*real, None, || format!("{section}, real {real}")))
            .collect()
    }

    /// Takes a reference to the real with this address; `field` names it in an error. VIPs say whether
    /// the real is local. Server ids and source routes do not: while something refers to it, it stays
    /// what it was, as flows of a VIP that no longer has it may still go there.
    fn acquire_real(
        &mut self,
        address: IpAddr,
        local: Option<bool>,
        field: impl Fn() -> String,
    ) -> Result<u16, ServiceError> {
        if let Some(&index) = self.real_numbers.get(&address)
            && let Some(slot) = &mut self.reals[usize::from(index)]
        {
            slot.real.local = local.unwrap_or(slot.real.local && slot.references > 0);
            slot.references += 1;
            return Ok(index);
        }
        let index = self.take_free_index().ok_or_else(|| {
            ServiceError::new(
                field(),
                format!("all {} real numbers are in use", MAX_REALS - 1),
                "remove a real first",
            )
        })?;
        let previous = self.reals[usize::from(index)].take();
        let epoch = previous.map_or(0, |previous| {
            self.real_numbers.remove(&previous.real.address);
            previous.real.id.epoch().wrapping_add(1)
        });
        self.real_numbers.insert(address, index);
        self.reals[usize::from(index)] = Some(RealSlot {
            real: Real {
                address,
                id: RealId::new(index, epoch),
                local: local.unwrap_or(false),
            },
            references: 1,
        });
        Ok(index)
    }

    /// The index that has been free for longest. Those that their real has taken back are still listed.
    fn take_free_index(&mut self) -> Option<u16> {
        loop {
            let index = self.free_reals.pop_front()?;
            if !self.is_referenced(index) {
                return Some(index);
            }
        }
    }

    fn is_referenced(&self, index: u16) -> bool {
        self.reals[usize::from(index)]
            .as_ref()
            .is_some_and(|slot| slot.references > 0)
    }

    fn release_real(&mut self, index: u16) {
        if let Some(slot) = &mut self.reals[usize::from(index)] {
            slot.references -= 1;
            if slot.references == 0 {
                self.free_reals.push_back(index);
            }
        }
    }

    fn table(&self, generation: u32, settings: Settings) -> ServiceTable {
        let vips: Vec<Option<Vip>> = self
            .vips
            .iter()
            .map(|slot| slot.as_ref().map(|slot| slot.vip.clone()))
            .collect();
        let mut exact = HashMap::default();
        let mut addresses: HashMap<IpAddr, u16, RandomState> = HashMap::default();
        let mut prefixes = Vec::new();
        for vip in vips.iter().flatten() {
            if vip.key.is_single_address() {
                let VipKey {
                    address,
                    port,
                    protocol,
                    ..
                } = vip.key;
                exact.insert((address, port, protocol), vip.number);
                *addresses.entry(address).or_default() += 1;
            } else {
                prefixes.push((vip.key, vip.number));
            }
        }
        // Tunnels come before VIPs (katran-compat section 4.1). The number of no VIP keeps a VIP that
        // has any port, or is a prefix, from being found in their stead.
        for address in self.decap.keys() {
            let tunnel = (*address, settings.decap_gue_port, Protocol::Udp);
            exact.insert(tunnel, xdp_layout::Tag::NO_VIP);
        }
        prefixes.sort_by_key(|(key, number)| (std::cmp::Reverse(key.prefix_len), *number));
        let reals: Vec<Option<Real>> = self
            .reals
            .iter()
            .map(|slot| slot.as_ref().map(|slot| slot.real))
            .collect();
        let plain = Plain::new(&vips, &reals, &settings);
        ServiceTable {
            generation,
            settings,
            vips,
            exact,
            prefixes,
            addresses,
            reals,
            server_ids: self.server_ids.clone(),
            named_reals: Arc::clone(&self.named_reals),
            source_routes: self.source_routes.clone(),
            route_reals: self.route_reals.clone(),
            decap: self.decap.clone(),
            global: self.global.as_ref().map(|global| Arc::clone(&global.flows)),
            plain,
        }
    }
}

/// Addresses of reals that are this host.
fn local_reals(spec: &ServiceSpec) -> HashSet<IpAddr> {
    let reals = spec.vips.iter().flat_map(|vip| &vip.reals);
    reals
        .filter(|real| real.local)
        .map(|real| real.address)
        .collect()
}

fn detours(spec: &VipSpec, all: &ServiceSpec) -> Detours {
    let server_ids_by_flag = spec
        .flags
        .intersects(VipFlags::QUIC | VipFlags::UDP_STABLE_ROUTING);
    let server_ids_by_option = all.settings.tcp_server_id && spec.key.protocol == Protocol::Tcp;
    let mut detours = Detours::empty();
    detours.set(
        Detours::SERVER_ID,
        server_ids_by_flag || server_ids_by_option,
    );
    detours.set(Detours::GLOBAL_TABLE, spec.uses_global_table());
    detours.set(
        Detours::LOCAL_REAL,
        spec.flags.contains(VipFlags::LOCAL_VIP),
    );
    detours.set(
        Detours::FLOW_MIGRATION,
        spec.flags.contains(VipFlags::UDP_FLOW_MIGRATION) && spec.key.protocol == Protocol::Udp,
    );
    detours.set(
        Detours::SOURCE_ROUTE,
        spec.flags.contains(VipFlags::SRC_ROUTING),
    );
    detours
}

/// Reals of source routes; those with clients of both families twice.
fn route_reals(routes: &SourceRoutes) -> impl Iterator<Item = IpAddr> {
    let of_both = routes.reals(true).iter().chain(routes.reals(false));
    of_both.copied()
}

/// Indices of the reals that flows leave, in ascending order.
fn down_reals(spec: &VipSpec, indices: &[u16], detours: Detours) -> Box<[u16]> {
    if !detours.contains(Detours::FLOW_MIGRATION) {
        return Box::default();
    }
    let reals = spec.reals.iter().zip(indices);
    let mut down: Vec<u16> = reals
        .filter(|(real, _)| real.down)
        .map(|(_, index)| *index)
        .collect();
    down.sort_unstable();
    down.into()
}

fn validate(spec: &ServiceSpec) -> Result<(), ServiceError> {
    validate_settings(&spec.settings)?;
    for real in route_reals(&spec.source_routes) {
        validate_source(&format!("source_route, real {real}"), real, spec)?;
    }
    for real in spec.server_ids.reals() {
        validate_source(&format!("server_id, real {real}"), *real, spec)?;
    }
    validate_decap(spec)?;
    let mut keys = HashSet::new();
    let local = local_reals(spec);
    for vip in &spec.vips {
        let field = format!("vip {}", vip.key);
        if !keys.insert(vip.key) {
            return Err(ServiceError::new(
                field,
                "is there twice",
                "merge the two into one VIP",
            ));
        }
        validate_vip(vip, &field)?;
        validate_reals(vip, &field, spec, &local)?;
    }
    Ok(())
}

fn validate_settings(settings: &Settings) -> Result<(), ServiceError> {
    let max_frame = settings.max_frame;
    if !(MIN_MAX_FRAME..=MAX_MAX_FRAME).contains(&max_frame) {
        return Err(ServiceError::new(
            "balancer.max_frame",
            format!("{max_frame} is out of range"),
            format!("give {MIN_MAX_FRAME} to {MAX_MAX_FRAME} bytes"),
        ));
    }
    if settings.icmp_too_big && max_frame < MIN_MAX_FRAME_TOO_BIG {
        return Err(ServiceError::new(
            "balancer.icmp_too_big",
            format!("max_frame = {max_frame} would announce an MTU below IPv6's minimum of 1280"),
            format!("give max_frame at least {MIN_MAX_FRAME_TOO_BIG} or turn icmp_too_big off"),
        ));
    }
    match settings.encapsulation {
        Encapsulation::Gue { port: 0, .. } => Err(ServiceError::new(
            "balancer.gue_port",
            "0 is not a port",
            "give 1 to 65535; 6080 is usual",
        )),
        _ => Ok(()),
    }
}

fn validate_decap(spec: &ServiceSpec) -> Result<(), ServiceError> {
    if spec.decap.is_empty() {
        return Ok(());
    }
    if spec.settings.decap_gue_port == 0 {
        return Err(ServiceError::new(
            "balancer.gue_port",
            "0 is not a port",
            "give 1 to 65535; 6080 is usual",
        ));
    }
    if spec.decap.len() > MAX_DECAP {
        return Err(ServiceError::new(
            "decap",
            format!("{} destinations are too many", spec.decap.len()),
            format!("give up to {MAX_DECAP}"),
        ));
    }
    let mut addresses = HashSet::new();
    for own in &spec.decap {
        if !addresses.insert(own.address) {
            return Err(ServiceError::new(
                format!("decap {}", own.address),
                "is there twice",
                "give each address once",
            ));
        }
    }
    Ok(())
}

fn validate_vip(vip: &VipSpec, field: &str) -> Result<(), ServiceError> {
    let VipKey {
        address,
        prefix_len,
        ..
    } = vip.key;
    let address_bits = if address.is_ipv4() { 32 } else { 128 };
    let host_bits_set = match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
            address.to_bits() & mask != 0
        }
    };
    if prefix_len == 0 || prefix_len > address_bits {
        Err(ServiceError::new(
            field,
            format!("prefix length {prefix_len} is out of range"),
            format!("give 1 to {address_bits}"),
        ))
    } else if address.is_ipv4() && prefix_len != 32 {
        Err(ServiceError::new(
            field,
            "an IPv4 VIP cannot be a prefix",
            "list the addresses one by one",
        ))
    } else if host_bits_set {
        Err(ServiceError::new(
            field,
            format!("bits after the first {prefix_len} are set"),
            "clear the host part of the prefix",
        ))
    } else {
        Ok(())
    }
}

fn validate_reals(
    vip: &VipSpec,
    field: &str,
    spec: &ServiceSpec,
    local: &HashSet<IpAddr>,
) -> Result<(), ServiceError> {
    let mut addresses = HashSet::new();
    for real in &vip.reals {
        let field = format!("{field}, real {}", real.address);
        if !addresses.insert(real.address) {
            return Err(ServiceError::new(
                field,
                "is there twice",
                "list each real of a VIP once and add the weights up",
            ));
        }
        if real.local != local.contains(&real.address) {
            return Err(ServiceError::new(
                field,
                "is local in another VIP and not in this one",
                "say the same in every VIP: a real is this host or it is not",
            ));
        }
        if vip.key.address.is_ipv6() && real.address.is_ipv4() {
            return Err(ServiceError::new(
                field,
                "an IPv6 VIP cannot have an IPv4 real: an IPv6 packet does not fit IPv4 IPIP",
                "give the real's IPv6 address",
            ));
        }
        validate_source(&field, real.address, spec)?;
    }
    Ok(())
}

/// GUE to a real takes an outer source of its family.
fn validate_source(field: &str, real: IpAddr, spec: &ServiceSpec) -> Result<(), ServiceError> {
    let Encapsulation::Gue {
        source_v4,
        source_v6,
        ..
    } = spec.settings.encapsulation
    else {
        return Ok(());
    };
    let (unset, key) = match real {
        IpAddr::V4(_) => (source_v4.is_unspecified(), "balancer.source_v4"),
        IpAddr::V6(_) => (source_v6.is_unspecified(), "balancer.source_v6"),
    };
    if unset {
        return Err(ServiceError::new(
            field,
            format!("GUE to it needs {key}, which is not set"),
            format!("set {key} to an address of this host"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{RealSpec, ServerIdSpec};

    fn vip(address: &str, reals: &[(&str, u32)]) -> VipSpec {
        VipSpec {
            key: VipKey::exact(address.parse().unwrap(), 80, Protocol::Tcp),
            hash: HashFunction::MaglevV2,
            flags: VipFlags::empty(),
            reals: reals
                .iter()
                .map(|(address, weight)| RealSpec {
                    address: address.parse().unwrap(),
                    weight: *weight,
                    local: false,
                    down: false,
                })
                .collect(),
        }
    }

    fn spec(vips: Vec<VipSpec>) -> ServiceSpec {
        ServiceSpec {
            vips,
            ..ServiceSpec::default()
        }
    }

    fn index_of(table: &ServiceTable, address: &str) -> usize {
        let address: IpAddr = address.parse().unwrap();
        table
            .reals()
            .find(|real| real.address == address)
            .unwrap()
            .id
            .index()
    }

    #[test]
    fn numbers_follow_the_order_of_listing() {
        let mut control = ServiceControl::new();
        let table = control
            .apply(&spec(vec![
                vip("203.0.113.1", &[("198.51.100.1", 1), ("198.51.100.2", 1)]),
                vip("203.0.113.2", &[("198.51.100.2", 1), ("198.51.100.3", 1)]),
            ]))
            .unwrap();
        assert_eq!(index_of(&table, "198.51.100.1"), 1);
        assert_eq!(index_of(&table, "198.51.100.2"), 2);
        assert_eq!(index_of(&table, "198.51.100.3"), 3);
        assert_eq!(
            table.vips().map(|vip| vip.number).collect::<Vec<_>>(),
            [0, 1]
        );
    }

    #[test]
    fn unchanged_vips_keep_number_generation_and_ring() {
        let mut control = ServiceControl::new();
        let stays = vip("203.0.113.1", &[("198.51.100.1", 1), ("198.51.100.2", 1)]);
        let changes = vip("203.0.113.2", &[("198.51.100.3", 1)]);
        let before = control.apply(&spec(vec![changes, stays.clone()])).unwrap();
        let changed = vip("203.0.113.2", &[("198.51.100.3", 1), ("198.51.100.4", 1)]);
        let after = control
            .apply(&spec(vec![stays.clone(), changed.clone()]))
            .unwrap();
        let (old, new) = (
            before.find(&stays.key).unwrap(),
            after.find(&stays.key).unwrap(),
        );
        assert_eq!((old.number, old.generation), (new.number, new.generation));
        assert!(Arc::ptr_eq(&old.ring, &new.ring));
        let (old, new) = (
            before.find(&changed.key).unwrap(),
            after.find(&changed.key).unwrap(),
        );
        assert_eq!((old.number, old.generation), (new.number, new.generation));
        assert!(!Arc::ptr_eq(&old.ring, &new.ring));
    }

    #[test]
    fn a_vip_that_comes_back_has_a_new_generation() {
        let mut control = ServiceControl::new();
        let only = vip("203.0.113.1", &[("198.51.100.1", 1)]);
        let first = control.apply(&spec(vec![only.clone()])).unwrap();
        control.apply(&spec(vec![])).unwrap();
        let second = control.apply(&spec(vec![only.clone()])).unwrap();
        let (old, new) = (
            first.find(&only.key).unwrap(),
            second.find(&only.key).unwrap(),
        );
        assert_ne!(old.generation, new.generation);
        assert_eq!((old.number, new.number), (0, 1), "numbers are reused last");
    }

    #[test]
    fn a_removed_real_keeps_its_address_until_its_index_is_reused() {
        let mut control = ServiceControl::new();
        let both = spec(vec![vip(
            "203.0.113.1",
            &[("198.51.100.1", 1), ("198.51.100.2", 1)],
        )]);
        let one = spec(vec![vip("203.0.113.1", &[("198.51.100.1", 1)])]);
        let id = |table: &ServiceTable| table.real(index_of(table, "198.51.100.2")).unwrap().id;
        let before = id(&control.apply(&both).unwrap());
        let without = control.apply(&one).unwrap();
        assert_eq!(id(&without), before, "flows in the table still reach it");
        assert_eq!(id(&control.apply(&both).unwrap()), before);
        control.apply(&one).unwrap();
        // 4,093 other reals use up every other index.
        let many: Vec<String> = (0..MAX_REALS - 2)
            .map(|n| format!("10.0.{}.{}", n / 256, n % 256))
            .collect();
        let mut reals: Vec<(&str, u32)> =
            many.iter().map(|address| (address.as_str(), 1)).collect();
        reals.push(("198.51.100.1", 1));
        let full = control
            .apply(&spec(vec![vip("203.0.113.1", &reals)]))
            .unwrap();
        let reused = full.real(before.index()).unwrap();
        assert_ne!(reused.address, "198.51.100.2".parse::<IpAddr>().unwrap());
        assert_ne!(
            reused.id, before,
            "a flow of the old real is recognised as stale"
        );
    }

    #[test]
    fn a_failed_change_changes_nothing() {
        let mut control = ServiceControl::new();
        let good = spec(vec![vip("203.0.113.1", &[("198.51.100.1", 1)])]);
        let before = control.apply(&good).unwrap();
        let mut bad = good.clone();
        bad.vips.push(vip("2001:db8::1", &[("198.51.100.1", 1)]));
        let error = control.apply(&bad).unwrap_err();
        assert_eq!(error.field, "vip [2001:db8::1]:80/tcp, real 198.51.100.1");
        assert!(Arc::ptr_eq(&before, &control.table()));
    }

    #[test]
    fn server_ids_hold_references_to_their_reals() {
        let mut control = ServiceControl::new();
        let named = |ids: &[(u32, bool)]| {
            let ids = ids.iter().map(|(id, valid)| ServerIdSpec {
                id: *id,
                real: "198.51.100.7".parse().unwrap(),
                valid: *valid,
            });
            ServerIds::new(ids.collect()).unwrap()
        };
        let mut spec = spec(vec![vip("203.0.113.1", &[("198.51.100.7", 1)])]);
        spec.server_ids = named(&[(1, true), (2, false)]);
        let references = |control: &ServiceControl, index: usize| {
            let slot = control.state.reals[index].as_ref();
            (
                slot.unwrap().references,
                control.state.free_reals.contains(&(index as u16)),
            )
        };
        let table = control.apply(&spec).unwrap();
        let index = index_of(&table, "198.51.100.7");
        assert_eq!(references(&control, index), (2, false));
        assert!(table.real_of_server_id(1).is_some());
        assert!(table.real_of_server_id(2).is_none(), "it is not valid");
        // An id that is not valid keeps the number without the VIP's membership or another id.
        spec.vips.clear();
        spec.server_ids = named(&[(2, false)]);
        let table = control.apply(&spec).unwrap();
        assert_eq!(references(&control, index), (1, false));
        assert!(table.real_of_server_id(1).is_none(), "a deleted id is gone");
        spec.server_ids = named(&[(2, true)]);
        let table = control.apply(&spec).unwrap();
        assert_eq!(
            table.real_of_server_id(2).map(|real| real.id.index()),
            Some(index)
        );
        spec.server_ids = ServerIds::default();
        control.apply(&spec).unwrap();
        assert_eq!(references(&control, index), (0, true));
    }

    #[test]
    fn a_change_elsewhere_shares_a_million_server_ids() {
        let real = |id: u32| [198, 18, 0, (id % 250) as u8].into();
        let ids = (1..=1_000_000).map(|id| ServerIdSpec {
            id,
            real: real(id),
            valid: id % 2 == 0,
        });
        let mut control = ServiceControl::new();
        let mut spec = spec(vec![vip("203.0.113.1", &[("198.51.100.7", 1)])]);
        spec.server_ids = ServerIds::new(ids.collect()).unwrap();
        let before = control.apply(&spec).unwrap();
        spec.vips[0].reals[0].weight = 2;
        let after = control.apply(&spec).unwrap();
        for table in [&before, &after] {
            assert!(table.server_ids().shares(&spec.server_ids));
            assert_eq!(
                table.real_of_server_id(999_998).map(|real| real.address),
                Some(real(999_998))
            );
            assert!(table.real_of_server_id(999_999).is_none());
        }
        // A reference for each real, however many ids name it.
        let references = control
            .state
            .reals
            .iter()
            .flatten()
            .map(|slot| slot.references);
        assert_eq!(references.sum::<u32>(), 251);
    }

    #[test]
    fn the_global_table_is_there_while_a_vip_wants_it() {
        let mut control = ServiceControl::new();
        let with = |flags| VipSpec {
            flags,
            ..vip("203.0.113.1", &[("198.51.100.1", 1)])
        };
        let other = vip("203.0.113.2", &[("198.51.100.1", 1)]);
        let address = |table: &ServiceTable| table.global().map(|global| &raw const *global);
        for flags in [
            VipFlags::empty(),
            VipFlags::GLOBAL_LRU | VipFlags::LRU_BYPASS,
            VipFlags::GLOBAL_LRU | VipFlags::DPORT_ONLY,
        ] {
            let table = control.apply(&spec(vec![with(flags)])).unwrap();
            assert_eq!(address(&table), None, "{flags:?}");
        }
        let global = with(VipFlags::GLOBAL_LRU);
        let first = control.apply(&spec(vec![global.clone()])).unwrap();
        let second = control
            .apply(&spec(vec![other.clone(), global.clone()]))
            .unwrap();
        assert!(address(&first).is_some());
        assert_eq!(address(&first), address(&second), "it keeps its flows");

        let mut larger = spec(vec![global.clone()]);
        larger.settings.global_table_capacity = 4096;
        let third = control.apply(&larger).unwrap();
        assert_eq!(third.global().map(SharedTable::slots), Some(4096));
        assert_eq!(address(&control.apply(&spec(vec![other])).unwrap()), None);

        larger.settings.global_table_capacity = 0;
        let error = control.apply(&larger).unwrap_err();
        assert_eq!(error.field, "balancer.global_table_capacity");
    }

    #[test]
    fn room_is_that_of_the_largest_outer_header() {
        let mut control = ServiceControl::new();
        let table = control
            .apply(&spec(vec![
                vip("203.0.113.1", &[("198.51.100.1", 1)]),
                vip("203.0.113.2", &[("198.51.100.1", 1), ("2001:db8::2", 1)]),
                vip("203.0.113.3", &[]),
            ]))
            .unwrap();
        assert_eq!(
            table.vips().map(|vip| vip.room).collect::<Vec<_>>(),
            [20, 40, 20]
        );
    }

    #[test]
    fn lookup_order_is_exact_prefix_any_port_prefix_any_port() {
        let mut control = ServiceControl::new();
        let address: IpAddr = "2001:db8:a::10".parse().unwrap();
        let network: IpAddr = "2001:db8:a::".parse().unwrap();
        let with = |address, prefix_len, port| VipSpec {
            key: VipKey {
                address,
                prefix_len,
                port,
                protocol: Protocol::Tcp,
            },
            ..vip("203.0.113.1", &[])
        };
        let table = control
            .apply(&spec(vec![
                with(network, 72, 0),
                with(network, 96, 443),
                with(network, 80, 443),
                with(address, 128, 0),
                with(address, 128, 80),
            ]))
            .unwrap();
        let found = |address: &str, port| {
            table
                .lookup(address.parse().unwrap(), port, Protocol::Tcp)
                .map(|vip| vip.number)
        };
        assert_eq!(found("2001:db8:a::10", 80), Some(4));
        assert_eq!(
            found("2001:db8:a::10", 443),
            Some(1),
            "prefix with port before any port"
        );
        assert_eq!(found("2001:db8:a::10", 22), Some(3));
        assert_eq!(found("2001:db8:a::11", 22), Some(0));
        assert_eq!(
            found("2001:db8:a::1:0:11", 443),
            Some(2),
            "longest prefix that contains it"
        );
        assert_eq!(found("2001:db8:b::10", 80), None);
        assert!(table.is_vip_address("2001:db8:a::ffff".parse().unwrap()));
        assert!(!table.is_vip_address("2001:db8:b::".parse().unwrap()));
    }
}
