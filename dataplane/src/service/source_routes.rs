//! Client prefixes that select reals.
//!
//! A set of routes never changes: whoever changes it makes a new one. So configurations, desired
//! states and tables of which none touches the routes share one, and nobody checks it again.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, LazyLock},
};

use ahash::RandomState;
use hashbrown::{HashMap, HashSet};

use super::{
    first_few::first_few,
    prefix_table::{PrefixTable, PrefixTableV4, PrefixTableV6},
    range_table::Key,
    spec::SourceRouteSpec,
    table::MAX_REALS,
};

/// Routes that a set can hold (katran-compat section 1).
pub const MAX_SOURCE_ROUTES: usize = 3_000_000;

/// Why a route cannot be in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceRouteError {
    /// The prefix is longer than an address of its family.
    #[error("the prefix length is out of range")]
    Length,
    /// Bits behind the prefix are set.
    #[error("the prefix has host bits set")]
    HostBits,
    /// IPv6 clients, and a real that they cannot be sent to.
    #[error("an IPv4 real cannot serve IPv6 clients")]
    Family,
    /// Another route, at this place of the list, has the same prefix.
    #[error("the prefix is that of another route")]
    Twice(usize),
    /// There are more than [`MAX_SOURCE_ROUTES`].
    #[error("{MAX_SOURCE_ROUTES} source routes are the most there can be")]
    TooMany,
    /// More reals than there are numbers.
    #[error("the routes have more than {} different reals", MAX_REALS - 1)]
    TooManyReals,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route<K> {
    start: K,
    prefix_len: u8,
    /// Place in [`Side::reals`].
    real: u16,
}

/// Routes of one family of clients.
struct Side<T: PrefixTable> {
    /// In ascending order of address, then of length.
    routes: Box<[Route<T::Key>]>,
    /// Each once.
    reals: Box<[IpAddr]>,
    table: T,
}

impl<T: PrefixTable> Side<T> {
    /// Routes in ascending order, each prefix once.
    fn new(routes: impl Iterator<Item = (T::Key, u8, IpAddr)>) -> Self {
        let mut places: HashMap<IpAddr, u16, RandomState> = HashMap::default();
        let mut reals = Vec::new();
        let mut sorted = Vec::new();
        for (start, prefix_len, real) in routes {
            let place = *places.entry(real).or_insert_with(|| {
                reals.push(real);
                (reals.len() - 1) as u16
            });
            sorted.push(Route {
                start,
                prefix_len,
                real: place,
            });
        }
        let prefixes = sorted
            .iter()
            .map(|route| (route.start, route.prefix_len, route.real));
        Self {
            table: T::new(prefixes),
            routes: sorted.into(),
            reals: reals.into(),
        }
    }

    /// The longest route that covers the address. For people; packets ask `table`.
    fn covering(&self, address: T::Key) -> Option<&Route<T::Key>> {
        (0..=T::Key::BITS).rev().find_map(|prefix_len| {
            let wanted = (address.first(prefix_len), prefix_len);
            let place = self.routes.binary_search_by_key(&wanted, order).ok()?;
            self.routes.get(place)
        })
    }

    /// Routes whose prefix lies in this one.
    fn within(&self, address: T::Key, prefix_len: u8) -> impl Iterator<Item = &Route<T::Key>> {
        let (first, last) = (address.first(prefix_len), address.last(prefix_len));
        let from = self.routes.partition_point(|route| route.start < first);
        let routes = self.routes[from..].iter();
        routes
            .take_while(move |route| route.start <= last)
            .filter(move |route| route.prefix_len >= prefix_len)
    }

    fn without(&self, prefixes: &HashSet<(IpAddr, u8), RandomState>) -> Self
    where
        T::Key: Into<IpNumber>,
    {
        let routes = self.routes.iter().filter(|route| {
            let prefix = (route.start.into().address(), route.prefix_len);
            !prefixes.contains(&prefix)
        });
        Self::new(routes.map(|route| {
            let real = self.reals[usize::from(route.real)];
            (route.start, route.prefix_len, real)
        }))
    }

    fn spec(&self, route: &Route<T::Key>) -> SourceRouteSpec
    where
        T::Key: Into<IpNumber>,
    {
        SourceRouteSpec {
            prefix: route.start.into().address(),
            prefix_len: route.prefix_len,
            real: self.reals[usize::from(route.real)],
        }
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.routes) + self.table.memory_bytes()
    }
}

const fn order<K: Copy>(route: &Route<K>) -> (K, u8) {
    (route.start, route.prefix_len)
}

/// An address of either family as a number.
enum IpNumber {
    V4(u32),
    V6(u128),
}

