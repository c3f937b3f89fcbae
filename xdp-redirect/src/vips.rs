//! VIPs as the `redirect` program finds them: what its maps hold, and how one content becomes
//! another while packets flow.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use xdp_layout::{
    AddressKey, FAMILY_V4, FAMILY_V6, MAX_TUNNEL_DESTINATIONS, MAX_VIPS, PREFIX_KEY_HEAD_BITS,
    PrefixKey, Tag, VipKey,
};

/// A VIP whose packets go to the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VipEntry {
    /// Destination address; of a prefix, its first address.
    pub address: IpAddr,
    /// Bits of the address that count: 32 for IPv4, 1 to 128 for IPv6.
    pub prefix_len: u8,
    /// Destination port; zero is any.
    pub port: u16,
    /// IP protocol number: 6 (TCP) or 17 (UDP).
    pub protocol: u8,
    /// Goes into [`Tag::generation`].
    pub generation: u32,
    /// Goes into [`Tag::vip`].
    pub vip: u16,
    /// Bytes of room that the VIP's encapsulation needs in front of the Ethernet header, at least
    /// [`Tag::SIZE`]. Drivers leave about 200.
    pub room: u8,
}

impl fmt::Display for VipEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) if self.prefix_len == 32 => write!(f, "{address}")?,
            IpAddr::V6(address) if self.prefix_len == 128 => write!(f, "[{address}]")?,
            address => write!(f, "[{address}/{}]", self.prefix_len)?,
        }
        match self.protocol {
            6 => write!(f, ":{}/tcp", self.port),
            17 => write!(f, ":{}/udp", self.port),
            other => write!(f, ":{}/{other}", self.port),
        }
    }
}

/// VIPs that the maps could not take.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VipError {
    /// An entry makes no sense; nothing was changed.
    #[error("VIP {entry}: {reason}")]
    Invalid {
        /// The entry.
        entry: VipEntry,
        /// Field, value and remedy.
        reason: String,
    },
    /// More entries than the maps hold; nothing was changed.
    #[error("{0} VIPs are more than the {MAX_VIPS} that can be held")]
    TooMany(usize),
    /// More decap destinations than the map holds; nothing was changed.
    #[error("{0} decap destinations are more than the {MAX_TUNNEL_DESTINATIONS} that can be held")]
    TooManyTunnels(usize),
    /// The kernel refused a change.
    #[error(
        "cannot {action}: {source}; {}",
        if *left == 0 {
            "the maps hold what they held before".to_owned()
        } else {
            format!("{left} of the changes made before it could not be taken back")
        }
    )]
    Map {
        /// What was to be done.
        action: String,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Changes that could not be taken back: zero if the previous content is restored.
        left: usize,
    },
}

/// A place in one of the maps. The order is the one in which places are filled: what finds a VIP
/// comes before what sends packets there to look. Places are emptied in the opposite order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A VIP by address, port and protocol.
    Vip([u8; VipKey::SIZE]),
    /// A VIP by prefix: length in bits, and key.
    VipPrefix(u32, [u8; PrefixKey::SIZE]),
    /// The flag that some VIP is a prefix; it is there or not, whatever its value.
    HasPrefixes,
    /// A prefix that some VIP has: length in bits, and key.
    AddressPrefix(u32, [u8; PrefixKey::SIZE]),
    /// An address that some VIP has.
    Address([u8; AddressKey::SIZE]),
    /// GUE's port, in the first two bytes of the value.
    GuePort,
    /// A decap destination.
    Tunnel([u8; AddressKey::SIZE]),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vip(_) => "a VIP",
            Self::VipPrefix(..) => "a prefix VIP",
            Self::HasPrefixes => "the flag of prefix VIPs",
            Self::AddressPrefix(..) => "the prefix of a VIP",
            Self::Address(_) => "the address of a VIP",
            Self::GuePort => "the port of GUE",
            Self::Tunnel(_) => "a decap destination",
        })
    }
}

/// Value of every place.
pub(crate) type Value = [u8; Tag::SIZE];

/// What the maps hold.
pub(crate) type Content = BTreeMap<Place, Value>;

/// The maps, as [`transition`] sees them.
pub(crate) trait Store {
    type Error: std::error::Error + Send + Sync + 'static;

    fn put(&mut self, place: &Place, value: Value) -> Result<(), Self::Error>;
    fn remove(&mut self, place: &Place) -> Result<(), Self::Error>;
}

