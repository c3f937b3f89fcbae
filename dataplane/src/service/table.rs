//! The compiled, immutable form of the services: what the forwarder reads.

use std::{net::IpAddr, sync::Arc};

use super::server_ids::ServerIds;
use super::source_routes::SourceRoutes;
use super::spec::{DecapSpec, MacAddress, Protocol, Settings, VipFlags, VipKey};
use xdp_layout::Tag;

use super::plain::{OuterHeaders, Plain, PlainVip};
use ahash::RandomState;
use conntrack::SharedTable;
use hashbrown::HashMap;
use maglev::{HashFunction, Ring};

/// VIPs a table can hold, and the value the flow hash seeds derive from (katran-compat section 1).
pub const MAX_VIPS: usize = xdp_layout::MAX_VIPS as usize;
/// Decap destinations a table can hold.
pub const MAX_DECAP: usize = xdp_layout::MAX_TUNNEL_DESTINATIONS as usize;
/// Slots for reals; index 0 is never a real.
pub const MAX_REALS: usize = 4096;

/// A real's index together with the epoch in which the index was given to it.
///
/// The flow table stores this, so that an index that was given to another real since then is
/// recognised and the flow selects anew. Bits 0–11 are the index, bits 12–31 the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct RealId(u32);

impl RealId {
    /// No real.
    pub const NONE: Self = Self(0);
    const INDEX_BITS: u32 = 12;

    /// Joins index and epoch; the epoch is kept modulo 2²⁰.
    pub const fn new(index: u16, epoch: u32) -> Self {
        Self((epoch << Self::INDEX_BITS) | (index as u32 & (MAX_REALS as u32 - 1)))
    }

    /// Reads the stored form back.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The stored form.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// How often the index was given to another real before, modulo 2²⁰.
    pub const fn epoch(self) -> u32 {
        self.0 >> Self::INDEX_BITS
    }

    /// Index into [`ServiceTable::reals`], below [`MAX_REALS`].
    pub const fn index(self) -> usize {
        (self.0 & (MAX_REALS as u32 - 1)) as usize
    }
}

/// A real as packets need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Real {
    /// Where encapsulated packets go.
    pub address: IpAddr,
    /// This real's current id; flows that store another one for the same index are stale.
    pub id: RealId,
    /// The real is this host.
    pub local: bool,
}

bitflags::bitflags! {
    /// What the packets of a VIP may need besides flow table, ring and encapsulation. Compiled from
    /// flags and settings, so that one test tells a VIP that needs nothing of it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Detours: u8 {
        /// Server ids are looked for: by flag, or in TCP while the option is read.
        const SERVER_ID = 1;
        /// Packets for local reals go to the kernel.
        const LOCAL_REAL = 2;
        /// UDP flows leave reals that are down.
        const FLOW_MIGRATION = 4;
        /// The table that the workers share is asked and told.
        const GLOBAL_TABLE = 8;
        /// The client's prefix comes before the ring.
        const SOURCE_ROUTE = 16;
    }
}

/// Where in a packet a server id is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerIdForm {
    /// In the connection id of QUIC.
    QuicConnectionId,
    /// Behind the mark of stable routing, in a UDP payload.
    UdpPayload,
    /// In a TCP option.
    TcpOption,
}

/// One VIP, compiled.
#[derive(Clone, Debug)]
pub struct Vip {
    /// Identity.
    pub key: VipKey,
    /// Index into the table and into the counters; keeps its value while the VIP exists.
    pub number: u16,
    /// Table generation in which the number was given to this VIP (the tag repeats it).
    pub generation: u32,
    /// Head room that the XDP program opens: the largest overhead among the reals' families.
    pub room: u8,
    /// Behaviour.
    pub flags: VipFlags,
    /// What its packets need besides flow table, ring and encapsulation.
    pub detours: Detours,
    /// Indices of the reals that are down, ascending; empty unless flows migrate.
    pub down: Box<[u16]>,
    /// How the ring was generated.
    pub hash: HashFunction,
    /// Real indices by flow hash; unchanged VIPs share it between tables.
    pub ring: Arc<Ring>,
}

