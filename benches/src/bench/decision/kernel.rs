//! The in-kernel balancer alone, run by the kernel over one packet again and again.
//!
//! The driver in front of it restores the packet and makes it one of the next flow; what the driver
//! takes is measured in the same way, with a program that does nothing behind it, and subtracted. The
//! packet is in the CPU's first cache all the time, which favours this side of the comparison.

use anyhow::{Context, Result, ensure};
use dataplane::service::ServiceControl;
use xdp_redirect::{BalancerEvent, BalancerTestBed, Case as BedCase};

use crate::bench::{
    asked::Asked,
    frame::{self, Segment},
    row::{Case, IpFamily},
    services,
};

const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0xcc, 3];
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0xaa, 1];

/// The program with its driver, and a table of this CPU's.
pub(crate) struct InKernel {
    bed: BalancerTestBed,
    family: IpFamily,
    flows: u64,
    is_full: bool,
}

impl InKernel {
    /// A balancer whose table knows flows 0 to `flows`. It belongs to the CPU that the calling thread is
    /// on, and must stay on.
    pub(crate) fn new(family: IpFamily, flows: u64) -> Result<Self> {
        let table = ServiceControl::new().apply(&services::services(NEXT_HOP))?;
        let balancer = services::in_kernel(&table, flows)?;
        let mut bed = BalancerTestBed::new(balancer)?;
        bed.warm_up(&template(family, Segment::Ack), flows)?;
        Ok(Self {
            bed,
            family,
            flows,
            is_full: false,
        })
    }

    /// Decides `packets` packets or, of hits, one of each flow at least; nanoseconds per packet.
    pub(crate) fn sample(&mut self, case: Case, packets: u64) -> Result<f64> {
        let (bed_case, segment, packets) = match case {
            Case::Hit => (
                BedCase::Flows(self.flows),
                Segment::Ack,
                packets.max(self.flows),
            ),
            Case::New => (BedCase::New, Segment::Syn, packets),
        };
        let frame = template(self.family, segment);
        if case == Case::New && !self.is_full {
            self.bed
                .cost(&frame, bed_case, whole(self.flows + self.flows / 2)?)?;
            self.is_full = true;
        }
        let before = self.asked()?;
        let stored_before = self.stored()?;
        let cost = self.bed.cost(&frame, bed_case, whole(packets)?)?;
        self.asked()?.check(before, case, packets)?;
        let stored = self.stored()? - stored_before;
        ensure!(
            case == Case::Hit || stored == packets,
            "the counters do not add up: of {packets} new flows the table took {stored}"
        );
        ensure!(
            cost.total_ns > cost.driver_ns,
            "the kernel says that a decision takes no time ({cost:?})"
        );
        Ok(cost.ns())
    }

    /// Flows that entered the table.
    fn stored(&self) -> Result<u64> {
        let counters = self.bed.balancer().counters()?;
        Ok(counters.event(BalancerEvent::FlowInserts))
    }

    fn asked(&self) -> Result<Asked> {
        let counters = self.bed.balancer().counters()?;
        Ok(Asked {
            received: counters.received().packets,
            ring: counters.event(BalancerEvent::RingSelections),
        })
    }
}

fn template(family: IpFamily, segment: Segment) -> Vec<u8> {
    frame::template(family, segment, OWN_MAC, NEXT_HOP)
}

fn whole(packets: u64) -> Result<u32> {
    u32::try_from(packets).context("too many packets for one measurement of the kernel's")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bench::on_one_cpu, lab::requirements};

    #[test]
    fn hits_hit_and_new_flows_are_new() {
        if !requirements::met_or_skip("hits_hit_and_new_flows_are_new", &[]) {
            return;
        }
        on_one_cpu(|_| {
            for &family in IpFamily::ALL {
                let mut bench = InKernel::new(family, 1000)?;
                for case in [Case::Hit, Case::New, Case::New] {
                    assert!(bench.sample(case, 20_000)? > 0.0, "{family} {case}");
                }
            }
            Ok(())
        })
        .expect("counters add up");
    }
}
