//! Replays the corpus: packets that are malformed or odd, each with a name, a sentence and the
//! verdict that katran-compat gives it.
//!
//! A case is a file `corpus/NAME.hex`: `# NAME: sentence`, then `# expect: VERDICT`, then the frame
//! in hexadecimal. VERDICT is `pass`, `tx` (to a real), `reply` (an ICMP message, or the inner packet of
//! a tunnel, goes back) or `drop REASON`. VIPs and decap destinations are those of [`common::services::every_kind_of_vip`]. A packet that made
//! trouble once becomes a case.

mod common;

use std::{fs, path::Path};

use common::{
    Bench, hex,
    model::{self, Fate},
    services::{every_kind_of_vip, gue},
    settings,
};
use dataplane::{counters::DropReason, forward::BURST, service::Settings};

struct Case {
    name: String,
    frame: Vec<u8>,
    fate: Fate,
}

fn read(path: &Path) -> Case {
    let shown = path.display();
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{shown}: {error}"));
    let (comments, digits): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with('#'));
    let [title, expectation] = comments[..] else {
        panic!("{shown}: two lines start with #, the title and what to expect");
    };
    let (name, sentence) = title
        .strip_prefix("# ")
        .and_then(|title| title.split_once(": "))
        .unwrap_or_else(|| panic!("{shown}: the first line is `# name: sentence`"));
    assert_eq!(path.file_stem().unwrap(), name, "{shown}: file and title");
    assert!(sentence.ends_with('.'), "{shown}: {sentence}");
    let verdict = expectation
        .strip_prefix("# expect: ")
        .unwrap_or_else(|| panic!("{shown}: the second line is `# expect: verdict`"));
    Case {
        name: name.to_owned(),
        frame: hex(&digits.concat()),
        fate: fate(verdict).unwrap_or_else(|| panic!("{shown}: {verdict} is no verdict")),
    }
}

fn fate(verdict: &str) -> Option<Fate> {
    match verdict {
        "pass" => Some(Fate::Passed),
        "tx" => Some(Fate::Balanced),
        "reply" => Some(Fate::Answered),
        _ => {
            let name = verdict.strip_prefix("drop ")?;
            let mut reasons = DropReason::ALL.iter();
            let reason = reasons.find(|reason| reason.name() == name)?;
            Some(Fate::Dropped(*reason))
        }
    }
}

/// Every case, by name.
fn corpus() -> Vec<Case> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut paths: Vec<_> = fs::read_dir(&directory)
        .expect("the corpus lies beside this file")
        .map(|entry| entry.expect("a directory entry").path())
        .collect();
    paths.sort();
    for path in &paths {
        assert_eq!(path.extension().unwrap(), "hex", "{}", path.display());
    }
    let cases: Vec<Case> = paths.iter().map(|path| read(path)).collect();
    assert!(cases.len() >= 100, "{} cases", cases.len());
    cases
}

/// Replays in every room and compares verdicts; a second time, when flows are in the table.
fn replay(settings: Settings) {
    let services = every_kind_of_vip(settings);
    let mut bench = Bench::new(&services);
    for case in corpus() {
        for room in [0, 20, 48, 20] {
            let sent = bench.send_with_room(&case.frame, room);
            assert_eq!(Fate::of(&bench, &sent), case.fate, "{}", case.name);
            assert_eq!(bench.counters.unaccounted(), 0, "{}", case.name);
        }
        assert_eq!(
            model::fate(&services, &case.frame),
            case.fate,
            "the model, {}",
            case.name
        );
    }
}

#[test]
fn with_ipip() {
    replay(settings());
}

#[test]
fn with_gue() {
    replay(gue());
}

/// Too-big messages change the fate of frames that are too long, and of nothing else.
#[test]
fn with_too_big_messages() {
    let settings = Settings {
        icmp_too_big: true,
        ..settings()
    };
    let mut bench = Bench::new(&every_kind_of_vip(settings));
    for case in corpus() {
        let sent = bench.send(&case.frame);
        let expected = match case.fate {
            Fate::Dropped(DropReason::FrameTooLong) => Fate::Answered,
            fate => fate,
        };
        assert_eq!(Fate::of(&bench, &sent), expected, "{}", case.name);
    }
}

/// With no VIPs at all, nothing in the corpus is taken from the kernel.
#[test]
fn without_vips() {
    let mut bench = Bench::new(&dataplane::service::ServiceSpec::default());
    for case in corpus() {
        let sent = bench.send(&case.frame);
        assert_eq!(Fate::of(&bench, &sent), Fate::Passed, "{}", case.name);
    }
}

/// Each verdict that a frame alone can have is there.
#[test]
fn no_verdict_is_missing() {
    let fates: Vec<Fate> = corpus().iter().map(|case| case.fate).collect();
    assert!(fates.len() > BURST, "more than one burst");
    for fate in [Fate::Passed, Fate::Balanced, Fate::Answered] {
        assert!(fates.contains(&fate), "{fate:?}");
    }
    for reason in [
        DropReason::Ipv4Options,
        DropReason::Fragment,
        DropReason::L4Truncated,
        DropReason::QuoteTruncated,
        DropReason::FrameTooLong,
        DropReason::NoReal,
        DropReason::InnerTruncated,
        DropReason::TtlExpired,
        DropReason::RecirculationLimit,
    ] {
        assert!(fates.contains(&Fate::Dropped(reason)), "{}", reason.name());
    }
}