/// What the maps are to hold for these VIPs.
pub(crate) fn content(entries: &[VipEntry]) -> Result<Content, VipError> {
    if entries.len() > MAX_VIPS as usize {
        return Err(VipError::TooMany(entries.len()));
    }
    let mut content = Content::new();
    for entry in entries {
        validate(entry)?;
        let tag = Tag {
            generation: entry.generation,
            vip: entry.vip,
            room: entry.room,
            zero: 0,
        };
        let (vip, address) = places(entry);
        if content.insert(vip, tag.to_bytes()).is_some() {
            return Err(VipError::Invalid {
                entry: *entry,
                reason: "is given twice".into(),
            });
        }
        if matches!(vip, Place::VipPrefix(..)) {
            content.insert(Place::HasPrefixes, [0; Tag::SIZE]);
        }
        let room = content
            .get(&address)
            .map_or(0, |value| Tag::from_bytes(*value).room)
            .max(entry.room);
        let tag = Tag {
            generation: 0,
            vip: Tag::NO_VIP,
            room,
            zero: 0,
        };
        content.insert(address, tag.to_bytes());
    }
    Ok(content)
}

fn validate(entry: &VipEntry) -> Result<(), VipError> {
    let reason = if entry.protocol != 6 && entry.protocol != 17 {
        format!(
            "protocol {} is neither 6 (TCP) nor 17 (UDP)",
            entry.protocol
        )
    } else if usize::from(entry.room) < Tag::SIZE {
        format!(
            "room of {} bytes is less than the {} of the tag",
            entry.room,
            Tag::SIZE
        )
    } else if entry.vip == Tag::NO_VIP {
        format!("number {} means that there is no VIP", entry.vip)
    } else {
        match entry.address {
            IpAddr::V4(_) if entry.prefix_len == 32 => return Ok(()),
            IpAddr::V4(_) => "an IPv4 VIP cannot be a prefix: its length must be 32".into(),
            IpAddr::V6(address) => match entry.prefix_len {
                1..=128 if masked(address, entry.prefix_len) == address => return Ok(()),
                length @ 1..=128 => format!(
                    "the address has bits beyond the prefix: the first address is {}",
                    masked(address, length)
                ),
                length => format!("prefix length {length} is not in 1..=128"),
            },
        }
    };
    Err(VipError::Invalid {
        entry: *entry,
        reason,
    })
}

fn masked(address: Ipv6Addr, length: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & mask)
}

/// Places of the VIP itself and of its address.
pub(crate) fn places(entry: &VipEntry) -> (Place, Place) {
    let port = entry.port.to_be_bytes();
    let (address, family) = match entry.address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            (bytes, FAMILY_V4)
        }
        IpAddr::V6(address) => (address.octets(), FAMILY_V6),
    };
    if family == FAMILY_V6 && entry.prefix_len < 128 {
        let length = PREFIX_KEY_HEAD_BITS + u32::from(entry.prefix_len);
        let key = |port, protocol| {
            PrefixKey {
                port,
                protocol,
                zero: 0,
                address,
            }
            .to_bytes()
        };
        return (
            Place::VipPrefix(length, key(port, entry.protocol)),
            Place::AddressPrefix(length, key([0; 2], 0)),
        );
    }
    let vip = VipKey {
        address,
        port,
        protocol: entry.protocol,
        family,
    };
    let address = AddressKey {
        address,
        family,
        zero: [0; 3],
    };
    (
        Place::Vip(vip.to_bytes()),
        Place::Address(address.to_bytes()),
    )
}

/// Makes the maps hold `wanted`, by difference: additions and changes first, removals last. If a
/// step fails, those before it are taken back. `held` is what the maps hold, at any moment.
pub(crate) fn transition<S: Store>(
    store: &mut S,
    held: &mut Content,
    wanted: &Content,
) -> Result<(), VipError> {
    let filled = wanted
        .iter()
        .filter(|(place, value)| held.get(place) != Some(value))
        .map(|(place, value)| (*place, Some(*value)));
    let emptied = held
        .keys()
        .rev()
        .filter(|place| !wanted.contains_key(place))
        .map(|place| (*place, None));
    let steps: Vec<_> = filled.chain(emptied).collect();

    let mut done = Vec::with_capacity(steps.len());
    for (place, value) in steps {
        let before = held.get(&place).copied();
        match step(store, held, place, value) {
            Ok(()) => done.push((place, before)),
            Err(source) => {
                let left = done
                    .into_iter()
                    .rev()
                    .filter(|&(place, before)| step(store, held, place, before).is_err())
                    .count();
                let verb = if value.is_some() { "write" } else { "remove" };
                return Err(VipError::Map {
                    action: format!("{verb} {place}"),
                    source: Box::new(source),
                    left,
                });
            }
        }
    }
    Ok(())
}

