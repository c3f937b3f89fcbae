//! Any text as a configuration: refused with problems that say where and what to do, or put into force
//! and written back.

use std::time::Duration;

use dataplane::service::ServiceControl;
use katran_xsk::config::Config;

/// VIPs whose rings are still built for each input.
const FEW_VIPS: usize = 4;

fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let config = match Config::parse(text, "fuzz.toml") {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.problems.is_empty(), "refused without a problem");
            let lines = text.lines().count().max(1) + 1;
            for problem in &error.problems {
                assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)));
                assert!(!problem.problem.is_empty());
                assert!(!problem.remedy.is_empty(), "{problem}");
                // The TOML reader does not always know where it gave up.
                let is_toml = !problem.problem.starts_with("not TOML");
                let is_placed = problem.line.is_some() || !problem.field.is_empty();
                assert!(is_placed || !is_toml, "nowhere: {problem}");
                assert!(!problem.to_string().contains('\n'), "{problem}");
            }
            return;
        }
    };
    let dump = config.to_toml();
    match Config::parse(&dump, "dump.toml") {
        Ok(again) => assert_eq!(again, config, "{dump}"),
        Err(error) => panic!("what is written is refused: {error}\n{dump}"),
    }
    if config.vips.len() <= FEW_VIPS {
        let spec = config.to_service_spec();
        if let Err(error) = ServiceControl::new().apply(&spec) {
            panic!("a configuration without problems is refused: {error}");
        }
    }
}

#[test]
fn configuration() {
    bolero::check!(name = "configuration")
        .with_max_len(4096)
        // Not by time: all committed inputs come before.
        .with_iterations(5_000)
        .with_test_time(Duration::MAX)
        .for_each(run);
}
