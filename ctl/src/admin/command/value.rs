//! Values of arguments.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
};

use dataplane::{
    capture::{Event, Happened},
    counters::DropReason,
    service::{HashFunction, MAX_SERVER_ID, Protocol, RealSpec, VipFlags, VipKey},
};

use super::clip;
use crate::admin::AdminError;

/// A value that is not what its argument wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    problem: &'static str,
    remedy: String,
}

impl Invalid {
    fn new(problem: &'static str, remedy: impl Into<String>) -> Self {
        Self {
            problem,
            remedy: remedy.into(),
        }
    }

    /// The error that names argument and value.
    pub(super) fn of(self, name: &str, value: &str) -> AdminError {
        AdminError::new(
            name,
            format!("`{}` {}", clip(value), self.problem),
            self.remedy,
        )
    }
}

pub(super) fn parse_server_id(text: &str) -> Result<u32, Invalid> {
    parse_number(text)
        .ok()
        .filter(|id| (1..=MAX_SERVER_ID).contains(id))
        .ok_or_else(|| {
            Invalid::new(
                "is not a server id",
                format!("give a whole number from 1 to {MAX_SERVER_ID}"),
            )
        })
}

/// Reads a server id or a range of them: `4097`, `4097-4200`.
pub(super) fn parse_server_ids(text: &str) -> Result<RangeInclusive<u32>, Invalid> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (parse_server_id(first), parse_server_id(last)) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err(Invalid::new(
            "is neither a server id nor a range of them",
            format!("give whole numbers from 1 to {MAX_SERVER_ID}, as in 4097 or 4097-4200"),
        )),
    }
}

/// Reads the real of server ids, in whose place an id is easily written.
pub(super) fn parse_named_real(text: &str) -> Result<IpAddr, Invalid> {
    if parse_server_ids(text).is_ok() {
        return Err(Invalid::new(
            "is a server id, and the real comes first",
            "write sid add ADDR ID…",
        ));
    }
    parse_address(text)
}

/// Reads a mark: `7`, `0x7`.
pub(super) fn parse_mark(text: &str) -> Result<u32, Invalid> {
    let digits = text.strip_prefix("0x");
    let (digits, radix) = digits.map_or((text, 10), |digits| (digits, 16));
    // `from_str_radix` would take a sign.
    let is_number = digits.chars().all(|digit| digit.is_digit(radix));
    is_number
        .then(|| u32::from_str_radix(digits, radix).ok())
        .flatten()
        .filter(|&mark| mark != 0)
        .ok_or_else(|| {
            Invalid::new(
                "is not a mark",
                "give a whole number from 1 to 4294967295, as 7 or 0x7",
            )
        })
}

/// Reads `203.0.113.10:80/tcp`, `[2001:db8::1]:80/tcp` or `[2001:db8:a::/96]:0/udp`.
///
/// # Errors
///
/// What is wrong with it, for the argument that holds it.
pub fn parse_vip(text: &str) -> Result<VipKey, Invalid> {
    let form = || {
        Invalid::new(
            "is not a VIP",
            "write 203.0.113.10:80/tcp, [2001:db8::1]:80/tcp or [2001:db8:a::/96]:0/udp",
        )
    };
    let (endpoint, protocol) = text.rsplit_once('/').ok_or_else(form)?;
    let (host, port) = endpoint.rsplit_once(':').ok_or_else(form)?;
    let protocol = parse_protocol(protocol)?;
    let port = port
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| port.parse::<u16>().ok())
        .flatten()
        .ok_or_else(|| {
            Invalid::new(
                "has no valid port",
                "give a port from 0 to 65535; 0 is any port",
            )
        })?;
    let Some(inner) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    else {
        if host.contains('/') {
            return Err(Invalid::new(
                "is an IPv4 prefix",
                "only IPv6 VIPs can be prefixes; give a single IPv4 address",
            ));
        }
        let address = host.parse().map_err(|_| form())?;
        return Ok(VipKey::exact(IpAddr::V4(address), port, protocol));
    };
    let Some((address, length)) = inner.split_once('/') else {
        let address = inner.parse().map_err(|_| form())?;
        return Ok(VipKey::exact(IpAddr::V6(address), port, protocol));
    };
    let address: Ipv6Addr = address.parse().map_err(|_| form())?;
    let prefix_len = parse_number::<u8>(length)
        .ok()
        .filter(|length| (1..=128).contains(length))
        .ok_or_else(|| Invalid::new("has no valid prefix length", "give a length from 1 to 128"))?;
    let network =
        Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - u32::from(prefix_len))));
    if network != address {
        return Err(Invalid::new(
            "has bits set behind its prefix",
            format!("write [{network}/{prefix_len}]:{port}/{protocol}"),
        ));
    }
    Ok(VipKey {
        address: IpAddr::V6(address),
        prefix_len,
        port,
        protocol,
    })
}

