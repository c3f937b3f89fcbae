//! From TOML to a [`Config`].

use std::{
    fs,
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use dataplane::service::{
    DecapSpec, MAX_SERVER_ID, Protocol, RealSpec, ServerIdSpec, ServerIds, SourceRouteSpec,
    SourceRoutes, VipFlags, VipKey, VipSpec,
};
use dataplane::xsk::SocketMode;
use maglev::HashFunction;
use toml::de::DeTable;
use xdp_redirect::XdpMode;

use super::{
    AdminConfig, BalancerConfig, Config, ConfigError, EncapsulationKind, HealthCheckPathConfig,
    HealthCheckSpec, IndexList, InterfaceConfig, PriorityChoice, Problem, Queues,
    limits::{
        FLOW_TABLE_CAPACITY, FRAMES, HEALTH_CHECK_MAX_FRAME, MAX_FRAME, MAX_SOCKET_PATH,
        MAX_SPIN_US,
    },
    origins::{ElementOrigin, Origins, VipOrigin},
    reader::{Complaint, Reader, Section, find_name},
    server_ids::describe as describe_server_id,
    source_routes::describe as describe_source_route,
};

/// Largest file that is read, in bytes: far above 512 VIPs with 4095 reals each.
const MAX_FILE_SIZE: u64 = 256 << 20;

const HASH_NAMES: [(&str, HashFunction); 2] = [
    ("maglev-v1", HashFunction::MaglevV1),
    ("maglev-v2", HashFunction::MaglevV2),
];
const SOCKET_MODES: [(&str, SocketMode); 3] = [
    ("auto", SocketMode::Auto),
    ("zero-copy", SocketMode::ZeroCopy),
    ("copy", SocketMode::Copy),
];
const XDP_MODES: [(&str, XdpMode); 3] = [
    ("auto", XdpMode::Auto),
    ("native", XdpMode::Native),
    ("generic", XdpMode::Generic),
];
const ENCAPSULATIONS: [(&str, EncapsulationKind); 2] = [
    ("ipip", EncapsulationKind::Ipip),
    ("gue", EncapsulationKind::Gue),
];
const PROTOCOL_NAMES: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];

impl Config {
    /// Reads and checks a configuration. `name` stands for the file in messages.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let Document {
            config,
            mut problems,
            origins,
        } = Document::read(text);
        problems.extend(config.problems_at(Some(&origins)));
        if problems.is_empty() {
            return Ok(config);
        }
        problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        Err(ConfigError {
            name: name.to_owned(),
            problems,
        })
    }

    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let error = |problem: String, remedy: &str| ConfigError {
            name: name.clone(),
            problems: vec![Problem {
                line: None,
                field: String::new(),
                problem,
                remedy: remedy.to_owned(),
            }],
        };
        let mut bytes = Vec::new();
        fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes))
            .map_err(|cause| {
                error(
                    format!("cannot be read: {cause}"),
                    "name a configuration file that exists and that this user may read",
                )
            })?;
        if bytes.len() as u64 > MAX_FILE_SIZE {
            return Err(error(
                format!("is larger than {MAX_FILE_SIZE} bytes"),
                "name a configuration file",
            ));
        }
        let text = String::from_utf8(bytes).map_err(|cause| {
            let valid = cause.utf8_error().valid_up_to();
            let before = &cause.as_bytes()[..valid];
            let line = before.split(|&byte| byte == b'\n').count();
            let mut error = error(
                "is not UTF-8 text".to_owned(),
                "write the configuration as TOML in UTF-8",
            );
            error.problems[0].line = Some(line);
            error
        })?;
        Self::parse(&text, &name)
    }
}

/// What the first step makes of a file.
pub(super) struct Document {
    /// The parts that could be read.
    pub(super) config: Config,
    /// Everything else.
    pub(super) problems: Vec<Problem>,
    /// Where each part of `config` stands in the file.
    pub(super) origins: Origins,
}

