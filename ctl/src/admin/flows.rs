//! Questions about flows: they walk or look into every worker's table.
//!
//! A walk is cut into steps, each a question of its own that the worker answers between two bursts,
//! so that no walk holds packets up for longer than a step takes.

use std::{cell::Cell, net::IpAddr, sync::Arc};

use dataplane::{
    counters::DropReason,
    forward::{Asked, Explanation, FlowId, FlowRecord, Forwarder, Selection},
    service::{Protocol, ServerIdForm, ServiceTable, Vip, VipKey},
    worker::now_ns,
};

use super::{
    command::FlowFilter,
    error::AdminError,
    report::{
        Differing, Explained, FlowCount, FlowCounts, FlowList, FlowRow, FlowsRemoved, ServerIdUse,
        WorkerFailure,
    },
};
use crate::control::{NoAnswer, View, Worker};

/// Verdict of a packet that is sent to its real.
const TRANSMIT: &str = "transmit";

/// Table slots visited per step: some microseconds of a worker's time.
pub(super) const STEP: usize = 256;

pub(super) fn failure(worker: &Worker, error: &NoAnswer) -> WorkerFailure {
    WorkerFailure {
        worker: worker.queue(),
        problem: error.to_string(),
    }
}

/// The workers that are meant, each of which has flows of its own; in the kernel, any one.
pub(super) fn chosen(view: &View, queue: Option<u32>) -> Result<Vec<&Worker>, AdminError> {
    if let Some(any) = view.workers.iter().find(|worker| worker.shares_flows()) {
        return match queue {
            None => Ok(vec![any]),
            Some(_) => Err(AdminError::new(
                "worker",
                "--datapath kernel keeps the flows of all CPUs in one table",
                "leave worker= out",
            )),
        };
    }
    let workers: Vec<_> = view
        .workers
        .iter()
        .filter(|worker| queue.is_none_or(|queue| worker.queue() == queue))
        .collect();
    match queue {
        Some(queue) if workers.is_empty() => Err(no_such_worker(queue)),
        _ => Ok(workers),
    }
}

/// The worker whose table has the flows; nobody where all share one.
fn owner(worker: &Worker) -> Option<u32> {
    (!worker.shares_flows()).then(|| worker.queue())
}

/// Fails unless the flow is one to a VIP.
fn require_vip(view: &View, id: &FlowId) -> Result<(), AdminError> {
    let (destination, protocol) = (id.destination(), id.protocol());
    match view
        .table
        .lookup(destination.ip(), destination.port(), protocol)
    {
        Some(_) => Ok(()),
        None => Err(AdminError::new(
            "destination",
            format!("there is no VIP {destination}/{protocol}"),
            "`vip list` names those there are",
        )),
    }
}

/// No worker has this queue.
pub(super) fn no_such_worker(queue: u32) -> AdminError {
    AdminError::new(
        "worker",
        format!("no worker has queue {queue}"),
        "`show workers` names those there are",
    )
}

/// Which records a filter lets through, in a form that a worker can evaluate.
#[derive(Clone)]
struct Matcher {
    filter: FlowFilter,
    table: Arc<ServiceTable>,
}

impl Matcher {
    fn new(view: &View, filter: &FlowFilter) -> Result<Self, AdminError> {
        if let Some(vip) = &filter.vip
            && view.table.find(vip).is_none()
        {
            return Err(AdminError::no_such_vip(vip));
        }
        // One that was removed is there for as long as flows may be with it.
        if let Some(real) = filter.real
            && !view.table.reals().any(|known| known.address == real)
        {
            return Err(AdminError::new(
                "real",
                format!("there is no real {real}"),
                "`real list` names those of the VIPs",
            ));
        }
        Ok(Self {
            filter: *filter,
            table: Arc::clone(&view.table),
        })
    }

    fn matches(&self, record: &FlowRecord) -> bool {
        self.filter
            .vip
            .is_none_or(|vip| self.is_flow_of(&record.id, &vip))
            && self
                .filter
                .real
                .is_none_or(|real| record.real_address == Some(real))
    }

