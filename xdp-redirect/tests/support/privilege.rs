//! Whether tests that need privileges run; the library's own tests use this as well.

use std::io::Write as _;

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