pub(super) fn parse_protocol(text: &str) -> Result<Protocol, Invalid> {
    [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .find(|protocol| protocol.name() == text)
        .ok_or_else(|| Invalid::new("names no protocol", "write tcp or udp"))
}

pub(super) fn parse_address(text: &str) -> Result<IpAddr, Invalid> {
    text.parse().map_err(|_| {
        Invalid::new(
            "is not an IP address",
            "write an address as in 198.51.100.11 or 2001:db8::5",
        )
    })
}

/// Reads the real of a source route, in whose place a prefix is easily written.
pub(super) fn parse_route_real(text: &str) -> Result<IpAddr, Invalid> {
    if text.contains('/') && parse_prefix(text).is_ok() {
        return Err(Invalid::new(
            "is a prefix, and the real comes first",
            "write src-route add ADDR PREFIX…",
        ));
    }
    parse_address(text)
}

/// Reads `192.0.2.0/24`, `2001:db8::/32` or an address.
pub(super) fn parse_prefix(text: &str) -> Result<(IpAddr, u8), Invalid> {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().map_err(|_| {
        Invalid::new(
            "is not a prefix",
            "write one as in 192.0.2.0/24 or 2001:db8::/32",
        )
    })?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    if !text.contains('/') {
        return Ok((address, bits));
    }
    let length = parse_number::<u8>(length)
        .ok()
        .filter(|length| *length <= bits)
        .ok_or_else(|| {
            let remedy = format!("give a length from 0 to {bits}");
            Invalid::new("has no valid prefix length", remedy)
        })?;
    let network = crate::config::mask(address, length);
    if network != address {
        return Err(Invalid::new(
            "has bits set behind its prefix",
            format!("write {network}/{length}"),
        ));
    }
    Ok((address, length))
}

pub(super) fn parse_weight(text: &str) -> Result<u32, Invalid> {
    let remedy = format!("give a whole number from 0 to {}; 0 drains", u32::MAX);
    parse_number(text).map_err(|_| Invalid::new("is not a weight", remedy))
}

/// Reads `198.51.100.11` or `198.51.100.11@2`.
pub(super) fn parse_weighted_real(text: &str) -> Result<RealSpec, Invalid> {
    let form = || {
        Invalid::new(
            "is not a real",
            "write an address, and its weight as in 198.51.100.11@2",
        )
    };
    let (address, weight) = match text.split_once('@') {
        Some((address, weight)) => {
            let weight = parse_weight(weight).map_err(|invalid| Invalid {
                problem: "has no valid weight",
                ..invalid
            });
            (address, weight?)
        }
        None => (text, 1),
    };
    Ok(RealSpec {
        address: parse_address(address).map_err(|_| form())?,
        weight,
        local: false,
        down: false,
    })
}

pub(super) fn parse_number<T: FromStr>(text: &str) -> Result<T, Invalid> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| {
            Invalid::new(
                "is not a number that fits here",
                "give a whole number, 0 or more",
            )
        })
}