    fn is_flow_of(&self, id: &FlowId, vip: &VipKey) -> bool {
        let (destination, protocol) = (id.destination(), id.protocol());
        // Wildcard VIPs take the destination port out of the table's key. Those that share an
        // address share such entries as well.
        if destination.port() == 0 {
            let alike = VipKey { port: 0, ..*vip };
            let any_port = self.table.find(vip).is_some_and(Vip::is_wildcard);
            return any_port && protocol == vip.protocol && alike.contains(destination.ip());
        }
        let found = self
            .table
            .lookup(destination.ip(), destination.port(), protocol);
        found.is_some_and(|found| found.key == *vip)
    }
}

/// One step: what it found, and where the next one starts.
pub(super) type Step<R> = Box<dyn FnOnce(&mut Forwarder, u64) -> (R, Option<usize>) + Send>;

/// What one step of a list brings back. Its memory is taken before the worker gets it, which only
/// copies records.
struct Page {
    records: Vec<FlowRecord>,
    room: usize,
}

impl Page {
    /// A page for the records that are still wanted, as far as a step can find them.
    fn new(wanted: usize) -> Self {
        let room = wanted.min(STEP);
        Self {
            records: Vec::with_capacity(room),
            room,
        }
    }

    const fn is_full(&self) -> bool {
        self.records.len() == self.room
    }

    fn push(&mut self, record: &FlowRecord) {
        self.records.push(*record);
    }
}

/// `flow list`.
pub(super) fn list(view: &View, filter: &FlowFilter, limit: usize) -> Result<FlowList, AdminError> {
    let matcher = Matcher::new(view, filter)?;
    let mut list = FlowList {
        flows: Vec::new(),
        more: false,
        failed: Vec::new(),
    };
    // One more than asked for tells that there are more.
    let wanted = Cell::new(limit + 1);
    for worker in chosen(view, filter.worker)? {
        let owner = owner(worker);
        let step = |cursor| -> Step<(Vec<FlowRecord>, u64)> {
            let matcher = matcher.clone();
            let mut page = Page::new(wanted.get());
            Box::new(move |forwarder, now_ns| {
                let next = forwarder.scan_flows(cursor, STEP, &mut |record| {
                    if !page.is_full() && matcher.matches(record) {
                        page.push(record);
                    }
                });
                ((page.records, now_ns), next)
            })
        };
        let result = worker.walk(step, |(records, now_ns)| {
            let rows = records.iter().map(|record| row(owner, record, now_ns));
            list.flows.extend(rows);
            wanted.set(wanted.get() - records.len());
            wanted.get() > 0
        });
        if let Err(error) = result {
            list.failed.push(failure(worker, &error));
        }
        if wanted.get() == 0 {
            break;
        }
    }
    if filter.worker.is_none() {
        let records = view.table.global_flows();
        let rows = records
            .filter(|record| matcher.matches(record))
            .take(wanted.get())
            .map(|record| row(None, &record, now_ns()));
        list.flows.extend(rows);
    }
    list.more = list.flows.len() > limit;
    list.flows.truncate(limit);
    Ok(list)
}

fn row(worker: Option<u32>, record: &FlowRecord, now_ns: u64) -> FlowRow {
    let id = &record.id;
    let is_udp = id.protocol() == Protocol::Udp;
    FlowRow {
        worker,
        source: id.source().to_string(),
        destination: id.destination().to_string(),
        protocol: id.protocol().to_string(),
        real: record.real_address,
        idle_ms: is_udp.then(|| now_ns.saturating_sub(record.last_use_ns) / 1_000_000),
    }
}

/// `flow get`.
pub(super) fn get(view: &View, id: &FlowId) -> Result<FlowList, AdminError> {
    require_vip(view, id)?;
    let mut list = FlowList {
        flows: Vec::new(),
        more: false,
        failed: Vec::new(),
    };
    for worker in chosen(view, None)? {
        let (id, owner) = (*id, owner(worker));
        match worker.ask_about(&id, move |forwarder, now_ns| (forwarder.flow(&id), now_ns)) {
            Ok((found, now_ns)) => {
                let rows = found.iter().map(|record| row(owner, record, now_ns));
                list.flows.extend(rows);
            }
            Err(error) => list.failed.push(failure(worker, &error)),
        }
    }
    let global = view.table.global_flow(id);
    list.flows
        .extend(global.map(|record| row(None, &record, now_ns())));
    if !list.flows.is_empty() {
        return Ok(list);
    }
    let (source, destination, protocol) = (id.source(), id.destination(), id.protocol());
    let silent = list.failed.iter();
    let silent = silent.map(|one| format!("; queue {}: {}", one.worker, one.problem));
    Err(AdminError::new(
        "flow",
        format!(
            "no table has {source} to {destination}/{protocol}{}",
            silent.collect::<String>()
        ),
        "`flow list` shows those there are, `explain` where the next packet would go",
    ))
}

