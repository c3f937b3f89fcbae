//! VIP and real numbers come from the front of a list and go back to its end (katran-compat section
//! 3.6), so that a number which was given back is the last to be used again.

mod common;

use common::{settings, vip};
use dataplane::service::{Protocol, ServiceControl, ServiceSpec, ServiceTable, VipFlags, VipSpec};

fn tcp_vip(port: u16, reals: &[&str]) -> VipSpec {
    vip(
        "203.0.113.10",
        port,
        Protocol::Tcp,
        VipFlags::empty(),
        reals,
    )
}

fn services(vips: Vec<VipSpec>) -> ServiceSpec {
    ServiceSpec {
        settings: settings(),
        vips,
        ..ServiceSpec::default()
    }
}

/// Indices of the reals that a VIP's ring names, by address.
fn reals_in_use(table: &ServiceTable) -> Vec<(String, usize)> {
    let used = |index: usize| {
        table.vips().any(|vip| {
            vip.ring
                .slots()
                .iter()
                .any(|slot| usize::from(*slot) == index)
        })
    };
    let mut reals: Vec<(String, usize)> = table
        .reals()
        .filter(|real| used(real.id.index()))
        .map(|real| (real.address.to_string(), real.id.index()))
        .collect();
    reals.sort();
    reals
}

#[test]
fn a_released_real_number_is_the_last_to_be_given_again() {
    let mut control = ServiceControl::new();
    let mut numbers = |reals: &[&str]| {
        let table = control.apply(&services(vec![tcp_vip(80, reals)])).unwrap();
        reals_in_use(&table)
            .into_iter()
            .map(|(_, index)| index)
            .collect::<Vec<usize>>()
    };
    let [one, two, three, four, five] =
        ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"];
    assert_eq!(numbers(&[one, two, three]), [1, 2, 3]);
    assert_eq!(numbers(&[one, three]), [1, 3]);
    assert_eq!(numbers(&[one, three, four]), [1, 3, 4], "not 2 again");
    // References are taken before others are given back.
    assert_eq!(numbers(&[one, four, five]), [1, 4, 5]);
    // Until a number is given to another address, flows may still use it for its old one.
    let all = [one, two, three, four, five];
    assert_eq!(numbers(&all), [1, 2, 3, 4, 5]);
}

#[test]
fn a_real_that_moves_between_vips_keeps_its_number() {
    let mut control = ServiceControl::new();
    let (a, b) = ("10.0.0.1", "10.0.0.2");
    let before = services(vec![tcp_vip(80, &[a, b]), tcp_vip(81, &[b])]);
    let before = reals_in_use(&control.apply(&before).unwrap());
    let after = services(vec![tcp_vip(82, &[a]), tcp_vip(83, &[b])]);
    let after = reals_in_use(&control.apply(&after).unwrap());
    assert_eq!(before, after);
}

#[test]
fn a_released_vip_number_is_the_last_to_be_given_again() {
    let mut control = ServiceControl::new();
    let mut numbers = |ports: &[u16]| {
        let vips = ports.iter().map(|port| tcp_vip(*port, &[])).collect();
        let table = control.apply(&services(vips)).unwrap();
        let mut numbers: Vec<(u16, u16)> =
            table.vips().map(|vip| (vip.key.port, vip.number)).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(numbers(&[1, 2, 3]), [(1, 0), (2, 1), (3, 2)]);
    assert_eq!(numbers(&[1, 3]), [(1, 0), (3, 2)]);
    assert_eq!(numbers(&[1, 3, 4]), [(1, 0), (3, 2), (4, 3)]);
    assert_eq!(numbers(&[1, 2, 3, 4]), [(1, 0), (2, 4), (3, 2), (4, 3)]);

    // Numbers 5 to 511 are used up, then comes 1, the only one that is free.
    let most: Vec<u16> = (1..=511).collect();
    assert_eq!(numbers(&most).len(), 511);
    let all: Vec<u16> = (1..=512).collect();
    assert!(numbers(&all).contains(&(512, 1)));
}
