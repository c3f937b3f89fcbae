//! What must hold between the parts of a configuration, whether it came from a file or not.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt::Write as _,
    net::IpAddr,
};

use dataplane::{
    service::{MAX_DECAP, MAX_REALS, MAX_VIPS, Protocol, RealSpec, VipFlags, VipKey, VipSpec},
    xsk::SocketMode,
};
use maglev::{DEFAULT_RING_SIZE, Endpoint, HashFunction, v1_weights_warning};
use xdp_redirect::XdpMode;

use super::{
    Config, EncapsulationKind, PriorityChoice, Problem, Queues,
    limits::{
        FLOW_TABLE_CAPACITY, FRAMES, HEALTH_CHECK_MAX_FRAME, MAX_FRAME, MAX_HEALTH_CHECKS,
        MIN_MAX_FRAME_TOO_BIG,
    },
    origins::{ElementOrigin, Origins},
    parse::is_interface_name,
};

/// Distinct reals a balancer can hold; index 0 is never a real.
const USABLE_REALS: usize = MAX_REALS - 1;
/// Queues of one interface that can have a socket.
const MAX_QUEUES: u32 = xdp_layout::MAX_QUEUES;

impl Config {
    /// Everything that keeps this configuration from being used, without lines.
    pub fn problems(&self) -> Vec<Problem> {
        self.problems_at(None)
    }

    /// As [`Config::problems`], with lines where `origins` has them.
    pub(super) fn problems_at(&self, origins: Option<&Origins>) -> Vec<Problem> {
        let mut checker = Checker {
            config: self,
            origins,
            problems: Vec::new(),
        };
        checker.interface();
        checker.balancer();
        checker.vips();
        checker.server_ids();
        checker.source_routes();
        checker.decap();
        checker.health_check_path();
        checker.health_checks();
        checker.problems
    }

    /// What is allowed and probably not meant.
    pub fn warnings(&self) -> Vec<Problem> {
        let mut checker = Checker {
            config: self,
            origins: None,
            problems: Vec::new(),
        };
        checker.warnings();
        checker.problems
    }
}