/// `flow del`.
pub(super) fn delete(view: &View, id: &FlowId) -> Result<FlowsRemoved, AdminError> {
    require_vip(view, id)?;
    let mut result = FlowsRemoved::default();
    // A worker removes it from the global table too.
    let global = view.table.global_flow(id);
    for worker in chosen(view, None)? {
        let id = *id;
        match worker.ask_about(&id, move |forwarder, _| forwarder.remove_flow(&id)) {
            Ok(removed) => result.count(worker, usize::from(removed)),
            Err(error) => result.failed.push(failure(worker, &error)),
        }
    }
    if let Some(record) = global {
        view.table.remove_global_flow(&record.id);
        result.global = 1;
    }
    Ok(result)
}

impl FlowsRemoved {
    fn count(&mut self, worker: &Worker, removed: usize) {
        self.removed += removed;
        if removed > 0
            && let Some(worker) = owner(worker)
        {
            self.workers.push(FlowCount {
                worker,
                flows: removed as u64,
            });
        }
    }
}

/// `flow purge`.
pub(super) fn purge(view: &View, filter: &FlowFilter) -> Result<FlowsRemoved, AdminError> {
    let matcher = Matcher::new(view, filter)?;
    let workers = chosen(view, filter.worker)?;
    // First, so that no worker takes a flow back from there behind the walk; and again at the end, as a
    // worker puts there what it still has.
    let mut result = FlowsRemoved {
        global: purge_global(view, filter, &matcher),
        ..FlowsRemoved::default()
    };
    for worker in workers {
        let mut removed = 0;
        let step = |cursor| -> Step<usize> {
            let matcher = matcher.clone();
            Box::new(move |forwarder, _| {
                forwarder.purge_step(cursor, STEP, &|record| matcher.matches(record))
            })
        };
        let walked = worker.walk(step, |count| {
            removed += count;
            true
        });
        result.count(worker, removed);
        if let Err(error) = walked {
            result.failed.push(failure(worker, &error));
        }
    }
    result.global += purge_global(view, filter, &matcher);
    Ok(result)
}

/// Removes flows from the table that the workers share.
fn purge_global(view: &View, filter: &FlowFilter, matcher: &Matcher) -> usize {
    if filter.worker.is_some() {
        return 0;
    }
    view.table
        .global_flows()
        .filter(|record| matcher.matches(record))
        .filter(|record| view.table.remove_global_flow(&record.id))
        .count()
}

/// `flow count`.
pub(super) fn count(view: &View, filter: &FlowFilter) -> Result<FlowCounts, AdminError> {
    let matcher = Matcher::new(view, filter)?;
    let mut result = FlowCounts {
        total: 0,
        global: None,
        workers: Vec::new(),
        failed: Vec::new(),
    };
    for worker in chosen(view, filter.worker)? {
        let mut flows = 0;
        let counted = if filter.is_all() {
            worker
                .ask(|forwarder, _| forwarder.flow_count() as u64)
                .map(|count| flows = count)
        } else {
            let step = |cursor| -> Step<u64> {
                let matcher = matcher.clone();
                Box::new(move |forwarder, _| {
                    let mut count = 0;
                    let next = forwarder.scan_flows(cursor, STEP, &mut |record| {
                        count += u64::from(matcher.matches(record));
                    });
                    (count, next)
                })
            };
            worker.walk(step, |count| {
                flows += count;
                true
            })
        };
        match counted {
            Ok(()) => {
                result.total += flows;
                match owner(worker) {
                    Some(worker) => result.workers.push(FlowCount { worker, flows }),
                    None => result.global = Some(flows),
                }
            }
            Err(error) => result.failed.push(failure(worker, &error)),
        }
    }
    if filter.worker.is_none() && view.table.global().is_some() {
        let records = view.table.global_flows();
        let matching = records.filter(|record| matcher.matches(record));
        result.global = Some(matching.count() as u64);
    }
    Ok(result)
}