impl Document {
    pub(super) fn read(text: &str) -> Self {
        let mut reader = Reader::new(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut config = Config::default();
        let mut origins = Origins::default();
        if !errors.is_empty() {
            // What recovery made of the rest would only be complained about a second time.
            reader.problems = errors
                .iter()
                .map(|error| syntax_problem(&reader, error))
                .collect();
            reader.problems.dedup_by_key(|problem| problem.line);
            return Self {
                config,
                problems: reader.problems,
                origins,
            };
        }
        let mut file = reader.section(String::new(), root.get_ref(), &(0..0));
        if let Some(mut section) = reader.table(&mut file, "interface") {
            config.interface = interface(&mut reader, &mut section);
            reader.finish(&section);
            origins.interface = section.lines;
        }
        if let Some(mut section) = reader.table(&mut file, "balancer") {
            config.balancer = balancer(&mut reader, &mut section);
            reader.finish(&section);
            origins.balancer = section.lines;
        }
        if let Some(mut section) = reader.table(&mut file, "admin") {
            config.admin = admin(&mut reader, &mut section);
            reader.finish(&section);
            origins.admin = section.lines;
        }
        for (index, mut section) in reader.tables(&mut file, "vip", "tables headed [[vip]]") {
            let mut origin = VipOrigin::default();
            if let Some(vip) = vip(&mut reader, &mut section, &config.balancer, &mut origin) {
                origin.element = element(index, &section);
                config.vips.push(vip);
                origins.vips.push(origin);
            }
            reader.finish(&section);
        }
        let tables = reader.tables(&mut file, "server_id", "tables headed [[server_id]]");
        config.server_ids = server_ids(&mut reader, tables, &mut origins);
        let tables = reader.tables(&mut file, "source_route", "tables headed [[source_route]]");
        config.source_routes = source_routes(&mut reader, tables, &mut origins);
        for (index, mut section) in reader.tables(&mut file, "decap", "tables headed [[decap]]") {
            if let Some(decap) = decap(&mut reader, &mut section) {
                config.decap.push(decap);
                origins.decap.push(element(index, &section));
            }
            reader.finish(&section);
        }
        if let Some(mut section) = reader.table(&mut file, "health_check_path") {
            config.health_check_path = health_check_path(&mut reader, &mut section);
            reader.finish(&section);
            origins.health_check_path = section.lines;
        }
        let tables = reader.tables(&mut file, "health_check", "tables headed [[health_check]]");
        for (index, mut section) in tables {
            if let Some(health_check) = health_check(&mut reader, &mut section) {
                config.health_checks.push(health_check);
                origins.health_checks.push(element(index, &section));
            }
            reader.finish(&section);
        }
        reader.finish(&file);
        Self {
            config,
            problems: reader.problems,
            origins,
        }
    }
}

fn element(index: usize, section: &Section<'_, '_>) -> ElementOrigin {
    ElementOrigin {
        index,
        line: section.line,
        keys: section.lines.clone(),
    }
}

fn syntax_problem(reader: &Reader<'_>, error: &toml::de::Error) -> Problem {
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    Problem {
        line: error.span().map(|span| reader.line(span.start)),
        field: String::new(),
        problem: format!("not TOML: {message}"),
        remedy: "correct the syntax".to_owned(),
    }
}

fn interface<'i>(reader: &mut Reader<'i>, section: &mut Section<'_, 'i>) -> InterfaceConfig {
    let default = InterfaceConfig::default();
    InterfaceConfig {
        name: reader.string(section, "name", "\"eth0\"", interface_name),
        queues: reader.string(section, "queues", "\"0-15\"", |text| {
            text.parse::<Queues>()
                .map_err(|error| list_complaint(&error))
        }),
        mode: reader
            .name(section, "mode", &SOCKET_MODES)
            .unwrap_or(default.mode),
        next_hop_mac: reader.parsed(
            section,
            "next_hop_mac",
            "an Ethernet address",
            "\"02:00:00:00:cc:03\"",
        ),
        xdp_mode: reader
            .name(section, "xdp_mode", &XDP_MODES)
            .unwrap_or(default.xdp_mode),
        frames: reader
            .integer(section, "frames", "a number of frames", FRAMES)
            .unwrap_or(default.frames),
        cpus: reader.string(section, "cpus", "\"0-15\"", |text| {
            text.parse::<IndexList>()
                .map_err(|error| list_complaint(&error))
        }),
        priority: reader
            .name(
                section,
                "priority",
                &PriorityChoice::ALL.map(|choice| (choice.name(), choice)),
            )
            .unwrap_or(default.priority),
        busy_poll: reader
            .boolean(section, "busy_poll")
            .unwrap_or(default.busy_poll),
        spin_us: reader.integer(
            section,
            "spin_us",
            "a number of microseconds",
            1..=MAX_SPIN_US,
        ),
        huge_pages: reader
            .boolean(section, "huge_pages")
            .unwrap_or(default.huge_pages),
    }
}

/// The kernel's rules for interface names: 1 to 15 bytes, no slash, colon or white space, not a
/// directory's name.
pub(crate) fn is_interface_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