/// A part of a configuration; elements of arrays by their position in [`Config`].
#[derive(Clone, Copy)]
enum Place {
    Interface(&'static str),
    Balancer(&'static str),
    Admin(&'static str),
    /// The array as a whole.
    Vips,
    Vip(usize, &'static str),
    Real(usize, usize, &'static str),
    /// A real that server ids name.
    ServerIds(IpAddr),
    /// A real that source routes name.
    SourceRoutes(IpAddr),
    Decap(usize, &'static str),
    HealthCheckPath(&'static str),
    /// The array as a whole.
    HealthChecks,
    HealthCheck(usize, &'static str),
}

struct Checker<'c> {
    config: &'c Config,
    origins: Option<&'c Origins>,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn report(&mut self, place: Place, problem: impl Into<String>, remedy: impl Into<String>) {
        let problem = Problem {
            line: self.line(place),
            field: self.field(place),
            problem: problem.into(),
            remedy: remedy.into(),
        };
        self.problems.push(problem);
    }

    fn element_origin(&self, place: Place) -> Option<(&ElementOrigin, &'static str)> {
        let origins = self.origins?;
        match place {
            Place::Vip(vip, key) => Some((&origins.vips.get(vip)?.element, key)),
            Place::Real(vip, real, key) => Some((origins.vips.get(vip)?.reals.get(real)?, key)),
            Place::ServerIds(real) => Some((origins.server_ids.get(&real)?, "real")),
            Place::SourceRoutes(real) => Some((origins.source_routes.get(&real)?, "real")),
            Place::Decap(index, key) => Some((origins.decap.get(index)?, key)),
            Place::HealthCheck(index, key) => Some((origins.health_checks.get(index)?, key)),
            Place::Interface(_)
            | Place::Balancer(_)
            | Place::Admin(_)
            | Place::Vips
            | Place::HealthCheckPath(_)
            | Place::HealthChecks => None,
        }
    }

    fn line(&self, place: Place) -> Option<usize> {
        let origins = self.origins?;
        match place {
            Place::Interface(key) => origins.interface.get(key).copied(),
            Place::Balancer(key) => origins.balancer.get(key).copied(),
            Place::Admin(key) => origins.admin.get(key).copied(),
            Place::HealthCheckPath(key) => origins.health_check_path.get(key).copied(),
            Place::Vips | Place::HealthChecks => None,
            _ => {
                let (element, key) = self.element_origin(place)?;
                Some(element.keys.get(key).copied().unwrap_or(element.line))
            }
        }
    }

    fn field(&self, place: Place) -> String {
        // Positions in the file; elements that could not be read count there.
        let index = |index| {
            self.element_origin(place)
                .map_or(index, |(origin, _)| origin.index)
        };
        let (mut field, key) = match place {
            Place::Interface(key) => ("interface".to_owned(), key),
            Place::Balancer(key) => ("balancer".to_owned(), key),
            Place::Admin(key) => ("admin".to_owned(), key),
            Place::Vips => ("vip".to_owned(), ""),
            Place::Vip(vip, key) => (
                format!("vip[{}] ({})", index(vip), self.config.vips[vip].key),
                key,
            ),
            Place::Real(vip, real, key) => (
                format!("{}.reals[{}]", self.field(Place::Vip(vip, "")), index(real)),
                key,
            ),
            Place::ServerIds(_) => match self.element_origin(place) {
                Some((origin, key)) => (format!("server_id[{}]", origin.index), key),
                None => ("server_id".to_owned(), ""),
            },
            Place::SourceRoutes(_) => match self.element_origin(place) {
                Some((origin, key)) => (format!("source_route[{}]", origin.index), key),
                None => ("source_route".to_owned(), ""),
            },
            Place::Decap(decap, key) => (format!("decap[{}]", index(decap)), key),
            Place::HealthCheckPath(key) => ("health_check_path".to_owned(), key),
            Place::HealthChecks => ("health_check".to_owned(), ""),
            Place::HealthCheck(check, key) => (format!("health_check[{}]", index(check)), key),
        };
        if !key.is_empty() {
            let _ = write!(field, ".{key}");
        }
        field
    }

    /// `vip[1]`, or `vip[1] on line 12` when there are lines.
    fn earlier(&self, place: Place, what: &str) -> String {
        match self.element_origin(place) {
            Some((origin, _)) => format!("{what}[{}] on line {}", origin.index, origin.line),
            None => match place {
                Place::Vip(index, _)
                | Place::Real(_, index, _)
                | Place::Decap(index, _)
                | Place::HealthCheck(index, _) => format!("{what}[{index}]"),
                _ => what.to_owned(),
            },
        }
    }

    fn interface(&mut self) {
        let interface = &self.config.interface;
        if let Some(name) = &interface.name
            && !is_interface_name(name)
        {
            self.report(
                Place::Interface("name"),
                format!("{name:?} is not an interface name"),
                "give 1 to 15 characters without slash, colon or space, as `ip link` shows them",
            );
        }
        if let Some(Queues::List(list)) = &interface.queues
            && let Some(queue) = list.indices().iter().find(|&&queue| queue >= MAX_QUEUES)
        {
            self.report(
                Place::Interface("queues"),
                format!("queue {queue} is too large"),
                format!("name queues from 0 to {}", MAX_QUEUES - 1),
            );
        }
        if let Some(mac) = interface.next_hop_mac {
            if mac.0[0] & 1 != 0 {
                self.report(
                    Place::Interface("next_hop_mac"),
                    format!("{mac} is a group address"),
                    "give the router's own Ethernet address, whose first octet is even",
                );
            } else if mac.0 == [0; 6] {
                self.report(
                    Place::Interface("next_hop_mac"),
                    format!("{mac} is no station's address"),
                    "give the router's own Ethernet address, or leave the key out to have it resolved",
                );
            }
        }
        if !FRAMES.contains(&interface.frames) {
            self.report(
                Place::Interface("frames"),
                format!("{} is not a number of frames", interface.frames),
                format!(
                    "give a whole number from {} to {}",
                    FRAMES.start(),
                    FRAMES.end()
                ),
            );
        }
        if interface.mode == SocketMode::ZeroCopy && interface.xdp_mode == XdpMode::Generic {
            self.report(
                Place::Interface("mode"),
                "zero-copy takes an XDP program in the driver, and xdp_mode is generic",
                "give mode \"auto\" or \"copy\", or xdp_mode \"auto\" or \"native\"",
            );
        }
        if interface.priority == PriorityChoice::RealTime && interface.spin_us.is_some() {
            self.report(
                Place::Interface("priority"),
                "rt and spin_us exclude each other: a worker that outranks other threads has to sleep",
                "leave spin_us out, or give priority \"auto\" or \"normal\"",
            );
        }
    }

    fn balancer(&mut self) {
        let balancer = &self.config.balancer;
        if !MAX_FRAME.contains(&balancer.max_frame) {
            self.report(
                Place::Balancer("max_frame"),
                format!("{} is not a frame length in bytes", balancer.max_frame),
                format!(
                    "give a whole number from {} to {}",
                    MAX_FRAME.start(),
                    MAX_FRAME.end()
                ),
            );
        }
        for (key, capacity) in [
            ("flow_table_capacity", balancer.flow_table_capacity),
            ("global_table_capacity", balancer.global_table_capacity),
        ] {
            if !FLOW_TABLE_CAPACITY.contains(&capacity) {
                self.report(
                    Place::Balancer(key),
                    format!("{capacity} is not a number of flows"),
                    format!(
                        "give a whole number from {} to {}",
                        FLOW_TABLE_CAPACITY.start(),
                        FLOW_TABLE_CAPACITY.end()
                    ),
                );
            }
        }
        if balancer.connection_rate_cap == 0 {
            self.report(
                Place::Balancer("connection_rate_cap"),
                "0 is not a number of connections per second",
                format!("give a whole number from 1 to {}", u32::MAX),
            );
        }
        if balancer.gue_port == 0 {
            self.report(
                Place::Balancer("gue_port"),
                "0 is not a UDP port",
                "give a whole number from 1 to 65535",
            );
        }
        if let Some(source) = balancer.source_v4 {
            self.unicast(Place::Balancer("source_v4"), source.into());
        }
        if let Some(source) = balancer.source_v6 {
            self.unicast(Place::Balancer("source_v6"), source.into());
        }
        if balancer.encapsulation == EncapsulationKind::Gue {
            self.gue_sources();
        }
        if balancer.icmp_too_big && balancer.max_frame < MIN_MAX_FRAME_TOO_BIG {
            self.report(
                Place::Balancer("icmp_too_big"),
                format!(
                    "max_frame = {} would announce an MTU below IPv6's minimum of 1280",
                    balancer.max_frame
                ),
                format!("give max_frame at least {MIN_MAX_FRAME_TOO_BIG}, or icmp_too_big = false"),
            );
        }
    }

    /// Which outer sources there are, of IPv4 and of IPv6.
    fn outer_sources(&self) -> (bool, bool) {
        let balancer = &self.config.balancer;
        // A source that is there and could not be read has had its complaint.
        let written = |key| {
            self.origins
                .is_some_and(|origins| origins.balancer.contains_key(key))
        };
        (
            balancer.source_v4.is_some() || written("source_v4"),
            balancer.source_v6.is_some() || written("source_v6"),
        )
    }

    fn gue_sources(&mut self) {
        let (has_v4, has_v6) = self.outer_sources();
        if !has_v4 && !has_v6 {
            self.report(
                Place::Balancer("encapsulation"),
                "\"gue\" needs an outer source address",
                "give source_v4 or source_v6 in [balancer], or encapsulation = \"ipip\"",
            );
            return;
        }
        for (missing, is_v4, key, family) in [
            (!has_v4, true, "source_v4", "IPv4"),
            (!has_v6, false, "source_v6", "IPv6"),
        ] {
            if !missing {
                continue;
            }
            let user = self.config.vips.iter().enumerate().find_map(|(vip, spec)| {
                let of_family = |real: &RealSpec| real.address.is_ipv4() == is_v4;
                let real = spec.reals.iter().position(of_family)?;
                let address = spec.reals[real].address;
                Some((Place::Real(vip, real, "address"), address))
            });
            let routed = route_reals(self.config).find(|real| real.is_ipv4() == is_v4);
            let mut named = self.config.server_ids.reals().iter().copied();
            let named = named.find(|real| real.is_ipv4() == is_v4);
            let routed = routed.map(|real| (Place::SourceRoutes(real), real));
            let named = named.map(|real| (Place::ServerIds(real), real));
            if let Some((place, real)) = user.or(routed).or(named) {
                self.report(
                    place,
                    format!("GUE to {real} needs an {family} source"),
                    format!("give {key} in [balancer]"),
                );
            }
        }
    }

    /// Complains about addresses that no packet can be sent to or from.
    fn unicast(&mut self, place: Place, address: IpAddr) -> bool {
        let what = match address {
            _ if address.is_unspecified() => "the unspecified address",
            _ if address.is_multicast() => "a multicast address",
            IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                let v4 = v6
                    .to_ipv4_mapped()
                    .map_or_else(String::new, |v4| v4.to_string());
                self.report(
                    place,
                    format!("{address} is an IPv4-mapped address"),
                    format!("write {v4}"),
                );
                return false;
            }
            _ => return true,
        };
        self.report(
            place,
            format!("{address} is {what}"),
            "give the address of one host",
        );
        false
    }

    /// Complains about bits that a prefix of this length leaves to hosts.
    fn host_bits(&mut self, place: Place, address: IpAddr, prefix_len: u8) {
        let network = mask(address, prefix_len);
        if network != address {
            self.report(
                place,
                format!("{address}/{prefix_len} has host bits set"),
                format!("write {network}/{prefix_len}"),
            );
        }
    }

    fn vips(&mut self) {
        let vips = &self.config.vips;
        if vips.len() > MAX_VIPS {
            self.report(
                Place::Vips,
                format!("{} VIPs are too many", vips.len()),
                format!("keep at most {MAX_VIPS}"),
            );
        }
        let mut keys: HashMap<VipKey, usize> = HashMap::new();
        let mut reals: HashMap<IpAddr, (usize, usize)> = HashMap::new();
        for (index, vip) in vips.iter().enumerate() {
            if let Some(&first) = keys.get(&vip.key) {
                let earlier = self.earlier(Place::Vip(first, ""), "vip");
                self.report(
                    Place::Vip(index, "address"),
                    format!("the same address, port and protocol as {earlier}"),
                    "merge the two or remove one",
                );
            } else {
                keys.insert(vip.key, index);
            }
            self.vip(index, vip);
            for (position, real) in vip.reals.iter().enumerate() {
                let (first, at) = *reals.entry(real.address).or_insert((index, position));
                let before = vips[first].reals[at].local;
                if real.local != before {
                    let earlier = self.earlier(Place::Vip(first, ""), "vip");
                    self.report(
                        Place::Real(index, position, "local"),
                        format!(
                            "{} is local = {} here and {before} in {earlier}",
                            real.address, real.local
                        ),
                        "say the same in every VIP: a real is this host or it is not",
                    );
                }
            }
        }
        if reals.len() > USABLE_REALS {
            self.report(
                Place::Vips,
                format!("{} different reals are too many", reals.len()),
                format!("keep at most {USABLE_REALS}"),
            );
        }
    }

    fn vip(&mut self, index: usize, vip: &VipSpec) {
        let VipKey {
            address,
            prefix_len,
            ..
        } = vip.key;
        let place = Place::Vip(index, "address");
        if vip.key.is_single_address() {
            self.unicast(place, address);
        } else if address.is_ipv4() {
            self.report(
                place,
                format!("{address}/{prefix_len} is an IPv4 prefix"),
                "give a VIP for each address; prefixes are for IPv6",
            );
        } else if self.unicast(place, address) {
            self.host_bits(place, address, prefix_len);
        }
        let mut addresses: HashMap<IpAddr, usize> = HashMap::new();
        for (position, real) in vip.reals.iter().enumerate() {
            let place = Place::Real(index, position, "address");
            if let Some(&first) = addresses.get(&real.address) {
                let earlier = self.earlier(Place::Real(index, first, ""), "reals");
                self.report(
                    place,
                    format!("{} is already {earlier}", real.address),
                    "name each real of a VIP once",
                );
            } else {
                addresses.insert(real.address, position);
            }
            let unicast = self.unicast(place, real.address);
            if unicast && vip.key.address.is_ipv6() && real.address.is_ipv4() {
                self.report(
                    place,
                    format!("{} is an IPv4 real of an IPv6 VIP", real.address),
                    "give the real's IPv6 address",
                );
            }
        }
    }

    /// Ids were checked when the set was made.
    fn server_ids(&mut self) {
        for real in self.config.server_ids.reals() {
            self.unicast(Place::ServerIds(*real), *real);
        }
    }

    /// Prefixes were checked when the set was made.
    fn source_routes(&mut self) {
        for real in route_reals(self.config) {
            self.unicast(Place::SourceRoutes(real), real);
        }
    }

    /// Routes serve VIPs with the flag only.
    fn source_route_warnings(&mut self) {
        let vips = &self.config.vips;
        let flag = VipFlags::SRC_ROUTING;
        let user = vips.iter().position(|vip| vip.flags.contains(flag));
        match (user, route_reals(self.config).next()) {
            (None, Some(real)) => self.report(
                Place::SourceRoutes(real),
                "no VIP has the flag src-routing: source routes do nothing",
                "give the flag to the VIPs that follow them",
            ),
            (Some(vip), None) => self.report(
                Place::Vip(vip, "flags"),
                "src-routing does nothing: there are no source routes",
                "add [[source_route]] sections, or remove the flag",
            ),
            _ => {}
        }
    }

    /// Ids serve VIPs that read them only.
    fn server_id_warning(&mut self) {
        let readers = VipFlags::QUIC | VipFlags::UDP_STABLE_ROUTING;
        let option = self.config.balancer.tcp_server_id;
        let reads = |vip: &VipSpec| {
            vip.flags.intersects(readers) || option && vip.key.protocol == Protocol::Tcp
        };
        if let Some(&real) = self.config.server_ids.reals().first()
            && !self.config.vips.iter().any(reads)
        {
            self.report(
                Place::ServerIds(real),
                "no VIP reads server ids, so they name no packet's real",
                "give a VIP the flag quic or udp-stable-routing, or set tcp_server_id in [balancer]",
            );
        }
    }

    fn decap(&mut self) {
        let mut addresses: HashMap<IpAddr, usize> = HashMap::new();
        for (index, decap) in self.config.decap.iter().enumerate() {
            if let Some(&first) = addresses.get(&decap.address) {
                let earlier = self.earlier(Place::Decap(first, ""), "decap");
                self.report(
                    Place::Decap(index, "address"),
                    format!("{} is already the address of {earlier}", decap.address),
                    "give each address once",
                );
            } else {
                addresses.insert(decap.address, index);
            }
            self.unicast(Place::Decap(index, "address"), decap.address);
        }
        if self.config.decap.len() > MAX_DECAP {
            self.report(
                Place::Decap(MAX_DECAP, ""),
                format!(
                    "{} decap destinations are too many",
                    self.config.decap.len()
                ),
                format!("give up to {MAX_DECAP}"),
            );
        }
    }

    /// Local delivery takes both the VIP's flag and a local real.
    fn local_warnings(&mut self, index: usize, vip: &VipSpec) {
        let local = vip.reals.iter().position(|real| real.local);
        match (vip.flags.contains(VipFlags::LOCAL_VIP), local) {
            (true, None) => self.report(
                Place::Vip(index, "flags"),
                "local-vip does nothing: none of the VIP's reals is local",
                "give the real that is this host local = true, or remove the flag",
            ),
            (false, Some(real)) => self.report(
                Place::Real(index, real, "local"),
                "the VIP does not have the flag local-vip: packets for this real are encapsulated",
                "add the flag, or remove local = true",
            ),
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// What only UDP has. A QUIC connection id is looked for in whatever the VIP's packets have
    /// (katran-compat section 7.1).
    fn protocol_warnings(&mut self, index: usize, vip: &VipSpec) {
        if vip.key.protocol == Protocol::Udp {
            return;
        }
        if vip.flags.contains(VipFlags::QUIC) {
            self.report(
                Place::Vip(index, "flags"),
                "quic takes bytes of the TCP header for a connection id: QUIC is UDP",
                "remove the flag, or give protocol = \"udp\"",
            );
        }
        if vip.flags.contains(VipFlags::UDP_STABLE_ROUTING) {
            self.report(
                Place::Vip(index, "flags"),
                "udp-stable-routing does nothing: the VIP is not a UDP one",
                "remove the flag, or give protocol = \"udp\"",
            );
        }
    }

    /// Flows leave a real that is down only where the VIP says so, and the ring does not know of it.
    fn down_warnings(&mut self, index: usize, vip: &VipSpec) {
        let migrates = vip.flags.contains(VipFlags::UDP_FLOW_MIGRATION);
        let down = vip.reals.iter().position(|real| real.down);
        if migrates && vip.key.protocol != Protocol::Udp {
            self.report(
                Place::Vip(index, "flags"),
                "udp-flow-migration does nothing: the VIP is not a UDP one",
                "remove the flag",
            );
        } else if let Some(real) = down.filter(|_| !migrates) {
            self.report(
                Place::Real(index, real, "down"),
                "the VIP does not have the flag udp-flow-migration: flows stay with this real",
                "add the flag, or remove down = true",
            );
        }
        let drawn = |real: &RealSpec| real.down && real.weight > 0;
        if let Some(real) = vip.reals.iter().position(drawn).filter(|_| migrates) {
            self.report(
                Place::Real(index, real, "weight"),
                "the real is down and still has a share of the ring: flows come back to it",
                "give it weight 0 as well",
            );
        }
    }

    /// A decap destination may leave a VIP no packets.
    fn shadow_warning(&mut self, index: usize, vip: &VipKey) {
        let gue_port = self.config.balancer.gue_port;
        let tunnels = VipKey::exact(vip.address, gue_port, Protocol::Udp);
        let mut decap = self.config.decap.iter();
        if let Some(own) = decap.position(|own| own.address == vip.address)
            && *vip == tunnels
        {
            self.report(
                Place::Vip(index, "port"),
                format!(
                    "decap[{own}] takes packets to UDP port {gue_port} as GUE tunnels: the VIP gets none"
                ),
                "give the VIP another port or address, or change balancer.gue_port",
            );
        }
    }

    fn health_check_path(&mut self) {
        let path = &self.config.health_check_path;
        if let Some(name) = &path.interface
            && !is_interface_name(name)
        {
            self.report(
                Place::HealthCheckPath("interface"),
                format!("{name:?} is not an interface name"),
                "give 1 to 15 characters without slash, colon or space, as `ip link` shows them",
            );
        }
        if let Some(max_frame) = path.max_frame
            && !HEALTH_CHECK_MAX_FRAME.contains(&max_frame)
        {
            self.report(
                Place::HealthCheckPath("max_frame"),
                format!("{max_frame} is not a frame length in bytes"),
                format!(
                    "give a whole number from {} to {}",
                    HEALTH_CHECK_MAX_FRAME.start(),
                    HEALTH_CHECK_MAX_FRAME.end()
                ),
            );
        }
    }

    fn health_checks(&mut self) {
        let checks = &self.config.health_checks;
        if checks.len() > MAX_HEALTH_CHECKS {
            self.report(
                Place::HealthChecks,
                format!("{} health checks are too many", checks.len()),
                format!("keep at most {MAX_HEALTH_CHECKS}"),
            );
        }
        let (has_v4, has_v6) = self.outer_sources();
        let mut marks: HashMap<u32, usize> = HashMap::new();
        for (index, check) in checks.iter().enumerate() {
            let place = Place::HealthCheck(index, "mark");
            if check.mark == 0 {
                self.report(
                    place,
                    "0 is the mark of every packet that has none",
                    format!("give a whole number from 1 to {}", u32::MAX),
                );
            }
            if let Some(&first) = marks.get(&check.mark) {
                let earlier = self.earlier(Place::HealthCheck(first, ""), "health_check");
                self.report(
                    place,
                    format!("{} is already the mark of {earlier}", check.mark),
                    "give each mark once",
                );
            } else {
                marks.insert(check.mark, index);
            }
            let place = Place::HealthCheck(index, "real");
            let (has_source, family, key) = match check.real {
                IpAddr::V4(_) => (has_v4, "IPv4", "source_v4"),
                IpAddr::V6(_) => (has_v6, "IPv6", "source_v6"),
            };
            if self.unicast(place, check.real) && !has_source {
                self.report(
                    place,
                    format!("a probe to {} needs an {family} outer source", check.real),
                    format!("give {key} in [balancer]: an address of this host"),
                );
            }
        }
    }

    fn warnings(&mut self) {
        let config = self.config;
        if config.admin.mode & 0o002 != 0 {
            self.report(
                Place::Admin("mode"),
                format!(
                    "{:04o} lets every user of this host manage the balancer",
                    config.admin.mode
                ),
                "use \"0660\" and a group",
            );
        }
        let vip_addresses: HashMap<IpAddr, &VipKey> = config
            .vips
            .iter()
            .filter(|vip| vip.key.is_single_address())
            .map(|vip| (vip.key.address, &vip.key))
            .collect();
        self.source_route_warnings();
        self.server_id_warning();
        self.tunnel_warnings();
        for (index, check) in config.health_checks.iter().enumerate() {
            let place = Place::HealthCheck(index, "real");
            if let Some(&vip) = vip_addresses.get(&check.real) {
                self.report_loop(place, vip);
            } else if check.real.is_loopback() {
                self.report_loopback(place, check.real);
            }
        }
        for (index, vip) in config.vips.iter().enumerate() {
            // A ring that was there before is kept only while the balancer runs.
            let fate = if config.balancer.keep_last_ring {
                "go where its last ring says, if it had one, and are dropped after a restart"
            } else {
                "are dropped"
            };
            if vip.reals.is_empty() {
                self.report(
                    Place::Vip(index, "reals"),
                    format!("the VIP has no reals: its packets {fate}"),
                    "add a real",
                );
            } else if vip.reals.iter().all(|real| real.weight == 0) {
                self.report(
                    Place::Vip(index, "reals"),
                    format!("all weights are 0: packets of new flows {fate}"),
                    "give a real a weight above 0",
                );
            }
            for (position, real) in vip.reals.iter().enumerate() {
                if let Some(&looping) = vip_addresses.get(&real.address) {
                    self.report_loop(Place::Real(index, position, "address"), looping);
                }
                if real.address.is_loopback() && !real.local {
                    self.report_loopback(Place::Real(index, position, "address"), real.address);
                }
            }
            self.protocol_warnings(index, vip);
            self.local_warnings(index, vip);
            self.down_warnings(index, vip);
            if vip.flags.contains(VipFlags::GLOBAL_LRU) && !vip.uses_global_table() {
                self.report(
                    Place::Vip(index, "flags"),
                    "global-lru does nothing beside lru-bypass or dport-only: no flows are stored",
                    "remove one of the flags",
                );
            }
            self.shadow_warning(index, &vip.key);
            let is_link_local = match vip.key.address {
                IpAddr::V4(address) => address.is_link_local(),
                IpAddr::V6(address) => address.is_unicast_link_local(),
            };
            if is_link_local {
                self.report(
                    Place::Vip(index, "address"),
                    "a link-local address, to which no router forwards packets",
                    "give an address that routers know",
                );
            }
            if vip.hash == HashFunction::MaglevV1 {
                let endpoints: Vec<_> = (1..)
                    .zip(&vip.reals)
                    .map(|(number, real)| Endpoint::new(number, real.weight, real.address))
                    .collect();
                if let Some(warning) = v1_weights_warning(&endpoints, DEFAULT_RING_SIZE) {
                    let (problem, remedy) = warning.split_once("; ").unwrap_or((&warning, ""));
                    self.report(Place::Vip(index, "reals"), problem, remedy);
                }
            }
        }
    }

    /// Tunnels to reals that end in this balancer again. A local real gets none, except by VIPs without the
    /// flag, which are warned of in [`Self::local_warnings`].
    fn tunnel_warnings(&mut self) {
        let config = self.config;
        let decap = config.decap.iter().zip(0_usize..);
        let ends: HashMap<IpAddr, usize> = decap.map(|(own, at)| (own.address, at)).collect();
        let mut local = HashSet::new();
        for (index, vip) in config.vips.iter().enumerate() {
            for (position, real) in vip.reals.iter().enumerate() {
                if real.local {
                    local.insert(real.address);
                } else if let Some(&end) = ends.get(&real.address) {
                    self.report_end(Place::Real(index, position, "address"), real.address, end);
                }
            }
        }
        let named = config.server_ids.reals().iter().copied();
        let named = named.map(|real| (Place::ServerIds(real), real));
        // One that has clients of both families is named once.
        let routed: BTreeSet<IpAddr> = route_reals(config).collect();
        let routed = routed
            .into_iter()
            .map(|real| (Place::SourceRoutes(real), real));
        for (place, real) in named.chain(routed) {
            if let Some(&end) = ends.get(&real)
                && !local.contains(&real)
            {
                self.report_end(place, real, end);
            }
        }
    }

    /// Warns of a real that is a decap destination.
    fn report_end(&mut self, place: Place, address: IpAddr, decap: usize) {
        self.report(
            place,
            format!(
                "{address} is also the address of decap[{decap}]: tunnels to it that come here are taken apart \
                 and balanced again, so packets may go round until their TTL is used up"
            ),
            "give the real's own address, or remove the decap destination",
        );
    }

    /// Warns of a real that is a VIP.
    fn report_loop(&mut self, place: Place, vip: &VipKey) {
        self.report(
            place,
            format!(
                "{} is also the address of VIP {vip}: packets may come back",
                vip.address
            ),
            "give the real's own address",
        );
    }

    /// Warns of a real that no packet leaves for.
    fn report_loopback(&mut self, place: Place, address: IpAddr) {
        self.report(
            place,
            format!("{address} is a loopback address, to which nobody forwards packets"),
            "give the real's own address",
        );
    }
}

/// Reals of source routes.
fn route_reals(config: &Config) -> impl Iterator<Item = IpAddr> {
    let routes = &config.source_routes;
    let of_both = routes.reals(true).iter().chain(routes.reals(false));
    of_both.copied()
}

/// The network's address: host bits zero.
pub(crate) fn mask(address: IpAddr, prefix_len: u8) -> IpAddr {
    let shift = |bits: u32| bits - u32::from(prefix_len).min(bits);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(shift(32)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(shift(128)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_cover_every_length() {
        let v6: IpAddr = "2001:db8:a:b::1".parse().unwrap();
        assert_eq!(mask(v6, 128), v6);
        assert_eq!(mask(v6, 48), "2001:db8:a::".parse::<IpAddr>().unwrap());
        assert_eq!(mask(v6, 0), "::".parse::<IpAddr>().unwrap());
        let v4: IpAddr = "192.0.2.130".parse().unwrap();
        assert_eq!(mask(v4, 32), v4);
        assert_eq!(mask(v4, 25), "192.0.2.128".parse::<IpAddr>().unwrap());
        assert_eq!(mask(v4, 0), "0.0.0.0".parse::<IpAddr>().unwrap());
    }
}