impl Vip {
    /// Whether the VIP's UDP flows leave the real at this index.
    #[inline]
    pub fn is_down(&self, index: usize) -> bool {
        self.down
            .binary_search_by_key(&index, |down| usize::from(*down))
            .is_ok()
    }

    /// Whether a match of this VIP is a wildcard match (katran-compat section 4.7): any port, or a
    /// prefix.
    pub const fn is_wildcard(&self) -> bool {
        self.key.port == 0 || !self.key.is_single_address()
    }
}

/// Indices of the reals that source routes select, for each family of clients.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteReals {
    pub(super) v4: Arc<[u16]>,
    pub(super) v6: Arc<[u16]>,
}

/// Everything the forwarder reads, immutable.
#[derive(Debug)]
pub struct ServiceTable {
    pub(super) generation: u32,
    pub(super) settings: Settings,
    pub(super) vips: Vec<Option<Vip>>,
    /// VIP numbers; where GUE tunnels to a decap destination arrive, the number of no VIP.
    pub(super) exact: HashMap<(IpAddr, u16, Protocol), u16, RandomState>,
    /// Prefix VIPs, longest prefix first.
    pub(super) prefixes: Vec<(VipKey, u16)>,
    /// How many VIPs have this address.
    pub(super) addresses: HashMap<IpAddr, u16, RandomState>,
    pub(super) reals: Vec<Option<Real>>,
    /// Where workers leave flows for each other, while some VIP wants it. Not immutable, but the same
    /// from table to table.
    pub(super) global: Option<Arc<SharedTable>>,
    pub(super) source_routes: SourceRoutes,
    /// Indices of the reals that routes select, by [`SourceRoutes::reals`].
    pub(super) route_reals: RouteReals,
    pub(super) server_ids: ServerIds,
    /// Indices of the reals that server ids name, by [`ServerIds::reals`].
    pub(super) named_reals: Arc<[u16]>,
    pub(super) decap: HashMap<IpAddr, DecapSpec, RandomState>,
    pub(super) plain: Plain,
}

impl ServiceTable {
    /// Increases with every table that [`super::ServiceControl`] makes.
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// What holds for all VIPs.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// MAC of the next hop, when known.
    pub const fn next_hop_mac(&self) -> Option<MacAddress> {
        self.settings.next_hop_mac
    }

    /// VIPs in ascending number.
    pub fn vips(&self) -> impl Iterator<Item = &Vip> {
        self.vips.iter().flatten()
    }

    /// The VIP with this number.
    pub fn vip(&self, number: u16) -> Option<&Vip> {
        self.vips.get(usize::from(number))?.as_ref()
    }

    /// The VIP with exactly this key.
    pub fn find(&self, key: &VipKey) -> Option<&Vip> {
        self.vips().find(|vip| vip.key == *key)
    }

    /// Looks a destination up in the order of katran-compat section 4.7: exact, longest prefix with
    /// this port, any port, longest prefix with any port.
    pub fn lookup(&self, address: IpAddr, port: u16, protocol: Protocol) -> Option<&Vip> {
        let number = self
            .exact
            .get(&(address, port, protocol))
            .copied()
            .or_else(|| self.lookup_prefix(address, port, protocol))
            .or_else(|| self.exact.get(&(address, 0, protocol)).copied())
            .or_else(|| self.lookup_prefix(address, 0, protocol))?;
        self.vip(number)
    }

    fn lookup_prefix(&self, address: IpAddr, port: u16, protocol: Protocol) -> Option<u16> {
        self.prefixes
            .iter()
            .find(|(key, _)| key.port == port && key.protocol == protocol && key.contains(address))
            .map(|(_, number)| *number)
    }

    /// Whether some VIP has this address, on whatever port.
    pub fn is_vip_address(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
            || self.prefixes.iter().any(|(key, _)| key.contains(address))
    }

    /// The VIP that a tag names, if it is a plain one and the tag is not stale.
    #[inline]
    pub(crate) fn plain_vip(&self, tag: Tag) -> Option<&PlainVip> {
        self.plain.vip(tag)
    }

