//! The program's maps and the look-ups in them.

use aya_ebpf::{
    bindings::BPF_F_NO_COMMON_LRU,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie},
};
use xdp_layout::{
    FAMILY_V4, FAMILY_V6, MAX_VIPS, PREFIX_KEY_HEAD_BITS, VIP_MAP_CAPACITY,
    balancer::{
        ConfigValue, FlowValue, HAS_PREFIXES, MAX_REALS, RING_SIZE, RealValue, TRAFFIC_WORDS,
        VipValue,
    },
    counter::BALANCER_WORDS,
};
use xdp_programs::key::{self, Address, Key, Port};

/// VIPs by address, port (or any port) and protocol.
#[map]
static VIPS: HashMap<Key, VipValue> = HashMap::with_max_entries(VIP_MAP_CAPACITY, 0);
/// IPv6 prefix VIPs by port (or any port), protocol and longest prefix.
#[map]
static VIP_PREFIXES: LpmTrie<Key, VipValue> = LpmTrie::with_max_entries(VIP_MAP_CAPACITY, 0);
/// Addresses that some VIP has.
#[map]
static ADDRESSES: HashMap<Key, VipValue> = HashMap::with_max_entries(VIP_MAP_CAPACITY, 0);
/// Prefixes that some VIP has.
#[map]
static ADDRESS_PREFIXES: LpmTrie<Key, VipValue> = LpmTrie::with_max_entries(VIP_MAP_CAPACITY, 0);
/// The settings.
#[map]
static CONFIG: Array<ConfigValue> = Array::with_max_entries(1, 0);
/// Real indices by VIP number and flow hash. A ring is one value, so that userspace writes it in one
/// call, and takes two bytes a slot.
#[map]
static RINGS: Array<[u16; RING_SIZE]> = Array::with_max_entries(MAX_VIPS, 0);
/// Reals by index.
#[map]
static REALS: Array<RealValue> = Array::with_max_entries(MAX_REALS, 0);

/// IPv4 flows. The loader says how many.
///
/// One map instead of one for each CPU (which takes a map in a map): with `BPF_F_NO_COMMON_LRU` the
/// kernel gives each CPU an equal share of the entries and an LRU list of its own, from which alone it
/// takes one for a new flow. So no CPU evicts the flow of another or waits for its list, a look-up takes
/// one map, and a flow whose packets come to another CPU keeps its real: where the kernel moves a queue's
/// interrupt, or where there are no queues, as on a veth. (A per-CPU LRU hash would give each key a value
/// for every CPU: as many times the memory, and keys that one CPU evicts for all.)
#[map]
pub(crate) static FLOWS_V4: LruHashMap<FlowKeyV4, FlowValue> =
    LruHashMap::with_max_entries(MAX_VIPS, BPF_F_NO_COMMON_LRU);
/// IPv6 flows, likewise.
#[map]
pub(crate) static FLOWS_V6: LruHashMap<FlowKeyV6, FlowValue> =
    LruHashMap::with_max_entries(MAX_VIPS, BPF_F_NO_COMMON_LRU);

/// Packets and bytes of the outcomes, and the events.
#[map]
pub(crate) static COUNTERS: PerCpuArray<[u64; BALANCER_WORDS]> =
    PerCpuArray::with_max_entries(1, 0);
/// By VIP number.
#[map]
pub(crate) static VIP_TRAFFIC: PerCpuArray<[u64; TRAFFIC_WORDS]> =
    PerCpuArray::with_max_entries(MAX_VIPS, 0);
/// By real index.
#[map]
pub(crate) static REAL_TRAFFIC: PerCpuArray<[u64; TRAFFIC_WORDS]> =
    PerCpuArray::with_max_entries(MAX_REALS, 0);

/// A `FlowKey` of IPv4, as words.
pub(crate) type FlowKeyV4 = [u32; 4];
/// A `FlowKey` of IPv6, as words.
pub(crate) type FlowKeyV6 = [u32; 10];

/// The settings; the map has its only entry always.
#[inline(always)]
pub(crate) fn config() -> Option<&'static ConfigValue> {
    CONFIG.get(0)
}

/// The real at this index, whose id must be compared where it matters.
#[inline(always)]
pub(crate) fn real(index: u32) -> Option<&'static RealValue> {
    REALS.get(index).filter(|real| real.family != 0)
}

/// The real index in a slot of a VIP's ring; zero where there is no ring.
#[inline(always)]
pub(crate) fn ring(vip: u16, slot: usize) -> u16 {
    RINGS
        .get(u32::from(vip))
        .and_then(|ring| ring.get(slot))
        .copied()
        .unwrap_or(0)
}

const fn family<const V6: bool>() -> u8 {
    if V6 { FAMILY_V6 } else { FAMILY_V4 }
}

/// Whether some VIP has this address.
#[inline(always)]
pub(crate) fn is_vip_address<const V6: bool>(address: Address) -> bool {
    let key = key::address(address, family::<V6>());
    // SAFETY: only the presence of the value is asked for.
    if unsafe { ADDRESSES.get(key) }.is_some() {
        return true;
    }
    V6 && has_prefixes() && longest_prefix(&ADDRESS_PREFIXES, address, 0, 0).is_some()
}

/// The VIP of an address, port and protocol: exact before prefix, this port before any port
/// (katran-compat section 4.7).
#[inline(always)]
pub(crate) fn find_vip<const V6: bool>(
    address: Address,
    port: Port,
    protocol: u8,
) -> Option<VipValue> {
    let key = key::vip(address, port, protocol, family::<V6>());
    // SAFETY: the reference lives for this statement, and the value has no invalid bytes.
    if let Some(vip) = unsafe { VIPS.get(key) } {
        return Some(*vip);
    }
    let prefixes = V6 && has_prefixes();
    if prefixes && let Some(vip) = longest_prefix(&VIP_PREFIXES, address, port, protocol) {
        return Some(vip);
    }
    let any_port = key::vip(address, 0, protocol, family::<V6>());
    // SAFETY: as above.
    if let Some(vip) = unsafe { VIPS.get(any_port) } {
        return Some(*vip);
    }
    if prefixes {
        return longest_prefix(&VIP_PREFIXES, address, 0, protocol);
    }
    None
}

#[inline(always)]
fn longest_prefix(
    map: &LpmTrie<Key, VipValue>,
    address: Address,
    port: Port,
    protocol: u8,
) -> Option<VipValue> {
    let key = key::prefix(address, port, protocol);
    let key = lpm_trie::Key::new(PREFIX_KEY_HEAD_BITS + 128, key);
    map.get(key).copied()
}

/// Prefix look-ups are dear, and few balancers have prefix VIPs.
#[inline(always)]
fn has_prefixes() -> bool {
    config().is_some_and(|config| config.flags & HAS_PREFIXES != 0)
}