fn interface_name(text: &str) -> Result<String, Complaint> {
    if is_interface_name(text) {
        Ok(text.to_owned())
    } else {
        Err(Complaint::new(
            "is not an interface name",
            "give 1 to 15 characters without slash, colon or space, as `ip link` shows them",
        ))
    }
}

fn list_complaint(error: &super::IndexListError) -> Complaint {
    let text = error.to_string();
    let (problem, remedy) = text.split_once("; ").unwrap_or((&text, ""));
    Complaint::new(format!("is not a list of indices: {problem}"), remedy)
}

fn balancer<'i>(reader: &mut Reader<'i>, section: &mut Section<'_, 'i>) -> BalancerConfig {
    let default = BalancerConfig::default();
    BalancerConfig {
        hash: reader
            .name(section, "hash", &HASH_NAMES)
            .unwrap_or(default.hash),
        encapsulation: reader
            .name(section, "encapsulation", &ENCAPSULATIONS)
            .unwrap_or(default.encapsulation),
        gue_port: reader
            .integer(section, "gue_port", "a UDP port", 1..=u16::MAX)
            .unwrap_or(default.gue_port),
        source_v4: reader.parsed::<Ipv4Addr>(
            section,
            "source_v4",
            "an IPv4 address",
            "\"192.0.2.1\"",
        ),
        source_v6: reader.parsed::<Ipv6Addr>(
            section,
            "source_v6",
            "an IPv6 address",
            "\"2001:db8::1\"",
        ),
        flow_table_capacity: reader
            .integer(
                section,
                "flow_table_capacity",
                "a number of flows",
                FLOW_TABLE_CAPACITY,
            )
            .unwrap_or(default.flow_table_capacity),
        max_frame: reader
            .integer(section, "max_frame", "a frame length in bytes", MAX_FRAME)
            .unwrap_or(default.max_frame),
        icmp_too_big: reader
            .boolean(section, "icmp_too_big")
            .unwrap_or(default.icmp_too_big),
        tcp_server_id: reader
            .boolean(section, "tcp_server_id")
            .unwrap_or(default.tcp_server_id),
        global_table_capacity: reader
            .integer(
                section,
                "global_table_capacity",
                "a number of flows",
                FLOW_TABLE_CAPACITY,
            )
            .unwrap_or(default.global_table_capacity),
        connection_rate_cap: reader
            .integer(
                section,
                "connection_rate_cap",
                "a number of connections per second",
                1..=u32::MAX,
            )
            .unwrap_or(default.connection_rate_cap),
        keep_last_ring: reader
            .boolean(section, "keep_last_ring")
            .unwrap_or(default.keep_last_ring),
    }
}

fn admin<'i>(reader: &mut Reader<'i>, section: &mut Section<'_, 'i>) -> AdminConfig {
    let default = AdminConfig::default();
    AdminConfig {
        socket: reader
            .string(section, "socket", "\"/run/katran-xsk.sock\"", |text| {
                if (1..=MAX_SOCKET_PATH).contains(&text.len()) && !text.contains('\0') {
                    Ok(text.into())
                } else {
                    Err(Complaint::new(
                        "is not a path for a socket",
                        format!("give a path of 1 to {MAX_SOCKET_PATH} bytes"),
                    ))
                }
            })
            .unwrap_or(default.socket),
        mode: reader
            .string(section, "mode", "\"0660\"", |text| {
                let octal = (3..=4).contains(&text.len())
                    && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
                match u32::from_str_radix(text, 8) {
                    Ok(mode) if octal && mode <= 0o777 => Ok(mode),
                    _ => Err(Complaint::new(
                        "is not a file mode",
                        "give three octal digits with a zero in front, as in \"0660\"",
                    )),
                }
            })
            .unwrap_or(default.mode),
    }
}

