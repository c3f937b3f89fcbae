//! `flow analyze`: what kinds of flows the workers' tables hold for each VIP.

use std::{collections::BTreeMap, sync::Arc};

use dataplane::{
    forward::{FlowId, FlowRecord},
    service::{ServiceTable, Vip, VipKey},
};

use super::{
    error::AdminError,
    flows::{self, STEP, Step},
    report::{FlowAnalysis, FlowKinds, VipFlows},
};
use crate::control::View;

const HALF_MINUTE_NS: u64 = 30_000_000_000;

/// `flow analyze`.
pub(super) fn analyze(
    view: &View,
    vip: Option<&VipKey>,
    queue: Option<u32>,
) -> Result<FlowAnalysis, AdminError> {
    if let Some(vip) = vip
        && view.table.find(vip).is_none()
    {
        return Err(AdminError::no_such_vip(vip));
    }
    let mut kinds: BTreeMap<Option<VipKey>, FlowKinds> = BTreeMap::new();
    let mut failed = Vec::new();
    for worker in flows::chosen(view, queue)? {
        let step = |cursor| -> Step<(Vec<FlowRecord>, u64)> {
            // Its memory is taken here; the worker only copies records.
            let mut records = Vec::with_capacity(STEP);
            Box::new(move |forwarder, now_ns| {
                let next = forwarder.scan_flows(cursor, STEP, &mut |record| records.push(*record));
                ((records, now_ns), next)
            })
        };
        let walked = worker.walk(step, |(records, now_ns)| {
            for record in &records {
                let of = vip_of(&view.table, &record.id);
                kinds.entry(of).or_default().count(record, now_ns);
            }
            true
        });
        if let Err(error) = walked {
            failed.push(flows::failure(worker, &error));
        }
    }
    let vips = kinds
        .into_iter()
        .filter(|(key, _)| vip.is_none_or(|vip| *key == Some(*vip)))
        .map(|(key, kinds)| VipFlows {
            vip: key.map(|key| key.to_string()),
            kinds,
        })
        .collect();
    Ok(FlowAnalysis { vips, failed })
}

/// The VIP of an entry. Entries of VIPs with any port, or of a prefix, have no port; those of all such
/// VIPs of an address count for the first that a packet would match.
fn vip_of(table: &Arc<ServiceTable>, id: &FlowId) -> Option<VipKey> {
    let (destination, protocol) = (id.destination(), id.protocol());
    let found = table.lookup(destination.ip(), destination.port(), protocol);
    let found = found.or_else(|| {
        let is_of = |vip: &&Vip| {
            vip.is_wildcard() && vip.key.protocol == protocol && vip.key.contains(destination.ip())
        };
        (destination.port() == 0)
            .then(|| table.vips().find(is_of))
            .flatten()
    });
    found.map(|vip| vip.key)
}

impl FlowKinds {
    fn count(&mut self, record: &FlowRecord, now_ns: u64) {
        self.flows += 1;
        self.stale_real += u64::from(record.real_address.is_none());
        let age = now_ns.saturating_sub(record.last_use_ns);
        let by_time = match record.last_use_ns {
            0 => &mut self.without_time,
            _ if age < HALF_MINUTE_NS => &mut self.under_30_s,
            _ if age <= 2 * HALF_MINUTE_NS => &mut self.from_30_to_60_s,
            _ => &mut self.over_60_s,
        };
        *by_time += 1;
    }
}

#[cfg(test)]
mod tests {
    use dataplane::service::{Protocol, RealId};

    use super::*;

    #[test]
    fn flows_are_told_by_their_real_and_their_age() {
        const SECOND_NS: u64 = 1_000_000_000;
        let now = 1000 * SECOND_NS;
        let record = |last_use_ns, has_real: bool| FlowRecord {
            id: FlowId::new(
                "192.0.2.1:4000".parse().unwrap(),
                "203.0.113.10:80".parse().unwrap(),
                Protocol::Udp,
            )
            .unwrap(),
            real: RealId::NONE,
            real_address: has_real.then(|| [198, 51, 100, 11].into()),
            last_use_ns,
        };
        let mut kinds = FlowKinds::default();
        for (idle, has_real) in [(0, true), (29, false), (30, true), (60, true), (61, true)] {
            kinds.count(&record(now - idle * SECOND_NS, has_real), now);
        }
        kinds.count(&record(0, true), now);
        let expected = FlowKinds {
            flows: 6,
            stale_real: 1,
            without_time: 1,
            under_30_s: 2,
            from_30_to_60_s: 2,
            over_60_s: 1,
        };
        assert_eq!(kinds, expected);
    }
}