impl IpNumber {
    const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6(v6.to_bits()),
        }
    }

    const fn address(self) -> IpAddr {
        match self {
            Self::V4(bits) => IpAddr::V4(Ipv4Addr::from_bits(bits)),
            Self::V6(bits) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        }
    }
}

impl From<u32> for IpNumber {
    fn from(bits: u32) -> Self {
        Self::V4(bits)
    }
}

impl From<u128> for IpNumber {
    fn from(bits: u128) -> Self {
        Self::V6(bits)
    }
}

struct Routes {
    v4: Side<PrefixTableV4>,
    v6: Side<PrefixTableV6>,
}

/// A set of source routes, valid and ready to be looked up in. A copy shares what it was copied from.
#[derive(Clone)]
pub struct SourceRoutes(Arc<Routes>);

/// Routes by family, with the place of each in the list they come from.
type Sorted<K> = Vec<(K, u8, IpAddr, usize)>;

impl SourceRoutes {
    /// Checks routes and builds the tables.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, each with the route's place in the list.
    pub fn new(
        routes: impl IntoIterator<Item = SourceRouteSpec>,
    ) -> Result<Self, Vec<(usize, SourceRouteError)>> {
        let mut errors = Vec::new();
        let (mut v4, mut v6): (Sorted<u32>, Sorted<u128>) = (Vec::new(), Vec::new());
        for (place, route) in routes.into_iter().enumerate() {
            if place >= MAX_SOURCE_ROUTES {
                errors.push((place, SourceRouteError::TooMany));
                break;
            }
            if let Err(error) = validate(&route) {
                errors.push((place, error));
            }
            let SourceRouteSpec {
                prefix,
                prefix_len,
                real,
            } = route;
            match IpNumber::of(prefix) {
                IpNumber::V4(start) => v4.push((start, prefix_len, real, place)),
                IpNumber::V6(start) => v6.push((start, prefix_len, real, place)),
            }
        }
        let v4 = side(v4, &mut errors);
        let v6 = side(v6, &mut errors);
        match (v4, v6) {
            (Some(v4), Some(v6)) if errors.is_empty() => Ok(Self(Arc::new(Routes { v4, v6 }))),
            _ => {
                errors.sort_by_key(|(place, _)| *place);
                Err(errors)
            }
        }
    }

    /// These routes and more. A prefix that is there already gets the new real.
    ///
    /// # Errors
    ///
    /// As for [`Self::new`]; places are those in `added`.
    pub fn with(&self, added: &[SourceRouteSpec]) -> Result<Self, Vec<(usize, SourceRouteError)>> {
        let prefixes: HashSet<(IpAddr, u8), RandomState> = added
            .iter()
            .map(|route| (route.prefix, route.prefix_len))
            .collect();
        let kept = self
            .iter()
            .filter(|route| !prefixes.contains(&(route.prefix, route.prefix_len)));
        Self::new(added.iter().copied().chain(kept))
    }

    /// These routes without some prefixes.
    ///
    /// # Errors
    ///
    /// The first prefix that has no route.
    pub fn without(&self, removed: &[(IpAddr, u8)]) -> Result<Self, (IpAddr, u8)> {
        if let Some(missing) = removed.iter().find(|prefix| !self.contains(prefix)) {
            return Err(*missing);
        }
        let removed: HashSet<(IpAddr, u8), RandomState> = removed.iter().copied().collect();
        let Routes { v4, v6 } = &*self.0;
        // What is a part of a valid set is one.
        Ok(Self(Arc::new(Routes {
            v4: v4.without(&removed),
            v6: v6.without(&removed),
        })))
    }

    fn contains(&self, (prefix, prefix_len): &(IpAddr, u8)) -> bool {
        let Routes { v4, v6 } = &*self.0;
        match IpNumber::of(*prefix) {
            IpNumber::V4(start) => {
                let wanted = (start, *prefix_len);
                v4.routes.binary_search_by_key(&wanted, order).is_ok()
            }
            IpNumber::V6(start) => {
                let wanted = (start, *prefix_len);
                v6.routes.binary_search_by_key(&wanted, order).is_ok()
            }
        }
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.0.v4.routes.len() + self.0.v6.routes.len()
    }

    /// No routes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All routes: IPv4 first, in ascending order of address and then of length.
    pub fn iter(&self) -> impl Iterator<Item = SourceRouteSpec> {
        let Routes { v4, v6 } = &*self.0;
        let v4_routes = v4.routes.iter().map(|route| v4.spec(route));
        v4_routes.chain(v6.routes.iter().map(|route| v6.spec(route)))
    }

    /// Routes whose prefix lies in this one, in order.
    pub fn within(&self, prefix: IpAddr, prefix_len: u8) -> Vec<SourceRouteSpec> {
        let Routes { v4, v6 } = &*self.0;
        match IpNumber::of(prefix) {
            IpNumber::V4(start) => {
                let routes = v4.within(start, prefix_len);
                routes.map(|route| v4.spec(route)).collect()
            }
            IpNumber::V6(start) => {
                let routes = v6.within(start, prefix_len);
                routes.map(|route| v6.spec(route)).collect()
            }
        }
    }