fn step<S: Store>(
    store: &mut S,
    held: &mut Content,
    place: Place,
    value: Option<Value>,
) -> Result<(), S::Error> {
    if let Some(value) = value {
        store.put(&place, value)?;
        held.insert(place, value);
    } else {
        store.remove(&place)?;
        held.remove(&place);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;

    use proptest::prelude::*;

    use super::*;

    /// Maps in memory, of which every operation after the first `works` fails.
    #[derive(Default)]
    struct Memory {
        content: Content,
        works: Option<usize>,
        /// How many of the failing operations fail before the store works again.
        fails: usize,
        log: Vec<(Place, bool)>,
    }

    impl Memory {
        fn tick(&mut self) -> io::Result<()> {
            match &mut self.works {
                Some(0) if self.fails > 0 => {
                    self.fails -= 1;
                    Err(io::Error::from_raw_os_error(libc::ENOMEM))
                }
                Some(0) | None => Ok(()),
                Some(count) => {
                    *count -= 1;
                    Ok(())
                }
            }
        }
    }

    impl Store for Memory {
        type Error = io::Error;

        fn put(&mut self, place: &Place, value: Value) -> io::Result<()> {
            self.tick()?;
            self.content.insert(*place, value);
            self.log.push((*place, true));
            Ok(())
        }

        fn remove(&mut self, place: &Place) -> io::Result<()> {
            self.tick()?;
            assert!(
                self.content.remove(place).is_some(),
                "{place} was not there"
            );
            self.log.push((*place, false));
            Ok(())
        }
    }

    fn entry(address: &str, port: u16, vip: u16) -> VipEntry {
        let address: IpAddr = address.parse().expect("an address");
        VipEntry {
            address,
            prefix_len: if address.is_ipv4() { 32 } else { 128 },
            port,
            protocol: 6,
            generation: 1,
            vip,
            room: 20,
        }
    }

    fn tag_of(content: &Content, place: &Place) -> Tag {
        Tag::from_bytes(content[place])
    }

    #[test]
    fn an_address_has_the_largest_room_of_its_vips() {
        let mut wide = entry("192.0.2.1", 443, 2);
        wide.room = 48;
        let narrow = entry("192.0.2.1", 80, 1);
        for entries in [[narrow, wide], [wide, narrow]] {
            let content = content(&entries).expect("valid");
            assert_eq!(content.len(), 3);
            let tag = tag_of(&content, &places(&narrow).1);
            assert_eq!((tag.room, tag.vip), (48, Tag::NO_VIP));
            assert_eq!(tag_of(&content, &places(&narrow).0).room, 20);
        }
    }

    #[test]
    fn prefixes_raise_the_flag() {
        let mut prefix = entry("2001:db8::", 0, 3);
        prefix.prefix_len = 64;
        let content = content(&[prefix, entry("2001:db8::", 0, 4)]).expect("valid");
        assert!(content.contains_key(&Place::HasPrefixes));
        let lengths: Vec<_> = content
            .keys()
            .filter_map(|place| match place {
                Place::VipPrefix(length, _) | Place::AddressPrefix(length, _) => Some(*length),
                _ => None,
            })
            .collect();
        assert_eq!(lengths, [96, 96]);
    }

    #[test]
    fn senseless_entries_are_refused() {
        let good = entry("2001:db8::1", 80, 1);
        let v4 = entry("192.0.2.1", 80, 1);
        let refused = [
            (
                VipEntry {
                    protocol: 1,
                    ..good
                },
                "neither 6 (TCP) nor 17",
            ),
            (VipEntry { room: 7, ..good }, "room of 7 bytes"),
            (
                VipEntry {
                    vip: Tag::NO_VIP,
                    ..good
                },
                "number 65535",
            ),
            (
                VipEntry {
                    prefix_len: 24,
                    ..v4
                },
                "must be 32",
            ),
            (
                VipEntry {
                    prefix_len: 0,
                    ..good
                },
                "prefix length 0",
            ),
            (
                VipEntry {
                    prefix_len: 129,
                    ..good
                },
                "prefix length 129",
            ),
            (
                VipEntry {
                    prefix_len: 64,
                    ..good
                },
                "first address is 2001:db8::",
            ),
        ];
        for (entry, reason) in refused {
            let error = content(&[entry]).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
            assert!(error.starts_with("VIP ["), "{error}");
        }
        let twice = content(&[good, VipEntry { vip: 9, ..good }]).expect_err("given twice");
        assert_eq!(
            twice.to_string(),
            "VIP [2001:db8::1]:80/tcp: is given twice"
        );
        let many = vec![good; MAX_VIPS as usize + 1];
        assert!(matches!(content(&many), Err(VipError::TooMany(513))));
    }

    #[test]
    fn filling_comes_before_emptying() {
        let before = content(&[entry("192.0.2.1", 80, 1)]).expect("valid");
        let after = content(&[entry("192.0.2.2", 80, 2)]).expect("valid");
        let mut store = Memory {
            content: before.clone(),
            ..Memory::default()
        };
        let mut held = before;
        transition(&mut store, &mut held, &after).expect("works");
        let order: Vec<_> = store
            .log
            .iter()
            .map(|(place, put)| (matches!(place, Place::Address(_)), *put))
            .collect();
        assert_eq!(
            order,
            [(false, true), (true, true), (true, false), (false, false)]
        );
    }

    #[test]
    fn an_equal_content_touches_nothing() {
        let wanted = content(&[entry("192.0.2.1", 80, 1)]).expect("valid");
        let mut store = Memory::default();
        let mut held = wanted.clone();
        transition(&mut store, &mut held, &wanted).expect("works");
        assert!(store.log.is_empty());
    }

    fn any_entry() -> impl Strategy<Value = VipEntry> {
        (0..4_u8, 0..3_u16, any::<bool>(), 0..9_u16, 0..3_u32).prop_map(
            |(address, port, tcp, vip, generation)| {
                let (address, prefix_len) = match address {
                    0 => (IpAddr::from([192, 0, 2, 1]), 32),
                    1 => (IpAddr::from([192, 0, 2, 2]), 32),
                    2 => (IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]), 128),
                    _ => (IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0]), 64),
                };
                VipEntry {
                    address,
                    prefix_len,
                    port,
                    protocol: if tcp { 6 } else { 17 },
                    generation,
                    vip,
                    room: 20 + vip as u8,
                }
            },
        )
    }

    fn any_content() -> impl Strategy<Value = Content> {
        proptest::collection::vec(any_entry(), 0..12).prop_map(|mut entries| {
            let mut seen = std::collections::HashSet::new();
            entries.retain(|entry| seen.insert((entry.address, entry.port, entry.protocol)));
            content(&entries).expect("valid")
        })
    }

    proptest! {
        #[test]
        fn the_maps_become_what_is_wanted(before in any_content(), wanted in any_content()) {
            let mut store = Memory { content: before.clone(), ..Memory::default() };
            let mut held = before;
            transition(&mut store, &mut held, &wanted).expect("works");
            prop_assert_eq!(&store.content, &wanted);
            prop_assert_eq!(&held, &wanted);
        }

        #[test]
        fn a_failure_restores_what_was_there(
            before in any_content(),
            wanted in any_content(),
            works in 0..20_usize,
        ) {
            let mut store = Memory {
                content: before.clone(),
                works: Some(works),
                fails: 1,
                ..Memory::default()
            };
            let mut held = before.clone();
            match transition(&mut store, &mut held, &wanted) {
                Ok(()) => prop_assert_eq!(&store.content, &wanted),
                Err(VipError::Map { left, .. }) => {
                    prop_assert_eq!(left, 0);
                    prop_assert_eq!(&store.content, &before);
                }
                Err(error) => prop_assert!(false, "{}", error),
            }
            prop_assert_eq!(&held, &store.content);
        }

        #[test]
        fn a_lasting_failure_is_told(
            before in any_content(),
            wanted in any_content(),
            works in 0..20_usize,
        ) {
            let mut store = Memory {
                content: before.clone(),
                works: Some(works),
                fails: usize::MAX,
                ..Memory::default()
            };
            let mut held = before;
            if let Err(error) = transition(&mut store, &mut held, &wanted) {
                let VipError::Map { left, .. } = &error else {
                    return Err(TestCaseError::fail(error.to_string()));
                };
                prop_assert_eq!(*left, works);
                let restored = error.to_string().contains("what they held before");
                prop_assert_eq!(restored, works == 0);
            }
            prop_assert_eq!(&held, &store.content);
        }
    }
}
