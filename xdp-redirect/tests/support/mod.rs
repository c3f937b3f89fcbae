//! What the tests against a real kernel share: privilege, network namespaces, sockets, frames.
#![expect(
    dead_code,
    reason = "every test binary compiles this and uses a part of it"
)]

pub(crate) mod frame;
pub(crate) mod namespace;
pub(crate) mod privilege;
pub(crate) mod wire;
pub(crate) mod xsk;

pub(crate) use privilege::is_privileged;

use std::{
    thread,
    time::{Duration, Instant},
};

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