    /// The route of a client: that with the longest prefix.
    pub fn route_of(&self, client: IpAddr) -> Option<SourceRouteSpec> {
        let Routes { v4, v6 } = &*self.0;
        match IpNumber::of(client) {
            IpNumber::V4(address) => v4.covering(address).map(|route| v4.spec(route)),
            IpNumber::V6(address) => v6.covering(address).map(|route| v6.spec(route)),
        }
    }

    /// Reals of the routes of IPv4 or of IPv6 clients, each once.
    pub fn reals(&self, of_v4: bool) -> &[IpAddr] {
        if of_v4 {
            &self.0.v4.reals
        } else {
            &self.0.v6.reals
        }
    }

    /// Place in [`Self::reals`] of the real for an IPv4 client.
    #[inline]
    pub fn select_v4(&self, client: [u8; 4]) -> Option<u16> {
        self.0.v4.table.get(u32::from_be_bytes(client))
    }

    /// Place in [`Self::reals`] of the real for an IPv6 client.
    #[inline]
    pub fn select_v6(&self, client: [u8; 16]) -> Option<u16> {
        self.0.v6.table.get(u128::from_be_bytes(client))
    }

    /// As [`Self::select_v4`], for each client: 1 more than the place, or 0. Each of many look-ups takes
    /// less together than by itself.
    pub fn select_each_v4(&self, clients: &[[u8; 4]], places: &mut [u32]) {
        let table = &self.0.v4.table;
        table.get_each(clients, u32::from_be_bytes, places);
    }

    /// As [`Self::select_each_v4`], for IPv6 clients.
    pub fn select_each_v6(&self, clients: &[[u8; 16]], places: &mut [u32]) {
        let table = &self.0.v6.table;
        table.get_each(clients, u128::from_be_bytes, places);
    }

    /// Bytes it takes.
    pub fn memory_bytes(&self) -> usize {
        self.0.v4.memory_bytes() + self.0.v6.memory_bytes()
    }
}

fn validate(route: &SourceRouteSpec) -> Result<(), SourceRouteError> {
    let SourceRouteSpec {
        prefix,
        prefix_len,
        real,
    } = *route;
    let (bits, first) = match prefix {
        IpAddr::V4(v4) => (32, IpAddr::V4(v4.to_bits().first(prefix_len).into())),
        IpAddr::V6(v6) => (128, IpAddr::V6(v6.to_bits().first(prefix_len).into())),
    };
    if prefix_len > bits {
        Err(SourceRouteError::Length)
    } else if first != prefix {
        Err(SourceRouteError::HostBits)
    } else if prefix.is_ipv6() && real.is_ipv4() {
        Err(SourceRouteError::Family)
    } else {
        Ok(())
    }
}

/// Sorts the routes of one family; nothing when there are errors.
fn side<T: PrefixTable>(
    mut routes: Sorted<T::Key>,
    errors: &mut Vec<(usize, SourceRouteError)>,
) -> Option<Side<T>> {
    routes.sort_unstable_by_key(|&(start, prefix_len, _, place)| (start, prefix_len, place));
    let same =
        |a: &(T::Key, u8, IpAddr, usize), b: &(T::Key, u8, IpAddr, usize)| (a.0, a.1) == (b.0, b.1);
    for group in routes.chunk_by(same).filter(|group| group.len() > 1) {
        let first = group[0].3;
        let others = group[1..].iter();
        errors.extend(others.map(|route| (route.3, SourceRouteError::Twice(first))));
    }
    if !errors.is_empty() {
        return None;
    }
    let routes = routes.into_iter();
    let side = Side::new(routes.map(|(start, prefix_len, real, _)| (start, prefix_len, real)));
    if side.reals.len() >= MAX_REALS {
        errors.push((0, SourceRouteError::TooManyReals));
    }
    Some(side)
}

impl Default for SourceRoutes {
    /// No routes; all such sets share one.
    fn default() -> Self {
        static EMPTY: LazyLock<SourceRoutes> = LazyLock::new(|| {
            SourceRoutes(Arc::new(Routes {
                v4: Side::new(std::iter::empty()),
                v6: Side::new(std::iter::empty()),
            }))
        });
        EMPTY.clone()
    }
}

impl PartialEq for SourceRoutes {
    /// The same routes. Sets that share their routes are not compared route by route.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.len() == other.len() && self.iter().eq(other.iter()))
    }
}

impl Eq for SourceRoutes {}

impl fmt::Debug for SourceRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        first_few(f, self.iter(), self.len())
    }
}
