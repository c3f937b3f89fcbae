//! Every complaint about a configuration, word for word.

use std::fmt::Write as _;

use katran_xsk::config::Config;

/// What is wrong with `text`, a line for each problem.
fn complaints(text: &str) -> String {
    match Config::parse(text, "lb.toml") {
        Ok(_) => "valid".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let complaints = complaints(text);
    assert_eq!(complaints.lines().collect::<Vec<_>>(), expected, "\n{text}");
}

/// A VIP with its address on line 2, port on 3, protocol on 4 and `rest` from 5.
fn vip(rest: &str) -> String {
    format!("[[vip]]\naddress = \"203.0.113.10\"\nport = 80\nprotocol = \"tcp\"\n{rest}\n")
}

#[test]
fn an_empty_file_is_valid() {
    check("", &["valid"]);
    check("# nothing\n[interface]\n[balancer]\n[admin]\n", &["valid"]);
}

#[test]
fn the_documented_file_is_valid() {
    let text = r#"
[interface]
name = "eth0"
queues = "0-15"
mode = "auto"
next_hop_mac = "02:00:00:00:cc:03"
xdp_mode = "native"
frames = 8192
cpus = "0-15"
busy_poll = true
spin_us = 100
huge_pages = true

[balancer]
hash = "maglev-v2"
encapsulation = "gue"
gue_port = 6080
source_v4 = "192.0.2.1"
source_v6 = "2001:db8::1"
flow_table_capacity = 1000000
max_frame = 1514
icmp_too_big = true
tcp_server_id = true
global_table_capacity = 200000
connection_rate_cap = 125000
keep_last_ring = true

[admin]
socket = "/run/katran-xsk.sock"
mode = "0660"

[[vip]]
address = "203.0.113.10"
port = 80
protocol = "tcp"
hash = "maglev-v1"
flags = ["no-src-port", "lru-bypass", "dport-only", "src-dst-port", "src-routing"]
reals = [{ address = "198.51.100.11", weight = 1 }, { address = "2001:db8:f::1", local = false }]

[[vip]]
address = "2001:db8:a::/96"
port = 0
protocol = "udp"
flags = ["quic", "udp-stable-routing", "local-vip", "global-lru", "udp-flow-migration"]
reals = [{ address = "2001:db8:ba::fe", local = true, down = true }]

[[server_id]]
id = 4097
real = "198.51.100.11"

[health_check_path]
interface = "hc0"
max_frame = 1480

[[health_check]]
mark = 7
real = "198.51.100.11"

[[health_check]]
mark = 0x80000000
real = "2001:db8:f::1"

[[source_route]]
prefix = "192.0.2.0/24"
real = "198.51.100.12"
"#;
    check(text, &["valid"]);
}

#[test]
fn a_real_is_local_in_every_vip_or_in_none() {
    let other = "\n[[vip]]\naddress = \"203.0.113.11\"\nport = 80\nprotocol = \"tcp\"\n\
                 reals = [{ address = \"192.0.2.254\" }]\n";
    check(
        &(vip("reals = [{ address = \"192.0.2.254\", local = true }]") + other),
        &[
            "lb.toml:11: vip[1] (203.0.113.11:80/tcp).reals[0].local: 192.0.2.254 is local = false here \
             and true in vip[0] on line 1; say the same in every VIP: a real is this host or it is not",
        ],
    );
}

#[test]
fn unknown_keys_and_sections_are_refused() {
    check(
        "[interfce]\nname = \"eth0\"\n",
        &["lb.toml:1: unknown key `interfce`; did you mean `interface`?"],
    );
    check(
        "[metrics]\nport = 1\n",
        &[
            "lb.toml:1: unknown key `metrics`; the keys here are interface, balancer, admin, vip, \
           server_id, source_route, decap, health_check_path, health_check",
        ],
    );
    check(
        "[interface]\nname = \"eth0\"\nmtu = 1500\n",
        &[
            "lb.toml:3: interface: unknown key `mtu`; the keys here are name, queues, mode, \
           next_hop_mac, xdp_mode, frames, cpus, priority, busy_poll, spin_us, huge_pages",
        ],
    );
    check(
        &vip("reals = [{ address = \"198.51.100.11\", weigth = 1 }]"),
        &[
            "lb.toml:5: vip[0] (203.0.113.10:80/tcp).reals[0]: unknown key `weigth`; did you mean \
           `weight`?",
        ],
    );
    check(
        &vip("flag = []"),
        &["lb.toml:5: vip[0] (203.0.113.10:80/tcp): unknown key `flag`; did you mean `flags`?"],
    );
}

#[test]
fn wrong_types_are_refused() {
    check(
        "interface = 1\n",
        &["lb.toml:1: interface: 1 is a whole number; give a table headed [interface]"],
    );
    check(
        "vip = \"x\"\n",
        &["lb.toml:1: vip: \"x\" is a string; give tables headed [[vip]]"],
    );
    check(
        "vip = [1]\n",
        &["lb.toml:1: vip[0]: 1 is a whole number; give tables headed [[vip]]"],
    );
    check(
        "[vip]\naddress = \"203.0.113.10\"\n",
        &["lb.toml:1: vip: [vip] is a table; give tables headed [[vip]]"],
    );
    check(
        "[interface]\nname = 5\nhuge_pages = \"yes\"\nqueues = 4\nmode = false\n",
        &[
            "lb.toml:2: interface.name: 5 is a whole number; give a string as in \"eth0\"",
            "lb.toml:3: interface.huge_pages: \"yes\" is a string; give true or false",
            "lb.toml:4: interface.queues: 4 is a whole number; give a string as in \"0-15\"",
            "lb.toml:5: interface.mode: false is a boolean; give \"auto\", \"zero-copy\" or \"copy\"",
        ],
    );
    check(
        "[balancer]\nmax_frame = 1514.0\ngue_port = \"6080\"\nflow_table_capacity = 1979-05-27\n",
        &[
            "lb.toml:2: balancer.max_frame: 1514.0 is a number with a fraction; give a whole number \
             from 74 to 3500",
            "lb.toml:3: balancer.gue_port: \"6080\" is a string; give a whole number from 1 to 65535",
            "lb.toml:4: balancer.flow_table_capacity: 1979-05-27 is a date; give a whole number from 1 \
             to 134217728",
        ],
    );
    check(
        &vip("flags = \"no-src-port\"\nreals = { address = \"198.51.100.11\" }"),
        &[
            "lb.toml:5: vip[0] (203.0.113.10:80/tcp).flags: \"no-src-port\" is a string; give an array \
             of flag names",
            "lb.toml:6: vip[0] (203.0.113.10:80/tcp).reals: { address = \"198.51.100.11\" } is a \
             table; give an array as in [{ address = \"198.51.100.11\", weight = 1 }]",
        ],
    );
    check(
        &vip("flags = [1]\nreals = [\"198.51.100.11\"]"),
        &[
            "lb.toml:5: vip[0] (203.0.113.10:80/tcp).flags: 1 is a whole number; give a string",
            "lb.toml:6: vip[0] (203.0.113.10:80/tcp).reals[0]: \"198.51.100.11\" is a string; give an \
             array as in [{ address = \"198.51.100.11\", weight = 1 }]",
        ],
    );
}

#[test]
fn interface_values_are_checked() {
    for (line, complaint) in [
        (
            "name = \"a name\"",
            "name: \"a name\" is not an interface name; give 1 to 15 characters without slash, colon \
             or space, as `ip link` shows them",
        ),
        (
            "queues = \"0-\"",
            "queues: \"0-\" is not a list of indices: `0-` is neither a number nor a range; write a \
             list as in 0-15 or 0,2,4-7",
        ),
        (
            "queues = \"\"",
            "queues: \"\" is not a list of indices: an index is missing; write a list as in 0-15 or \
             0,2,4-7",
        ),
        (
            "queues = \"0-3,2\"",
            "queues: \"0-3,2\" is not a list of indices: 2 appears twice; name each index once",
        ),
        (
            "queues = \"256\"",
            "queues: queue 256 is too large; name queues from 0 to 255",
        ),
        (
            "cpus = \"3-1\"",
            "cpus: \"3-1\" is not a list of indices: the range 3-1 runs backwards; write the smaller \
             index first",
        ),
        (
            "mode = \"zerocopy\"",
            "mode: \"zerocopy\" is not known here; did you mean \"zero-copy\"?",
        ),
        (
            "xdp_mode = \"offload\"",
            "xdp_mode: \"offload\" is not known here; give \"auto\", \"native\" or \"generic\"",
        ),
        (
            "next_hop_mac = \"02:00:00:00:cc\"",
            "next_hop_mac: \"02:00:00:00:cc\" is not an Ethernet address; write one as in \
             \"02:00:00:00:cc:03\"",
        ),
        (
            "next_hop_mac = \"01:00:5e:00:00:01\"",
            "next_hop_mac: 01:00:5e:00:00:01 is a group address; give the router's own Ethernet \
             address, whose first octet is even",
        ),
        (
            "next_hop_mac = \"00:00:00:00:00:00\"",
            "next_hop_mac: 00:00:00:00:00:00 is no station's address; give the router's own Ethernet \
             address, or leave the key out to have it resolved",
        ),
        (
            "frames = 100",
            "frames: 100 is not a number of frames; give a whole number from 128 to 262144",
        ),
        (
            "busy_poll = 50",
            "busy_poll: 50 is a whole number; give true or false",
        ),
        (
            "mode = \"zero-copy\"\nxdp_mode = \"generic\"",
            "mode: zero-copy takes an XDP program in the driver, and xdp_mode is generic; give mode \
             \"auto\" or \"copy\", or xdp_mode \"auto\" or \"native\"",
        ),
        (
            "priority = \"rt\"\nspin_us = 50",
            "priority: rt and spin_us exclude each other: a worker that outranks other threads has to \
             sleep; leave spin_us out, or give priority \"auto\" or \"normal\"",
        ),
        (
            "spin_us = 1_000_001",
            "spin_us: 1_000_001 is not a number of microseconds; give a whole number from 1 to 1000000",
        ),
    ] {
        check(
            &format!("[interface]\n{line}\n"),
            &[&format!("lb.toml:2: interface.{complaint}")],
        );
    }
}

#[test]
fn balancer_values_are_checked() {
    for (lines, number, complaint) in [
        (
            "hash = \"maglev-v3\"",
            2,
            "hash: \"maglev-v3\" is not known here; give \"maglev-v1\" or \"maglev-v2\"",
        ),
        (
            "encapsulation = \"gre\"",
            2,
            "encapsulation: \"gre\" is not known here; give \"ipip\" or \"gue\"",
        ),
        (
            "gue_port = 0",
            2,
            "gue_port: 0 is not a UDP port; give a whole number from 1 to 65535",
        ),
        (
            "source_v4 = \"2001:db8::1\"",
            2,
            "source_v4: \"2001:db8::1\" is not an IPv4 address; write one as in \"192.0.2.1\"",
        ),
        (
            "source_v6 = \"192.0.2.1\"",
            2,
            "source_v6: \"192.0.2.1\" is not an IPv6 address; write one as in \"2001:db8::1\"",
        ),
        (
            "source_v4 = \"224.0.0.1\"",
            2,
            "source_v4: 224.0.0.1 is a multicast address; give the address of one host",
        ),
        (
            "source_v6 = \"::\"",
            2,
            "source_v6: :: is the unspecified address; give the address of one host",
        ),
        (
            "flow_table_capacity = 0",
            2,
            "flow_table_capacity: 0 is not a number of flows; give a whole number from 1 to 134217728",
        ),
        (
            "flow_table_capacity = 99999999999999999999999",
            2,
            "flow_table_capacity: 99999999999999999999999 is not a number of flows; give a whole number \
             from 1 to 134217728",
        ),
        (
            "global_table_capacity = 0",
            2,
            "global_table_capacity: 0 is not a number of flows; give a whole number from 1 to 134217728",
        ),
        (
            "connection_rate_cap = 0",
            2,
            "connection_rate_cap: 0 is not a number of connections per second; give a whole number \
             from 1 to 4294967295",
        ),
        (
            "max_frame = 73",
            2,
            "max_frame: 73 is not a frame length in bytes; give a whole number from 74 to 3500",
        ),
        (
            "max_frame = 3501",
            2,
            "max_frame: 3501 is not a frame length in bytes; give a whole number from 74 to 3500",
        ),
        (
            "max_frame = 1293\nicmp_too_big = true",
            3,
            "icmp_too_big: max_frame = 1293 would announce an MTU below IPv6's minimum of 1280; give \
             max_frame at least 1294, or icmp_too_big = false",
        ),
        (
            "gue_port = 6081\nencapsulation = \"gue\"",
            3,
            "encapsulation: \"gue\" needs an outer source address; give source_v4 or source_v6 in \
             [balancer], or encapsulation = \"ipip\"",
        ),
    ] {
        check(
            &format!("[balancer]\n{lines}\n"),
            &[&format!("lb.toml:{number}: balancer.{complaint}")],
        );
    }
}

#[test]
fn gue_needs_a_source_of_each_family_in_use() {
    let file = |source: &str, real: &str| {
        format!(
            "[balancer]\nencapsulation = \"gue\"\n{source}\n{}",
            vip(&format!("reals = [{{ address = \"{real}\" }}]"))
        )
    };
    check(
        &file("source_v4 = \"192.0.2.1\"", "198.51.100.11"),
        &["valid"],
    );
    check(
        &file("source_v6 = \"2001:db8::1\"", "2001:db8:f::1"),
        &["valid"],
    );
    check(
        &file("source_v6 = \"2001:db8::1\"", "198.51.100.11"),
        &[
            "lb.toml:8: vip[0] (203.0.113.10:80/tcp).reals[0].address: GUE to 198.51.100.11 needs an \
           IPv4 source; give source_v4 in [balancer]",
        ],
    );
    check(
        &file("source_v4 = \"192.0.2.1\"", "2001:db8:f::1"),
        &[
            "lb.toml:8: vip[0] (203.0.113.10:80/tcp).reals[0].address: GUE to 2001:db8:f::1 needs an \
           IPv6 source; give source_v6 in [balancer]",
        ],
    );
    // A source that is there and wrong is not missing as well.
    check(
        &file("source_v4 = \"192.0.2\"", "198.51.100.11"),
        &[
            "lb.toml:3: balancer.source_v4: \"192.0.2\" is not an IPv4 address; write one as in \
           \"192.0.2.1\"",
        ],
    );
}

/// A health check with its mark on line 3 and its real on line 4 behind one line of `[balancer]`.
fn health_check(balancer: &str, mark: &str, real: &str) -> String {
    format!(
        "[[health_check]]\n# as the prober sets it\nmark = {mark}\nreal = \"{real}\"\n[balancer]\n{balancer}\n"
    )
}

#[test]
fn health_checks_need_a_mark_a_real_and_a_source_of_its_family() {
    const BOTH: &str = "source_v4 = \"192.0.2.1\"\nsource_v6 = \"2001:db8::1\"";
    for (balancer, real) in [
        ("source_v4 = \"192.0.2.1\"", "198.51.100.11"),
        ("source_v6 = \"2001:db8::1\"", "2001:db8:f::1"),
    ] {
        check(&health_check(balancer, "0xffffffff", real), &["valid"]);
    }
    for (balancer, mark, real, complaint) in [
        (
            BOTH,
            "0",
            "198.51.100.11",
            "3: health_check[0].mark: 0 is not a mark; give a whole number from 1 to 4294967295",
        ),
        (
            BOTH,
            "4294967296",
            "198.51.100.11",
            "3: health_check[0].mark: 4294967296 is not a mark; give a whole number from 1 to 4294967295",
        ),
        (
            BOTH,
            "7",
            "198.51.100",
            "4: health_check[0].real: \"198.51.100\" is not an IP address; write one as in \
             \"198.51.100.11\"",
        ),
        (
            BOTH,
            "7",
            "ff02::1",
            "4: health_check[0].real: ff02::1 is a multicast address; give the address of one host",
        ),
        (
            "source_v6 = \"2001:db8::1\"",
            "7",
            "198.51.100.11",
            "4: health_check[0].real: a probe to 198.51.100.11 needs an IPv4 outer source; give \
             source_v4 in [balancer]: an address of this host",
        ),
        (
            "source_v4 = \"192.0.2.1\"",
            "7",
            "2001:db8:f::1",
            "4: health_check[0].real: a probe to 2001:db8:f::1 needs an IPv6 outer source; give \
             source_v6 in [balancer]: an address of this host",
        ),
        // A source that is there and wrong is not missing as well.
        (
            "source_v4 = \"192.0.2\"",
            "7",
            "198.51.100.11",
            "6: balancer.source_v4: \"192.0.2\" is not an IPv4 address; write one as in \"192.0.2.1\"",
        ),
    ] {
        check(
            &health_check(balancer, mark, real),
            &[&format!("lb.toml:{complaint}")],
        );
    }
    check(
        "[[health_check]]\n",
        &[
            "lb.toml:1: health_check[0].mark: missing; give the sockets' mark as in mark = 7",
            "lb.toml:1: health_check[0].real: missing; give an IP address as in real = \
             \"198.51.100.11\"",
        ],
    );
    let one = "[[health_check]]\nmark = 7\nreal = \"198.51.100.11\"\n";
    check(
        &format!("{one}{one}[balancer]\nsource_v4 = \"192.0.2.1\"\n"),
        &[
            "lb.toml:5: health_check[1].mark: 7 is already the mark of health_check[0] on line 1; give \
             each mark once",
        ],
    );
}

#[test]
fn the_health_check_path_is_checked() {
    check(
        "[health_check_path]\ninterface = \"a/b\"\nmax_frame = 59\nmin_frame = 1\n",
        &[
            "lb.toml:2: health_check_path.interface: \"a/b\" is not an interface name; give 1 to 15 \
             characters without slash, colon or space, as `ip link` shows them",
            "lb.toml:3: health_check_path.max_frame: 59 is not a frame length in bytes; give a whole \
             number from 60 to 65549",
            "lb.toml:4: health_check_path: unknown key `min_frame`; did you mean `max_frame`?",
        ],
    );
}

#[test]
fn more_health_checks_than_can_be_held_are_refused() {
    let mut text = String::from("[balancer]\nsource_v4 = \"192.0.2.1\"\n");
    for mark in 1..=4097 {
        let _ = writeln!(
            text,
            "[[health_check]]\nmark = {mark}\nreal = \"198.51.100.11\""
        );
    }
    check(
        &text,
        &["lb.toml: health_check: 4097 health checks are too many; keep at most 4096"],
    );
}

#[test]
fn admin_values_are_checked() {
    check(
        "[admin]\nsocket = \"\"\nmode = \"660\"\n",
        &[
            "lb.toml:2: admin.socket: \"\" is not a path for a socket; give a path of 1 to 107 bytes",
        ],
    );
    for mode in ["1660", "66", "0690", "rw-rw----"] {
        check(
            &format!("[admin]\nmode = \"{mode}\"\n"),
            &[&format!(
                "lb.toml:2: admin.mode: \"{mode}\" is not a file mode; give three octal digits with a \
                 zero in front, as in \"0660\""
            )],
        );
    }
    check(
        "[admin]\nmode = 660\n",
        &["lb.toml:2: admin.mode: 660 is a whole number; give a string as in \"0660\""],
    );
}

#[test]
fn a_vip_needs_address_port_and_protocol() {
    check(
        "[[vip]]\n",
        &[
            "lb.toml:1: vip[0].address: missing; give the VIP's address as in address = \
             \"203.0.113.10\"",
            "lb.toml:1: vip[0].port: missing; give the VIP's port, or port = 0 for any",
            "lb.toml:1: vip[0].protocol: missing; give protocol = \"tcp\" or protocol = \"udp\"",
        ],
    );
    check(
        &vip("reals = [{ weight = 1 }]"),
        &[
            "lb.toml:5: vip[0] (203.0.113.10:80/tcp).reals[0].address: missing; give an IP address as in \
           address = \"198.51.100.11\"",
        ],
    );
}

#[test]
fn vip_values_are_checked() {
    let file = |address: &str, port: &str, protocol: &str| {
        format!("[[vip]]\naddress = \"{address}\"\nport = {port}\nprotocol = \"{protocol}\"\n")
    };
    for (port, shown) in [("70000", "70000"), ("-1", "-1"), ("0x1_0000", "0x1_0000")] {
        check(
            &file("203.0.113.10", port, "tcp"),
            &[&format!(
                "lb.toml:3: vip[0].port: {shown} is not a port; give a whole number from 0 to 65535"
            )],
        );
    }
    check(
        &file("203.0.113.10", "80", "sctp"),
        &["lb.toml:4: vip[0].protocol: \"sctp\" is not known here; give \"tcp\" or \"udp\""],
    );
    for (address, complaint) in [
        (
            "203.0.113",
            "vip[0].address: \"203.0.113\" is not an IP address or prefix; write one as in \
             \"203.0.113.10\" or \"2001:db8:a::/96\"",
        ),
        (
            "2001:db8::/129",
            "vip[0].address: \"2001:db8::/129\" has no valid prefix length; give a length from 0 to \
             128 after the slash",
        ),
        (
            "203.0.113.0/+8",
            "vip[0].address: \"203.0.113.0/+8\" has no valid prefix length; give a length from 0 to 32 \
             after the slash",
        ),
        (
            "203.0.113.0/24",
            "vip[0] (203.0.113.0:80/tcp).address: 203.0.113.0/24 is an IPv4 prefix; give a VIP for \
             each address; prefixes are for IPv6",
        ),
        (
            "2001:db8:a::1/96",
            "vip[0] ([2001:db8:a::1/96]:80/tcp).address: 2001:db8:a::1/96 has host bits set; write \
             2001:db8:a::/96",
        ),
        (
            "0.0.0.0",
            "vip[0] (0.0.0.0:80/tcp).address: 0.0.0.0 is the unspecified address; give the address of \
             one host",
        ),
        (
            "::/0",
            "vip[0] ([::/0]:80/tcp).address: :: is the unspecified address; give the address of one \
             host",
        ),
        (
            "239.1.2.3",
            "vip[0] (239.1.2.3:80/tcp).address: 239.1.2.3 is a multicast address; give the address of \
             one host",
        ),
        (
            "ff02::/16",
            "vip[0] ([ff02::/16]:80/tcp).address: ff02:: is a multicast address; give the address of \
             one host",
        ),
        (
            "255.255.255.255",
            "vip[0] (255.255.255.255:80/tcp).address: 255.255.255.255 is the broadcast address; give \
             the address of one host",
        ),
        (
            "::ffff:203.0.113.10",
            "vip[0] ([::ffff:203.0.113.10]:80/tcp).address: ::ffff:203.0.113.10 is an IPv4-mapped \
             address; write 203.0.113.10",
        ),
    ] {
        check(
            &file(address, "80", "tcp"),
            &[&format!("lb.toml:2: {complaint}")],
        );
    }
    for (address, length) in [("203.0.113.10", 32), ("2001:db8::1", 128)] {
        let [plain, whole] = [address.to_owned(), format!("{address}/{length}")].map(|address| {
            let config = Config::parse(&file(&address, "80", "tcp"), "lb.toml").unwrap();
            config.vips[0].key
        });
        assert_eq!(
            whole, plain,
            "a length that leaves one address makes no prefix"
        );
    }
    check(
        &vip("hash = \"maglev\"\nflags = [\"no-source-port\", \"no-src-prt\"]"),
        &[
            "lb.toml:5: vip[0] (203.0.113.10:80/tcp).hash: \"maglev\" is not known here; give \
             \"maglev-v1\" or \"maglev-v2\"",
            "lb.toml:6: vip[0] (203.0.113.10:80/tcp).flags: \"no-source-port\" is not known here; give \
             \"no-src-port\", \"lru-bypass\", \"quic\", \"dport-only\", \"src-routing\", \
             \"local-vip\", \"global-lru\", \"src-dst-port\", \"udp-stable-routing\" or \
             \"udp-flow-migration\"",
            "lb.toml:6: vip[0] (203.0.113.10:80/tcp).flags: \"no-src-prt\" is not known here; did you \
             mean \"no-src-port\"?",
        ],
    );
    check(
        &vip("flags = [\"quic\", \"quic\"]"),
        &[
            "lb.toml:5: vip[0] (203.0.113.10:80/tcp).flags: \"quic\" is there already; give each flag once",
        ],
    );
}

#[test]
fn real_values_are_checked() {
    let file = |real: &str| vip(&format!("reals = [{{ {real} }}]"));
    for weight in ["-1", "4294967296"] {
        check(
            &file(&format!("address = \"198.51.100.11\", weight = {weight}")),
            &[&format!(
                "lb.toml:5: vip[0] (203.0.113.10:80/tcp).reals[0].weight: {weight} is not a weight; \
                 give a whole number from 0 to 4294967295"
            )],
        );
    }
    for (real, complaint) in [
        (
            "address = \"198.51.100\"",
            "\"198.51.100\" is not an IP address; write one as in \"198.51.100.11\"",
        ),
        (
            "address = \"198.51.100.0/24\"",
            "\"198.51.100.0/24\" is not an IP address; write one as in \"198.51.100.11\"",
        ),
        (
            "address = \"0.0.0.0\"",
            "0.0.0.0 is the unspecified address; give the address of one host",
        ),
        (
            "address = \"ff02::1\"",
            "ff02::1 is a multicast address; give the address of one host",
        ),
    ] {
        check(
            &file(real),
            &[&format!(
                "lb.toml:5: vip[0] (203.0.113.10:80/tcp).reals[0].address: {complaint}"
            )],
        );
    }
    check(
        "[[vip]]\naddress = \"2001:db8::1\"\nport = 80\nprotocol = \"tcp\"\nreals = [\n  { address = \
         \"2001:db8:f::1\" },\n  { address = \"198.51.100.11\" },\n]\n",
        &[
            "lb.toml:7: vip[0] ([2001:db8::1]:80/tcp).reals[1].address: 198.51.100.11 is an IPv4 real of \
           an IPv6 VIP; give the real's IPv6 address",
        ],
    );
}

#[test]
fn duplicates_name_both_places() {
    check(
        &format!("{}{}", vip(""), vip("")),
        &[
            "lb.toml:7: vip[1] (203.0.113.10:80/tcp).address: the same address, port and protocol as \
           vip[0] on line 1; merge the two or remove one",
        ],
    );
    check(
        &vip(
            "reals = [\n{ address = \"198.51.100.11\" },\n{ address = \"198.51.100.11\", weight = 2 },\n]",
        ),
        &[
            "lb.toml:7: vip[0] (203.0.113.10:80/tcp).reals[1].address: 198.51.100.11 is already reals[0] \
           on line 6; name each real of a VIP once",
        ],
    );
    check(
        "[interface]\nname = \"a\"\nname = \"b\"\n",
        &["lb.toml:3: not TOML: duplicate key; correct the syntax"],
    );
}

#[test]
fn lists_of_sections_are_checked() {
    check(
        "[[server_id]]\nid = 0\nreal = \"198.51.100.11\"\n[[server_id]]\nid = 7\nreal = \"x\"\n\
         [[server_id]]\nid = 9\nreal = \"198.51.100.11\"\n[[server_id]]\nid = 9\nreal = \
         \"198.51.100.12\"\n",
        &[
            "lb.toml:2: server_id[0].id: 0 is not a server id; give a whole number from 1 to \
             2147483647",
            "lb.toml:6: server_id[1].real: \"x\" is not an IP address; write one as in \
             \"198.51.100.11\"",
            "lb.toml:11: server_id[3].id: 9 is already the id of server_id[2] on line 7; give each id \
             once",
        ],
    );
    check(
        "[[source_route]]\nprefix = \"192.0.2.1/24\"\nreal = \"198.51.100.11\"\n[[source_route]]\n\
         prefix = \"2001:db8::/32\"\nreal = \"198.51.100.11\"\n",
        &[
            "lb.toml:2: source_route[0].prefix: 192.0.2.1/24 has host bits set; write 192.0.2.0/24",
            "lb.toml:6: source_route[1].real: 198.51.100.11 is an IPv4 real for IPv6 clients; give the \
             real's IPv6 address",
        ],
    );
    check(
        "[[source_route]]\nprefix = \"192.0.2.0/24\"\nreal = \"224.0.0.1\"\n[[source_route]]\n\
         prefix = \"198.51.100.0/24\"\nreal = \"x\"\n[[source_route]]\nprefix = \"192.0.2.0/24\"\n\
         real = \"198.51.100.1\"\n",
        &[
            "lb.toml:6: source_route[1].real: \"x\" is not an IP address; write one as in \
             \"198.51.100.11\"",
            "lb.toml:8: source_route[2].prefix: 192.0.2.0/24 is already the prefix of source_route[0] on \
             line 2; give each prefix once",
        ],
    );
    check(
        "[[source_route]]\nprefix = \"192.0.2.0/24\"\nreal = \"224.0.0.1\"\n",
        &[
            "lb.toml:3: source_route[0].real: 224.0.0.1 is a multicast address; give the address of one \
             host",
        ],
    );
    check(
        "[balancer]\nencapsulation = \"gue\"\nsource_v4 = \"192.0.2.1\"\n[[source_route]]\n\
         prefix = \"192.0.2.0/24\"\nreal = \"2001:db8::5\"\n",
        &[
            "lb.toml:6: source_route[0].real: GUE to 2001:db8::5 needs an IPv6 source; give source_v6 in \
             [balancer]",
        ],
    );
    check(
        "[[decap]]\n[[decap]]\naddress = \"224.0.0.1\"\negress = 1\n",
        &[
            "lb.toml:1: decap[0].address: missing; give an IP address as in address = \
             \"2001:db8:d::1\"",
            "lb.toml:3: decap[1].address: 224.0.0.1 is a multicast address; give the address of one \
             host",
            "lb.toml:4: decap[1].egress: 1 is a whole number; give true or false",
        ],
    );
}

#[test]
fn limits_on_numbers_hold() {
    let vips = |count: usize| -> String {
        let vip = |port| {
            format!("[[vip]]\naddress = \"203.0.113.10\"\nport = {port}\nprotocol = \"tcp\"\n")
        };
        (0..count).map(vip).collect::<Vec<_>>().concat()
    };
    check(&vips(512), &["valid"]);
    check(
        &vips(513),
        &["lb.toml: vip: 513 VIPs are too many; keep at most 512"],
    );
    let reals = |count: u32| -> String {
        let reals: Vec<_> = (0..count)
            .map(|number| format!("{{ address = \"10.0.{}.{}\" }}", number >> 8, number & 255))
            .collect();
        vip(&format!("reals = [{}]", reals.join(", ")))
    };
    check(&reals(4095), &["valid"]);
    check(
        &reals(4096),
        &["lb.toml: vip: 4096 different reals are too many; keep at most 4095"],
    );
}

#[test]
fn syntax_errors_have_their_line() {
    let first = complaints("[interface]\nname = \"eth0\nqueues = \"0\"\n");
    assert!(first.starts_with("lb.toml:2: not TOML: "), "{first}");
    let complaint = complaints("[interface\n");
    assert!(
        complaint.starts_with("lb.toml:1: not TOML: "),
        "{complaint}"
    );
    let nested = complaints(
        &"a="
            .to_owned()
            .chars()
            .chain("[".repeat(10_000).chars())
            .collect::<String>(),
    );
    assert!(nested.starts_with("lb.toml:1: not TOML: "), "{nested}");
}

#[test]
fn a_long_value_is_shown_in_part() {
    let value = "x".repeat(500);
    check(
        &format!("[interface]\nmode = \"{value}\"\n"),
        &[&format!(
            "lb.toml:2: interface.mode: \"{}… is not known here; give \"auto\", \"zero-copy\" or \
             \"copy\"",
            "x".repeat(59)
        )],
    );
}

#[test]
fn warnings_are_not_errors() {
    let warnings = |text: &str| -> Vec<String> {
        let config = Config::parse(text, "lb.toml").unwrap();
        config.warnings().iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        warnings(&vip("")),
        [
            "vip[0] (203.0.113.10:80/tcp).reals: the VIP has no reals: its packets are dropped; add a real"
        ]
    );
    assert_eq!(
        warnings(&vip(
            "reals = [{ address = \"198.51.100.11\", weight = 0 }]"
        )),
        [
            "vip[0] (203.0.113.10:80/tcp).reals: all weights are 0: packets of new flows are dropped; \
          give a real a weight above 0"
        ]
    );
    let link_local =
        vip("reals = [{ address = \"2001:db8::11\" }]").replace("203.0.113.10", "fe80::1");
    assert_eq!(
        warnings(&link_local),
        [
            "vip[0] ([fe80::1]:80/tcp).address: a link-local address, to which no router forwards packets; give an \
             address that routers know"
        ]
    );
    let kept = "[balancer]\nkeep_last_ring = true\n";
    for (reals, problem) in [
        ("", "the VIP has no reals: its packets"),
        (
            "reals = [{ address = \"198.51.100.11\", weight = 0 }]",
            "all weights are 0: packets of new flows",
        ),
    ] {
        let [warning] = &warnings(&format!("{kept}{}", vip(reals)))[..] else {
            panic!("one warning")
        };
        assert!(
            warning.contains(&format!(
                "{problem} go where its last ring says, if it had one, and are dropped after a restart; "
            )),
            "{warning}"
        );
    }
    assert_eq!(
        warnings(&vip(
            "flags = [\"global-lru\", \"lru-bypass\"]\nreals = [{ address = \"198.51.100.11\" }]"
        )),
        [
            "vip[0] (203.0.113.10:80/tcp).flags: global-lru does nothing beside lru-bypass or dport-only: no \
          flows are stored; remove one of the flags"
        ],
    );
    assert_eq!(
        warnings(&vip(
            "flags = [\"local-vip\"]\nreals = [{ address = \"192.0.2.254\" }]"
        )),
        [
            "vip[0] (203.0.113.10:80/tcp).flags: local-vip does nothing: none of the VIP's reals is local; \
          give the real that is this host local = true, or remove the flag"
        ],
    );
    assert_eq!(
        warnings(&vip(
            "flags = [\"quic\", \"udp-stable-routing\"]\nreals = [{ address = \"198.51.100.11\" }]"
        )),
        [
            "vip[0] (203.0.113.10:80/tcp).flags: quic takes bytes of the TCP header for a connection id: QUIC \
          is UDP; remove the flag, or give protocol = \"udp\"",
            "vip[0] (203.0.113.10:80/tcp).flags: udp-stable-routing does nothing: the VIP is not a UDP one; \
          remove the flag, or give protocol = \"udp\"",
        ],
    );
    assert_eq!(
        warnings(&vip(
            "reals = [{ address = \"192.0.2.254\", local = true }]"
        )),
        [
            "vip[0] (203.0.113.10:80/tcp).reals[0].local: the VIP does not have the flag local-vip: packets \
          for this real are encapsulated; add the flag, or remove local = true"
        ],
    );
    assert_eq!(
        warnings(&vip(
            "flags = [\"local-vip\"]\nreals = [{ address = \"192.0.2.254\", local = true }]"
        )),
        [""; 0]
    );
    for address in ["127.0.0.2", "::1"] {
        let own = format!("reals = [{{ address = \"{address}\" }}]");
        let [warning] = &warnings(&vip(&own))[..] else {
            panic!("one warning")
        };
        assert!(
            warning.ends_with(&format!(
                ".reals[0].address: {address} is a loopback address, to which nobody forwards packets; \
                 give the real's own address"
            )),
            "{warning}"
        );
    }
    let named = "[[server_id]]\nid = 7\nreal = \"198.51.100.11\"\n";
    let read_by = |flags: &str, protocol: &str, balancer: &str| {
        let vip = vip(&format!(
            "flags = [{flags}]\nreals = [{{ address = \"198.51.100.11\" }}]"
        ));
        let vip = vip.replace("\"tcp\"", protocol);
        warnings(&format!("{balancer}{vip}\n{named}")).concat()
    };
    let tcp_option = "[balancer]\ntcp_server_id = true\n";
    for (flags, protocol, balancer, warned) in [
        ("", "\"tcp\"", "", true),
        ("", "\"udp\"", tcp_option, true),
        ("\"udp-stable-routing\"", "\"udp\"", "", false),
        ("\"quic\"", "\"udp\"", "", false),
        ("", "\"tcp\"", tcp_option, false),
    ] {
        let warnings = read_by(flags, protocol, balancer);
        assert_eq!(
            warnings.contains("server_id: no VIP reads server ids"),
            warned,
            "{warnings}"
        );
    }
    assert_eq!(
        warnings(&vip("reals = [{ address = \"203.0.113.10\" }]")),
        [
            "vip[0] (203.0.113.10:80/tcp).reals[0].address: 203.0.113.10 is also the address of \
          VIP 203.0.113.10:80/tcp: packets may come back; give the real's own address"
        ]
    );
    let checks = "reals = [{ address = \"198.51.100.11\" }]\n\
                  [balancer]\nsource_v4 = \"192.0.2.2\"\n\
                  [[health_check]]\nmark = 5\nreal = \"127.0.0.1\"\n\
                  [[health_check]]\nmark = 6\nreal = \"203.0.113.10\"\n";
    assert_eq!(
        warnings(&vip(checks)),
        [
            "health_check[0].real: 127.0.0.1 is a loopback address, to which nobody forwards packets; give the \
             real's own address",
            "health_check[1].real: 203.0.113.10 is also the address of VIP 203.0.113.10:80/tcp: packets may come \
             back; give the real's own address",
        ]
    );
    let weights = "hash = \"maglev-v1\"\nreals = [{ address = \"198.51.100.11\", weight = 1 }, { address \
                   = \"198.51.100.12\", weight = 10 }]";
    let v1 = warnings(&vip(weights));
    assert_eq!(v1.len(), 1);
    assert!(
        v1[0].starts_with(
            "vip[0] (203.0.113.10:80/tcp).reals: weights add up to 11, less than the 65537 slots"
        ),
        "{v1:?}"
    );
    assert_eq!(warnings(&vip(&weights.replace("v1", "v2"))), [""; 0]);
    assert_eq!(
        warnings("[admin]\nmode = \"0666\"\n"),
        [
            "admin.mode: 0666 lets every user of this host manage the balancer; use \"0660\" and a group"
        ]
    );
}

#[test]
fn a_real_should_be_no_decap_destination_of_this_balancer() {
    let text = |decap: &str| {
        format!(
            "[[vip]]\naddress = \"203.0.113.10\"\nport = 443\nprotocol = \"udp\"\n\
             flags = [\"quic\", \"src-routing\", \"local-vip\"]\nreals = [\n\
             {{ address = \"192.0.2.254\", local = true }}, {{ address = \"198.51.100.11\" }},\n\
             {{ address = \"198.51.100.12\" }}]\n\
             [[server_id]]\nid = 7\nreal = \"198.51.100.13\"\n\
             [[server_id]]\nid = 8\nreal = \"192.0.2.254\"\n\
             [[source_route]]\nprefix = \"192.0.2.0/24\"\nreal = \"2001:db8::14\"\n\
             [[source_route]]\nprefix = \"2001:db8::/64\"\nreal = \"2001:db8::14\"\n\
             [[decap]]\naddress = \"203.0.113.99\"\n{decap}"
        )
    };
    let warnings = |text: &str| -> Vec<String> {
        let warnings = Config::parse(text, "lb.toml").unwrap().warnings();
        warnings.iter().map(ToString::to_string).collect()
    };
    assert_eq!(warnings(&text("")), [""; 0]);
    for (address, field) in [
        (
            "198.51.100.12",
            "vip[0] (203.0.113.10:443/udp).reals[2].address",
        ),
        ("198.51.100.13", "server_id"),
        ("2001:db8::14", "source_route"),
    ] {
        assert_eq!(
            warnings(&text(&format!("[[decap]]\naddress = \"{address}\"\n"))),
            [format!(
                "{field}: {address} is also the address of decap[1]: tunnels to it that come here are taken \
                 apart and balanced again, so packets may go round until their TTL is used up; give the real's \
                 own address, or remove the decap destination"
            )]
        );
    }
    assert_eq!(
        warnings(&text("[[decap]]\naddress = \"192.0.2.254\"\n")),
        [""; 0],
        "a local real gets no tunnels"
    );
}