fn vip<'i>(
    reader: &mut Reader<'i>,
    section: &mut Section<'_, 'i>,
    balancer: &BalancerConfig,
    origin: &mut VipOrigin,
) -> Option<VipSpec> {
    let address = reader.string(
        section,
        "address",
        "\"203.0.113.10\" or \"2001:db8:a::/96\"",
        address_or_prefix,
    );
    let port = reader.integer(section, "port", "a port", 0..=u16::MAX);
    let protocol = reader.name(section, "protocol", &PROTOCOL_NAMES);
    let key = match (address, port, protocol) {
        (Some((address, prefix_len)), Some(port), Some(protocol)) => Some(VipKey {
            address,
            prefix_len,
            port,
            protocol,
        }),
        _ => None,
    };
    if let Some(key) = key {
        section.name = format!("{} ({key})", section.name);
    }
    for (name, remedy) in [
        (
            "address",
            "give the VIP's address as in address = \"203.0.113.10\"",
        ),
        ("port", "give the VIP's port, or port = 0 for any"),
        ("protocol", "give protocol = \"tcp\" or protocol = \"udp\""),
    ] {
        if !section.has(name) {
            reader.missing(section, name, remedy);
        }
    }
    let hash = reader
        .name(section, "hash", &HASH_NAMES)
        .unwrap_or(balancer.hash);
    let mut flags = VipFlags::empty();
    reader.strings(section, "flags", "an array of flag names", |text| {
        let flag = find_name(text, &VipFlags::NAMES)?;
        if flags.contains(flag) {
            return Err(Complaint::new("is there already", "give each flag once"));
        }
        flags |= flag;
        Ok(())
    });
    let mut reals = Vec::new();
    let expected = "an array as in [{ address = \"198.51.100.11\", weight = 1 }]";
    for (index, mut section) in reader.tables(section, "reals", expected) {
        if let Some(real) = real(reader, &mut section) {
            reals.push(real);
            origin.reals.push(element(index, &section));
        }
        reader.finish(&section);
    }
    Some(VipSpec {
        key: key?,
        hash,
        flags,
        reals,
    })
}

fn real<'i>(reader: &mut Reader<'i>, section: &mut Section<'_, 'i>) -> Option<RealSpec> {
    let address = ip_address(reader, section, "address", "\"198.51.100.11\"");
    let weight = reader.integer(section, "weight", "a weight", 0..=u32::MAX);
    let weight = match weight {
        None if !section.has("weight") => Some(1),
        weight => weight,
    };
    let local = reader.boolean(section, "local").unwrap_or(false);
    let down = reader.boolean(section, "down").unwrap_or(false);
    Some(RealSpec {
        address: address?,
        weight: weight?,
        local,
        down,
    })
}

/// Reads all ids. Lines are kept for the first id of each real only: there may be millions.
fn server_ids<'i>(
    reader: &mut Reader<'i>,
    tables: Vec<(usize, Section<'_, 'i>)>,
    origins: &mut Origins,
) -> ServerIds {
    let mut ids = Vec::with_capacity(tables.len());
    // Id, position in the file, and the lines of the section, of id and of real.
    let mut places: Vec<(u32, usize, usize, usize, usize)> = Vec::with_capacity(tables.len());
    for (index, mut section) in tables {
        if let Some(server_id) = server_id(reader, &mut section) {
            let first = origins.server_ids.entry(server_id.real);
            first.or_insert_with(|| element(index, &section));
            let line = |key| section.lines.get(key).copied().unwrap_or(section.line);
            places.push((server_id.id, index, section.line, line("id"), line("real")));
            ids.push(server_id);
        }
        reader.finish(&section);
    }
    ServerIds::new(ids).unwrap_or_else(|errors| {
        for (place, error) in errors {
            let earlier = |first: usize| {
                let (_, index, line, ..) = places[first];
                format!("server_id[{index}] on line {line}")
            };
            let (id, index, _, of_id, of_real) = places[place];
            let (key, problem, remedy) = describe_server_id(error, id, earlier);
            reader.problems.push(Problem {
                line: Some(if key == "real" { of_real } else { of_id }),
                field: format!("server_id[{index}].{key}"),
                problem,
                remedy,
            });
        }
        ServerIds::default()
    })
}

fn server_id<'i>(reader: &mut Reader<'i>, section: &mut Section<'_, 'i>) -> Option<ServerIdSpec> {
    let id = reader.integer(section, "id", "a server id", 1..=MAX_SERVER_ID);
    if !section.has("id") {
        reader.missing(section, "id", "give the server id as in id = 4097");
    }
    let real = ip_address(reader, section, "real", "\"198.51.100.11\"");
    let valid = reader.boolean(section, "valid").unwrap_or(true);
    Some(ServerIdSpec {
        id: id?,
        real: real?,
        valid,
    })
}

