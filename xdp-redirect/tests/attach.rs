//! Attaching and detaching on real interfaces, in network namespaces of their own.

mod support;

use std::{
    net::UdpSocket,
    os::fd::AsFd as _,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use support::{
    frame::{IPV4, UDP, ethernet, ipv4, udp},
    is_privileged,
    namespace::{Namespace, index, ip, veth},
    wait_for,
    wire::Wire,
    xsk::XskSocket,
};
use xdp_redirect::{
    AttachError, AttachedMode, Decap, DecapOptions, PassProgram, Redirect,
    RedirectCounter::{PassedNoSocket, RedirectedService},
    VipEntry, XdpMode, attached_program,
};

const MODES: [(XdpMode, AttachedMode); 2] = [
    (XdpMode::Native, AttachedMode::Native),
    (XdpMode::Generic, AttachedMode::Generic),
];

const VIP: &str = "203.0.113.10";
/// Set in the process that is to be killed.
const CHILD: &str = "XDP_REDIRECT_TEST_CHILD";

fn is_free(interface: &str) -> bool {
    attached_program(interface)
        .expect("the kernel answers")
        .is_none()
}

/// Whether the interface loses its program, now or as soon as the last descriptor is closed.
fn becomes_free(interface: &str) -> bool {
    wait_for(|| is_free(interface))
}

#[test]
fn the_interface_is_left_as_it_was_found() {
    if !is_privileged("the_interface_is_left_as_it_was_found") {
        return;
    }
    let _namespace = Namespace::enter_new();
    veth("balancer", "client", 1);
    assert!(is_free("balancer"));
    for (mode, attached) in MODES {
        let mut redirect = Redirect::attach("balancer", mode).expect("attached");
        assert_eq!(redirect.mode(), Some(attached));
        assert_eq!(redirect.fallback_reason(), None);
        let found = attached_program("balancer").expect("the kernel answers");
        let found = found.expect("a program is attached");
        assert_eq!(found.name.as_deref(), Some("redirect"));
        assert_eq!(found.mode, Some(attached));
        redirect.detach();
        assert_eq!(redirect.mode(), None);
        assert!(becomes_free("balancer"), "{mode}");

        redirect
            .attach_to("client", mode)
            .expect("attached elsewhere");
        assert!(becomes_free("balancer"));
        drop(redirect);
        assert!(becomes_free("client"), "{mode}");

        let decap = Decap::attach("balancer", mode, &DecapOptions::default()).expect("attached");
        assert_eq!(decap.mode(), Some(attached));
        drop(decap);
        assert!(becomes_free("balancer"), "{mode}");
        let pass = PassProgram::attach("balancer", mode).expect("attached");
        assert_eq!(pass.mode(), attached);
        drop(pass);
        assert!(becomes_free("balancer"), "{mode}");
    }
}

#[test]
fn a_second_program_is_told_who_was_first() {
    if !is_privileged("a_second_program_is_told_who_was_first") {
        return;
    }
    let _namespace = Namespace::enter_new();
    veth("balancer", "client", 1);
    for (first, _) in MODES {
        let held = PassProgram::attach("balancer", first).expect("attached");
        let id = attached_program("balancer")
            .expect("the kernel answers")
            .expect("a program is attached")
            .id;
        for second in [XdpMode::Auto, XdpMode::Native, XdpMode::Generic] {
            let error = Redirect::attach("balancer", second).expect_err("busy");
            assert!(matches!(error, AttachError::Busy { .. }), "{error}");
            let said = error.to_string();
            assert!(said.contains("interface balancer"), "{said}");
            assert!(
                said.contains(&format!("`pass` (id {id}, {first})")),
                "{said}"
            );
            assert!(said.contains("ip link set dev balancer xdp off"), "{said}");
        }
        drop(held);
        assert!(becomes_free("balancer"), "{first}");
    }
    Redirect::attach("balancer", XdpMode::Auto).expect("free again");
}

#[test]
fn auto_takes_generic_mode_and_says_why() {
    if !is_privileged("auto_takes_generic_mode_and_says_why") {
        return;
    }
    let _namespace = Namespace::enter_new();
    // The driver of lo has no XDP.
    let redirect = Redirect::attach("lo", XdpMode::Auto).expect("attached");
    assert_eq!(redirect.mode(), Some(AttachedMode::Generic));
    let reason = redirect.fallback_reason().expect("a reason");
    assert!(
        reason.contains("interface lo: native XDP is refused"),
        "{reason}"
    );
    drop(redirect);
    assert!(becomes_free("lo"));
    let error = Redirect::attach("lo", XdpMode::Native).expect_err("no native mode");
    assert!(error.to_string().contains("use generic mode"), "{error}");
    assert!(becomes_free("lo"));

    veth("balancer", "client", 1);
    ip(&["link", "set", "client", "mtu", "9000"]);
    ip(&["link", "set", "balancer", "mtu", "9000"]);
    let error = Redirect::attach("balancer", XdpMode::Native).expect_err("MTU");
    assert!(error.to_string().contains("MTU of 9000"), "{error}");
    let redirect = Redirect::attach("balancer", XdpMode::Auto).expect("attached");
    assert_eq!(redirect.mode(), Some(AttachedMode::Generic));
}

#[test]
fn a_missing_interface_is_named() {
    if !is_privileged("a_missing_interface_is_named") {
        return;
    }
    let _namespace = Namespace::enter_new();
    let error = Redirect::attach("eth99", XdpMode::Auto).expect_err("no such interface");
    assert!(matches!(error, AttachError::NoInterface { .. }));
    assert!(
        error.to_string().starts_with("interface eth99: "),
        "{error}"
    );
}

#[test]
fn the_kernel_detaches_when_the_process_is_killed() {
    const NAME: &str = "the_kernel_detaches_when_the_process_is_killed";
    if !is_privileged(NAME) {
        return;
    }
    if std::env::var_os(CHILD).is_some() {
        let _redirect = Redirect::attach("balancer", XdpMode::Auto).expect("attached");
        thread::sleep(Duration::from_mins(10));
    }
    let _namespace = Namespace::enter_new();
    veth("balancer", "client", 1);
    let mut child = Command::new(std::env::current_exe().expect("our own path"))
        .args(["--exact", NAME])
        .env(CHILD, "1")
        .stdout(Stdio::null())
        .spawn()
        .expect("started");
    let attached = wait_for(|| !is_free("balancer"));
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert!(attached, "the child did not attach");
    assert!(becomes_free("balancer"));
}

#[test]
fn packets_reach_the_kernel_unless_a_socket_takes_them() {
    if !is_privileged("packets_reach_the_kernel_unless_a_socket_takes_them") {
        return;
    }
    let _namespace = Namespace::enter_new();
    veth("balancer", "client", 1);
    ip(&["address", "add", "203.0.113.10/24", "dev", "balancer"]);
    ip(&["link", "set", "balancer", "address", "02:00:00:00:aa:01"]);
    let outside = Namespace::new_beside();
    outside.adopt("client");
    let wire = outside.within(|| {
        ip(&["link", "set", "client", "up"]);
        Wire::open(index("client"))
    });
    let service = UdpSocket::bind((VIP, 443)).expect("bound");
    service
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("set");
    let packet = udp(40000, 443, b"request");
    let frame = ethernet(IPV4, &ipv4("203.0.113.99", VIP, UDP, &packet));
    let is_received = || {
        let mut buffer = [0; 64];
        service
            .recv(&mut buffer)
            .is_ok_and(|length| buffer[..length] == *b"request")
    };

    for (mode, _) in MODES {
        let mut redirect = Redirect::attach("balancer", mode).expect("attached");
        let vip = VipEntry {
            address: VIP.parse().expect("an address"),
            prefix_len: 32,
            port: 443,
            protocol: UDP,
            generation: 1,
            vip: 1,
            room: 40,
        };
        let count =
            |redirect: &Redirect, counter| redirect.counters().expect("counters").get(counter);
        wire.send(&frame);
        assert!(is_received(), "{mode}: not a VIP yet");

        redirect.apply_vips(&[vip]).expect("applied");
        wire.send(&frame);
        assert!(is_received(), "{mode}: no socket");
        assert_eq!(count(&redirect, PassedNoSocket), 1);

        let socket = XskSocket::bind(index("balancer"), 0);
        redirect.set_socket(0, socket.as_fd()).expect("set");
        wire.send(&frame);
        assert!(
            wait_for(|| count(&redirect, RedirectedService) == 1),
            "{mode}"
        );

        // The next to arrive is the one after the socket is gone.
        drop(socket);
        assert!(wait_for(|| {
            wire.send(&frame);
            count(&redirect, PassedNoSocket) > 1
        }));
        assert!(is_received(), "{mode}: the socket is gone");
        drop(redirect);
        assert!(becomes_free("balancer"), "{mode}");
        wire.send(&frame);
        assert!(is_received(), "{mode}: detached");
        service.set_nonblocking(true).expect("set");
        while is_received() {}
        service.set_nonblocking(false).expect("set");
    }
}