/// Reads `lru-miss`, `drop:fragment`, `vip:203.0.113.10` or `vip:203.0.113.10:80/tcp`.
pub(super) fn parse_event(text: &str) -> Result<Event, Invalid> {
    if let Some((_, happened)) = Happened::NAMES.iter().find(|(name, _)| *name == text) {
        return Ok(Event::Happened(*happened));
    }
    match text.split_once(':') {
        Some(("drop", reason)) => {
            let known = DropReason::ALL.iter().find(|known| known.name() == reason);
            known.map(|reason| Event::Drop(*reason)).ok_or_else(|| {
                let names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
                let names = names.join(", ");
                Invalid::new("names no drop reason", format!("reasons are: {names}"))
            })
        }
        Some(("vip", vip)) => match parse_address(vip) {
            Ok(address) => Ok(Event::Address(address)),
            Err(_) => parse_vip(vip).map(Event::Vip),
        },
        _ => {
            let names = Happened::NAMES.map(|(name, _)| name).join(", ");
            Err(Invalid::new(
                "is not an event",
                format!("events are: {names}, drop:REASON, vip:ADDR, vip:203.0.113.10:80/tcp"),
            ))
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as the others are")]
pub(super) fn parse_text(text: &str) -> Result<String, Invalid> {
    Ok(text.to_owned())
}

pub(super) fn parse_bool(text: &str) -> Result<bool, Invalid> {
    text.parse()
        .map_err(|_| Invalid::new("is neither true nor false", "write true or false"))
}

pub(super) fn parse_hash(text: &str) -> Result<HashFunction, Invalid> {
    HashFunction::from_name(text).ok_or_else(|| {
        let names = HashFunction::ALL.map(HashFunction::name).join(" or ");
        Invalid::new("is not a hash function", format!("write {names}"))
    })
}

pub(super) fn parse_flag(text: &str) -> Result<VipFlags, Invalid> {
    VipFlags::NAMES
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, flag)| *flag)
        .ok_or_else(|| {
            let names = VipFlags::NAMES.map(|(name, _)| name).join(", ");
            Invalid::new("is not a flag", format!("flags are: {names}"))
        })
}

/// Reads the name of a real's flag, of which there is one.
pub(super) fn parse_real_flag(text: &str) -> Result<(), Invalid> {
    match text {
        "local" => Ok(()),
        _ => Err(Invalid::new("is not a flag of reals", "write local")),
    }
}

pub(super) fn parse_endpoint(text: &str) -> Result<SocketAddr, Invalid> {
    let endpoint: SocketAddr = text.parse().map_err(|_| match text.rsplit_once('/') {
        // As VIPs are written.
        Some((endpoint, protocol)) if parse_protocol(protocol).is_ok() => Invalid::new(
            "has the protocol at its end",
            format!("write it apart, as in {endpoint} {protocol}"),
        ),
        _ => Invalid::new(
            "is not an endpoint",
            "write ADDRESS:PORT, as in 192.0.2.7:4000 or [2001:db8::7]:4000",
        ),
    })?;
    match endpoint {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => Err(Invalid::new(
            "has a scope",
            "leave the scope out: packets carry none",
        )),
        _ => Ok(endpoint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vips_are_written_as_they_are_read() {
        for text in [
            "203.0.113.10:80/tcp",
            "203.0.113.10:0/udp",
            "[2001:db8::1]:65535/tcp",
            "[2001:db8:a::/96]:0/udp",
            "[8000::/1]:53/udp",
        ] {
            assert_eq!(parse_vip(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn a_full_length_prefix_is_a_single_address() {
        assert_eq!(
            parse_vip("[2001:db8::1/128]:80/tcp"),
            parse_vip("[2001:db8::1]:80/tcp")
        );
    }

    #[test]
    fn events_are_written_as_they_are_read() {
        let reasons = DropReason::ALL.iter().map(|reason| reason.name());
        let drops = reasons.map(|name| format!("drop:{name}"));
        let happened = Happened::NAMES.map(|(name, _)| name.to_owned());
        let vips = [
            "vip:203.0.113.10",
            "vip:2001:db8::1",
            "vip:203.0.113.10:80/tcp",
            "vip:[2001:db8::1]:0/udp",
            "vip:[2001:db8:a::/96]:53/udp",
        ];
        for text in drops.chain(happened).chain(vips.map(str::to_owned)) {
            assert_eq!(parse_event(&text).expect(&text).to_string(), text);
        }
    }
}