    /// The outer headers of all reals, as far as they can be prepared.
    #[inline]
    pub(crate) const fn outer_headers(&self) -> OuterHeaders<'_> {
        self.plain.headers()
    }

    /// The real at this index.
    pub fn real(&self, index: usize) -> Option<&Real> {
        self.reals.get(index)?.as_ref()
    }

    /// Bytes that the table in which workers leave flows for each other takes with this capacity.
    pub const fn global_memory_for(capacity: usize) -> usize {
        SharedTable::memory_for(capacity)
    }

    /// The table in which workers leave flows for each other, while some VIP wants it.
    #[inline]
    pub fn global(&self) -> Option<&SharedTable> {
        self.global.as_deref()
    }

    /// The real that a server id names.
    #[inline]
    pub fn real_of_server_id(&self, id: u32) -> Option<&Real> {
        let place = self.server_ids.place(id)?;
        self.real(usize::from(*self.named_reals.get(usize::from(place))?))
    }

    /// Server ids.
    pub const fn server_ids(&self) -> &ServerIds {
        &self.server_ids
    }

    /// Where the packets of a VIP are looked into for a server id, in the order in which they are.
    pub fn server_id_forms(&self, vip: &Vip) -> impl Iterator<Item = ServerIdForm> + use<> {
        let is_udp = vip.key.protocol == Protocol::Udp;
        let stable = vip.flags.contains(VipFlags::UDP_STABLE_ROUTING);
        [
            (
                vip.flags.contains(VipFlags::QUIC),
                ServerIdForm::QuicConnectionId,
            ),
            (stable && is_udp, ServerIdForm::UdpPayload),
            (
                self.settings.tcp_server_id && !is_udp,
                ServerIdForm::TcpOption,
            ),
        ]
        .into_iter()
        .filter_map(|(is_read, form)| is_read.then_some(form))
    }

    /// The decap destination with this address.
    pub fn decap_destination(&self, address: IpAddr) -> Option<&DecapSpec> {
        self.decap.get(&address)
    }

    /// Decap destinations, in no order.
    pub fn decap_destinations(&self) -> impl Iterator<Item = &DecapSpec> {
        self.decap.values()
    }

    /// The real to which a source route sends an IPv4 client.
    #[inline]
    pub fn real_of_client_v4(&self, client: [u8; 4]) -> Option<&Real> {
        let place = self.source_routes.select_v4(client)?;
        self.real(usize::from(*self.route_reals.v4.get(usize::from(place))?))
    }

    /// The real to which a source route sends an IPv6 client.
    #[inline]
    pub fn real_of_client_v6(&self, client: [u8; 16]) -> Option<&Real> {
        let place = self.source_routes.select_v6(client)?;
        self.real(usize::from(*self.route_reals.v6.get(usize::from(place))?))
    }

    /// Writes for each of these IPv4 clients the index of the real to which a source route sends it, 0 for
    /// none.
    pub fn reals_of_clients_v4(&self, clients: &[[u8; 4]], reals: &mut [u32]) {
        self.source_routes.select_each_v4(clients, reals);
        numbered(reals, &self.route_reals.v4);
    }

    /// As [`Self::reals_of_clients_v4`], for IPv6 clients.
    pub fn reals_of_clients_v6(&self, clients: &[[u8; 16]], reals: &mut [u32]) {
        self.source_routes.select_each_v6(clients, reals);
        numbered(reals, &self.route_reals.v6);
    }

    /// Source routes.
    pub const fn source_routes(&self) -> &SourceRoutes {
        &self.source_routes
    }

    /// Reals in ascending index, including those that only flows still use.
    pub fn reals(&self) -> impl Iterator<Item = &Real> {
        self.reals.iter().flatten()
    }
}

/// Turns places in a list of indices, each 1 more or 0, into the indices there, or 0.
fn numbered(places: &mut [u32], indices: &[u16]) {
    for place in places {
        let index = place
            .checked_sub(1)
            .and_then(|place| indices.get(place as usize));
        *place = index.map_or(0, |index| u32::from(*index));
    }
}
