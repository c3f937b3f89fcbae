//! What tests in namespaces need, and how they say that it is missing.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};

/// Set to anything but nothing or `0`, these make a missing requirement a failure instead of a skip.
const STRICT_VARIABLES: [&str; 2] = ["CI", "KATRAN_XSK_REQUIRE_ROOT"];

/// Why tests in namespaces cannot run here: no right to create namespaces, or a program that is not
/// installed. `None` when all is there.
pub fn missing(programs: &[&str]) -> Option<String> {
    let may_unshare = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET))
        .join()
        .unwrap_or(Err(nix::errno::Errno::EPERM));
    if let Err(error) = may_unshare {
        return Some(format!(
            "cannot create network namespaces ({}): run as root",
            error.desc()
        ));
    }
    programs
        .iter()
        .find(|program| find_program(program).is_none())
        .map(|program| format!("{program} is not installed"))
}

/// Whether a test named `test` can run. When it cannot, says so on standard error, where the test
/// harness does not swallow it.
///
/// # Panics
/// When something is missing and `CI` or `KATRAN_XSK_REQUIRE_ROOT` forbids skipping.
pub fn met_or_skip(test: &str, programs: &[&str]) -> bool {
    let Some(reason) = missing(programs) else {
        return true;
    };
    let strict = STRICT_VARIABLES
        .into_iter()
        .find(|name| env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0"));
    if let Some(variable) = strict {
        panic!("{test} must run because {variable} is set, but {reason}");
    }
    // The harness captures what goes through `eprintln!`, not what is written to the descriptor.
    let line = format!("SKIPPED {test}: {reason}\n");
    let _ = nix::unistd::write(std::io::stderr(), line.as_bytes());
    false
}

/// Where a program is installed.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian keeps some daemons where only root's PATH leads.
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
