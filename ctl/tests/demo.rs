//! `katran-xsk demo` from begin to end.

use std::process::{Command, Stdio};

use anyhow::Result;
use benches::lab::requirements;

#[test]
fn the_demo_passes() -> Result<()> {
    if !requirements::met_or_skip("the_demo_passes", &[]) {
        return Ok(());
    }
    let output = Command::new(env!("CARGO_BIN_EXE_katran-xsk"))
        .args(["demo", "--connections", "300", "--datagrams", "100"])
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("PASS"), "{text}{errors}");
    assert!(!text.contains("FAILED"), "{text}{errors}");
    for promise in ["every byte arrived", "lived on", "none dropped"] {
        assert!(text.contains(promise), "no `{promise}` in: {text}");
    }
    Ok(())
}

#[test]
fn wrong_options_are_refused() -> Result<()> {
    for arguments in [["--connections", "0"], ["--reals", "1"], ["--queues", "9"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_katran-xsk"))
            .arg("demo")
            .args(arguments)
            .output()?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    Ok(())
}
