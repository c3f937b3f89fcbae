//! What the tests against a real kernel share: privilege, network namespaces, sockets, frames.
#![expect(
    dead_code,
    reason = "every test binary compiles this and uses a part of it"
)]

pub(crate) mod frame;
pub(crate) mod namespace;
pub(crate) mod wire;
pub(crate) mod xsk;

use std::{
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

/// Whether this test can load programs. If not it says so, or fails where skipping is forbidden.
pub(crate) fn is_privileged(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let strict = ["CI", "KATRAN_XSK_REQUIRE_ROOT"]
        .into_iter()
        .find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0"));
    assert!(
        strict.is_none(),
        "{test} must run because {} is set, but this is not root",
        strict.unwrap_or_default()
    );
    // Past the harness, which keeps to itself what `eprintln!` writes; at once, so that the lines of
    // other tests do not cut it.
    let line = format!("SKIPPED {test}: not root\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    false
}

/// Waits up to 20 seconds for something. What ends with a link needs it: a link lives as long as some
/// process has its descriptor, and a child that another test starts has ours until it runs its program.
pub(crate) fn wait_for(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}
