//! Which real a packet goes to: connection table, then ring (katran-compat sections 2 and 5).

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::bpf_ktime_get_coarse_ns,
};
use xdp_layout::{
    balancer::{
        CONNECTION_WINDOW_NS, ConfigValue, DPORT_ONLY, FlowValue, LRU_BYPASS, MAX_REALS,
        NO_SRC_PORT, RealValue, SRC_DST_PORT, UDP_TIMEOUT_NS, VipValue, WILDCARD,
    },
    counter::BalancerEvent::*,
};
use xdp_programs::{
    flow_hash::{flow_hash, ring_slot},
    header::PROTOCOL_TCP,
    key::{Address, Port},
};

use crate::{
    counters::{Counters, count_ring_selection},
    flow::{Flow, RST, SYN},
    maps::{self, FLOWS_V4, FLOWS_V6, FlowKeyV4, FlowKeyV6},
};

/// The real of a packet, and what the outer source is made of.
pub(crate) struct Selected {
    pub(crate) real: &'static RealValue,
    pub(crate) source: Address,
    pub(crate) source_port: Port,
}

impl Selected {
    /// Place of the real.
    #[inline(always)]
    pub(crate) fn index(&self) -> u32 {
        index_of(self.real.id)
    }
}

/// Finds the real; nothing where the ring has none.
#[inline(always)]
pub(crate) fn real<const V6: bool>(
    counters: &Counters,
    config: &ConfigValue,
    vip: VipValue,
    flow: &Flow,
) -> Option<Selected> {
    let is_tcp = flow.protocol == PROTOCOL_TCP;
    let is_syn = flow.tcp_flags & SYN != 0;
    // Rules 1 and 2 of section 2.
    let keeps_port = vip.flags & WILDCARD == 0 || vip.flags & (DPORT_ONLY | SRC_DST_PORT) != 0;
    let vip_port = if keeps_port { flow.vip_port } else { 0 };
    let client_port = if vip.flags & NO_SRC_PORT == 0 {
        flow.client_port
    } else {
        0
    };

    let uses_table = vip.flags & LRU_BYPASS == 0;
    let key = key::<V6>(flow, client_port, vip_port);
    // A SYN does not ask.
    let entry = if uses_table && !is_syn {
        find::<V6>(&key)
    } else {
        None
    };
    // Of TCP no time is kept.
    let mut now = if is_tcp { 0 } else { now() };
    if let Some(entry) = entry {
        // SAFETY: the entry stays readable while the program runs. Its value has no invalid bytes, and
        // this is the only load of it.
        let value = unsafe { entry.read() };
        // The times of two CPUs may be a tick apart.
        if (is_tcp || now.saturating_sub(value.last_use_ns) <= UDP_TIMEOUT_NS)
            && let Some(real) = maps::real(index_of(value.real))
            && real.id == value.real
        {
            if !is_tcp {
                // SAFETY: the entry stays writable while the program runs. Another CPU may write the
                // word too, or have just given the entry to another flow: the word is then about the same
                // time, or the flow's time of last use is too late by less than its age.
                unsafe { (&raw mut (*entry).last_use_ns).write(now) };
            }
            return Some(Selected {
                real,
                source: flow.client,
                source_port: client_port,
            });
        }
    }

    if is_tcp {
        counters.count(if is_syn {
            TcpSynMisses
        } else {
            TcpNonSynMisses
        });
        now = self::now();
    }
    let flooded = is_flooded(counters, config, now);
    let by_port_only = vip.flags & DPORT_ONLY != 0;
    let (source, source_port) = if by_port_only {
        ([0; 4], vip_port)
    } else {
        (flow.client, client_port)
    };
    let slot = ring_slot(flow_hash::<V6>(source, source_port, vip_port));
    let index = maps::ring(vip.number, slot);
    let Some(real) = maps::real(u32::from(index)) else {
        counters.count(if index == 0 {
            RingEmptySlots
        } else {
            RingUnknownReals
        });
        return None;
    };
    counters.count(RingSelections);
    count_ring_selection(&maps::VIP_TRAFFIC, u32::from(vip.number));
    count_ring_selection(&maps::REAL_TRAFFIC, u32::from(index));

    // An entry of a VIP with `DPORT_ONLY` would never be found again (section 5.3).
    if uses_table && !by_port_only && flow.tcp_flags & RST == 0 {
        let value = FlowValue {
            real: real.id,
            zero: 0,
            last_use_ns: if is_tcp { 0 } else { now },
        };
        if flooded {
            counters.count(FloodSuppressed);
        } else if entry.is_none() && insert::<V6>(&key, &value, BPF_NOEXIST) {
            counters.count(FlowInserts);
        } else {
            // Another entry of the flow, which is not a new one; or no room at all.
            insert::<V6>(&key, &value, BPF_ANY);
        }
    }
    Some(Selected {
        real,
        source,
        source_port: client_port,
    })
}

/// Counts a connection event; true when it is over the cap (section 5.4).
#[inline(always)]
fn is_flooded(counters: &Counters, config: &ConfigValue, now: u64) -> bool {
    if now.wrapping_sub(counters.get(ConnectionWindowNs)) > CONNECTION_WINDOW_NS {
        counters.set(ConnectionWindowNs, now);
        counters.set(ConnectionEvents, 1);
        return false;
    }
    let events = counters.get(ConnectionEvents) + 1;
    counters.set(ConnectionEvents, events);
    events > u64::from(config.connection_rate_cap)
}

/// The kernel's monotonic clock as of its last tick: cheap, and exact enough for whole seconds.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_ktime_get_coarse_ns() }
}

#[inline(always)]
const fn index_of(id: u32) -> u32 {
    id & (MAX_REALS - 1)
}

/// The words of an IPv6 `FlowKey`; an IPv4 one has the first, the fifth and the last two.
#[inline(always)]
fn key<const V6: bool>(flow: &Flow, client_port: Port, vip_port: Port) -> FlowKeyV6 {
    let ports = u32::from(client_port) | u32::from(vip_port) << 16;
    let tail = u32::from(flow.protocol);
    let (source, vip) = (flow.client, flow.vip);
    [
        source[0], source[1], source[2], source[3], vip[0], vip[1], vip[2], vip[3], ports, tail,
    ]
}

#[inline(always)]
fn v4(key: &FlowKeyV6) -> FlowKeyV4 {
    [key[0], key[4], key[8], key[9]]
}

#[inline(always)]
fn find<const V6: bool>(key: &FlowKeyV6) -> Option<*mut FlowValue> {
    if V6 {
        FLOWS_V6.get_ptr_mut(key)
    } else {
        FLOWS_V4.get_ptr_mut(v4(key))
    }
}

#[inline(always)]
fn insert<const V6: bool>(key: &FlowKeyV6, value: &FlowValue, flags: u32) -> bool {
    let flags = u64::from(flags);
    if V6 {
        FLOWS_V6.insert(key, value, flags).is_ok()
    } else {
        FLOWS_V4.insert(v4(key), value, flags).is_ok()
    }
}