/// Reads all routes. Lines are kept for the first route of each real only: there may be millions.
fn source_routes<'i>(
    reader: &mut Reader<'i>,
    tables: Vec<(usize, Section<'_, 'i>)>,
    origins: &mut Origins,
) -> SourceRoutes {
    let mut routes = Vec::with_capacity(tables.len());
    // Position in the file, and the lines of prefix and real.
    let mut places: Vec<(usize, usize, usize)> = Vec::with_capacity(tables.len());
    for (index, mut section) in tables {
        if let Some(route) = source_route(reader, &mut section) {
            let first = origins.source_routes.entry(route.real);
            first.or_insert_with(|| element(index, &section));
            routes.push(route);
            let line = |key| section.lines.get(key).copied().unwrap_or(section.line);
            places.push((index, line("prefix"), line("real")));
        }
        reader.finish(&section);
    }
    match SourceRoutes::new(routes.iter().copied()) {
        Ok(set) => set,
        Err(errors) => {
            for (place, error) in errors {
                let earlier = |first: usize| {
                    let (index, line, _) = places[first];
                    format!("source_route[{index}] on line {line}")
                };
                let (key, problem, remedy) = describe_source_route(error, &routes[place], earlier);
                let (index, of_prefix, of_real) = places[place];
                let line = if key == "real" { of_real } else { of_prefix };
                reader.problems.push(Problem {
                    line: Some(line),
                    field: format!("source_route[{index}].{key}"),
                    problem,
                    remedy,
                });
            }
            SourceRoutes::default()
        }
    }
}

fn source_route<'i>(
    reader: &mut Reader<'i>,
    section: &mut Section<'_, 'i>,
) -> Option<SourceRouteSpec> {
    let prefix = reader.string(section, "prefix", "\"192.0.2.0/24\"", address_or_prefix);
    if !section.has("prefix") {
        reader.missing(
            section,
            "prefix",
            "give the clients' prefix as in prefix = \"192.0.2.0/24\"",
        );
    }
    let real = ip_address(reader, section, "real", "\"198.51.100.11\"");
    let (prefix, prefix_len) = prefix?;
    Some(SourceRouteSpec {
        prefix,
        prefix_len,
        real: real?,
    })
}

fn decap<'i>(reader: &mut Reader<'i>, section: &mut Section<'_, 'i>) -> Option<DecapSpec> {
    let address = ip_address(reader, section, "address", "\"2001:db8:d::1\"");
    let egress = reader.boolean(section, "egress").unwrap_or(false);
    Some(DecapSpec {
        address: address?,
        egress,
    })
}

fn health_check_path<'i>(
    reader: &mut Reader<'i>,
    section: &mut Section<'_, 'i>,
) -> HealthCheckPathConfig {
    HealthCheckPathConfig {
        interface: reader.string(section, "interface", "\"hc0\"", interface_name),
        max_frame: reader.integer(
            section,
            "max_frame",
            "a frame length in bytes",
            HEALTH_CHECK_MAX_FRAME,
        ),
    }
}

fn health_check<'i>(
    reader: &mut Reader<'i>,
    section: &mut Section<'_, 'i>,
) -> Option<HealthCheckSpec> {
    let mark = reader.integer(section, "mark", "a mark", 1..=u32::MAX);
    if !section.has("mark") {
        reader.missing(section, "mark", "give the sockets' mark as in mark = 7");
    }
    let real = ip_address(reader, section, "real", "\"198.51.100.11\"");
    Some(HealthCheckSpec {
        mark: mark?,
        real: real?,
    })
}

/// Reads an address that must be there.
fn ip_address<'i>(
    reader: &mut Reader<'i>,
    section: &mut Section<'_, 'i>,
    key: &'static str,
    example: &str,
) -> Option<IpAddr> {
    let address = reader.parsed(section, key, "an IP address", example);
    if !section.has(key) {
        reader.missing(
            section,
            key,
            &format!("give an IP address as in {key} = {example}"),
        );
    }
    address
}

/// Reads `203.0.113.10` or `2001:db8:a::/96`.
fn address_or_prefix(text: &str) -> Result<(IpAddr, u8), Complaint> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| {
        Complaint::new(
            "is not an IP address or prefix",
            "write one as in \"203.0.113.10\" or \"2001:db8:a::/96\"",
        )
    })?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let Some(length) = length else {
        return Ok((address, bits));
    };
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    match length.parse() {
        Ok(length) if digits && length <= bits => Ok((address, length)),
        _ => Err(Complaint::new(
            "has no valid prefix length",
            format!("give a length from 0 to {bits} after the slash"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_follow_the_kernels_rules() {
        for name in ["eth0", "enp1s0f0np0", "veth-a.1", "a", "123456789012345"] {
            assert!(is_interface_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:b",
            "1234567890123456",
            "a\n",
        ] {
            assert!(!is_interface_name(name), "{name:?}");
        }
    }
}