/// `explain`.
pub(super) fn explain(
    view: &View,
    id: &FlowId,
    asked: Asked,
    tunnel: Option<IpAddr>,
) -> Result<Explained, AdminError> {
    if let Some(address) = tunnel
        && view.table.decap_destination(address).is_none()
    {
        return Ok(Explained {
            verdict: "pass".into(),
            reason: Some("not-a-decap-destination".into()),
            tunnel,
            ..Explained::default()
        });
    }
    let (mut answers, mut failed) = (Vec::new(), Vec::new());
    for worker in chosen(view, None)? {
        let id = *id;
        let asked = Asked {
            connection_events: connection_events(view, worker),
            ..asked
        };
        let answer = worker.ask_about(&id, move |forwarder, now_ns| {
            forwarder.explain_packet(&id, &asked, now_ns)
        });
        match answer {
            Ok(explanation) => {
                let answer = explained(&explanation).held_to_next_hop(&view.table);
                answers.push((owner(worker), answer));
            }
            Err(error) => failed.push(failure(worker, &error)),
        }
    }
    let Some(summary) = summary(answers) else {
        return Err(AdminError::new(
            "worker",
            failed.first().map_or_else(
                || "there is no worker to ask".to_owned(),
                |first| {
                    format!(
                        "no worker answered; that of queue {}: {}",
                        first.worker, first.problem
                    )
                },
            ),
            "look at `show workers`",
        ));
    };
    Ok(Explained {
        server_id: asked
            .server_id
            .and_then(|server_id| server_id_use(view, id, server_id, &asked)),
        tunnel,
        failed,
        ..summary
    })
}

/// Connection events of the window that lasts. CPUs that share their flows give one answer, and each counts
/// its own events: those of the busiest.
fn connection_events(view: &View, worker: &Worker) -> u64 {
    let now_ns = now_ns();
    let events = |worker: &Worker| worker.counters().connection_events_at(now_ns);
    if worker.shares_flows() {
        view.workers.iter().map(events).max().unwrap_or_default()
    } else {
        events(worker)
    }
}

/// One answer out of those of the workers: that of a table, if one has the flow, with what differs
/// from it.
fn summary(answers: Vec<(Option<u32>, Explained)>) -> Option<Explained> {
    let by_table = Some(Selection::Table.name());
    let is_by_table = |answer: &Explained| answer.by.as_deref() == by_table;
    let first = answers.iter().position(|(_, answer)| is_by_table(answer));
    let mut summary = answers.get(first.unwrap_or(0))?.1.clone();
    for (worker, answer) in answers {
        let same = (&answer.verdict, answer.real) == (&summary.verdict, summary.real);
        if !same {
            summary.add_other(worker, answer);
            continue;
        }
        summary.flooded |= answer.flooded;
        if is_by_table(&answer) {
            summary.workers.extend(worker);
        }
        // Where a table decides, it does not matter why another one would not.
        if answer.by == summary.by {
            summary.passed_over = summary.passed_over.or(answer.passed_over);
        }
    }
    Some(summary)
}

impl Explained {
    /// Nothing can be sent while the next hop is not known.
    fn held_to_next_hop(self, table: &ServiceTable) -> Self {
        if self.verdict != TRANSMIT || table.next_hop_mac().is_some() {
            return self;
        }
        Self {
            verdict: "drop".into(),
            reason: Some(DropReason::NoNextHop.name().into()),
            ..self
        }
    }

    fn add_other(&mut self, worker: Option<u32>, answer: Self) {
        let alike = self.others.iter_mut().find(|other| {
            (&other.verdict, other.real, &other.by) == (&answer.verdict, answer.real, &answer.by)
                && (&other.passed_over, other.flooded) == (&answer.passed_over, answer.flooded)
        });
        match alike {
            Some(other) => other.workers.extend(worker),
            None => self.others.push(Differing {
                verdict: answer.verdict,
                reason: answer.reason,
                real: answer.real,
                by: answer.by,
                passed_over: answer.passed_over,
                flooded: answer.flooded,
                workers: worker.into_iter().collect(),
            }),
        }
    }
}

/// What becomes of a server id in a packet of the flow; nothing if no VIP has it.
fn server_id_use(view: &View, id: &FlowId, server_id: u32, asked: &Asked) -> Option<ServerIdUse> {
    let table = &view.table;
    let destination = id.destination();
    let vip = table.lookup(destination.ip(), destination.port(), id.protocol())?;
    let forms = table.server_id_forms(vip).filter(|form| asked.reads(*form));
    let read_from = forms.map(|form| match form {
        ServerIdForm::QuicConnectionId => "quic-connection-id".to_owned(),
        ServerIdForm::UdpPayload => "udp-payload".to_owned(),
        ServerIdForm::TcpOption => "tcp-option".to_owned(),
    });
    let read_from: Vec<String> = read_from.collect();
    let real = table.real_of_server_id(server_id).map(|real| real.address);
    let state = match real {
        _ if read_from.is_empty() => "not-read",
        None => "unknown",
        Some(real) if real.is_ipv4() && destination.is_ipv6() => "wrong-family",
        Some(_) => "used",
    };
    Some(ServerIdUse {
        id: server_id,
        read_from,
        state: state.to_owned(),
        real,
    })
}

fn explained(explanation: &Explanation) -> Explained {
    match explanation {
        Explanation::NotAVip => Explained {
            verdict: "pass".into(),
            reason: Some("not-a-vip".into()),
            ..Explained::default()
        },
        Explanation::Tunnel { egress } => Explained {
            verdict: "decapsulate".into(),
            reason: Some(if *egress { "egress" } else { "cross-pop" }.into()),
            ..Explained::default()
        },
        Explanation::NoReal {
            vip,
            passed_over,
            flooded,
        } => Explained {
            verdict: "drop".into(),
            reason: Some("no-real".into()),
            vip: Some(vip.to_string()),
            passed_over: passed_over.map(|why| why.name().into()),
            flooded: *flooded,
            ..Explained::default()
        },
        Explanation::Selected {
            vip,
            real,
            by,
            passed_over,
            flooded,
            local,
            ring_index,
            hash,
            outer_source,
        } => Explained {
            verdict: if *local { "pass" } else { TRANSMIT }.into(),
            reason: local.then(|| "local-real".into()),
            vip: Some(vip.to_string()),
            real: Some(*real),
            by: Some(by.name().into()),
            passed_over: passed_over.map(|why| why.name().into()),
            flooded: *flooded,
            hash: Some(*hash),
            ring_index: Some(*ring_index),
            outer_source: (!local).then_some(*outer_source),
            ..Explained::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use dataplane::service::RealId;

    use super::*;

    #[test]
    fn a_summary_says_why_tables_do_not_decide_and_not_why_another_one_would_not() {
        let answer = |queue, by: Selection, real: u8, passed_over: Option<&str>| {
            let explained = Explained {
                verdict: TRANSMIT.into(),
                real: Some([198, 51, 100, real].into()),
                by: Some(by.name().into()),
                passed_over: passed_over.map(str::to_owned),
                ..Explained::default()
            };
            (Some(queue), explained)
        };
        let one = summary(vec![
            answer(0, Selection::Ring, 1, Some("expired")),
            answer(1, Selection::Table, 1, None),
            answer(2, Selection::Ring, 2, Some("real-down")),
            answer(3, Selection::Ring, 2, None),
        ])
        .expect("an answer");
        assert_eq!((&*one.workers, &one.passed_over), (&[1][..], &None));
        let others = one.others.iter();
        let others: Vec<_> = others
            .map(|other| (&*other.workers, other.passed_over.as_deref()))
            .collect();
        assert_eq!(others, [(&[2][..], Some("real-down")), (&[3][..], None)]);

        let one = summary(vec![
            answer(0, Selection::Ring, 1, None),
            answer(1, Selection::Ring, 1, Some("expired")),
        ])
        .expect("an answer");
        assert_eq!(one.passed_over.as_deref(), Some("expired"));
    }

    #[test]
    fn a_page_takes_no_more_than_is_wanted_or_a_step_can_find() {
        let record = FlowRecord {
            id: FlowId::new(
                "192.0.2.1:4000".parse().unwrap(),
                "203.0.113.10:80".parse().unwrap(),
                Protocol::Tcp,
            )
            .unwrap(),
            real: RealId::NONE,
            real_address: None,
            last_use_ns: 0,
        };
        for (wanted, room) in [(1, 1), (STEP, STEP), (10_001, STEP)] {
            let mut page = Page::new(wanted);
            let memory = page.records.capacity();
            let mut taken = 0;
            while !page.is_full() {
                page.push(&record);
                taken += 1;
            }
            assert_eq!((taken, page.records.capacity()), (room, memory));
        }
    }
}
