//! The tables of docs/statistics.md are those of the code.
//!
//! `KATRAN_XSK_WRITE_DOCS=1 cargo test -p katran-xsk --test statistics` writes them anew.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use dataplane::counters::{
    FRAMES, HEALTH_CHECKS, IoCounters, KATRAN, ListRow, NOT_COUNTED, REAL_ROWS, Row, VIP_ROWS,
    WorkerCounters,
};
use xdp_layout::counter::HealthCheckCounter;

/// What follows this line is made from the code.
const MARK: &str = "<!-- tables of the code; ctl/tests/statistics.rs writes them -->\n";

fn katran(names: &str) -> &str {
    if names.is_empty() { "–" } else { names }
}

fn frames(page: &mut String) {
    page.push_str("\n### Frames\n\n| name | Katran | meaning |\n|---|---|---|\n");
    for row in FRAMES.iter().rev() {
        let _ = writeln!(page, "| `{}` | {} | {} |", row.name, row.katran, row.help);
    }
}

fn list(page: &mut String, title: &str, rows: &[ListRow]) {
    let _ = write!(
        page,
        "\n### {title}\n\n| name | unit | Katran | meaning |\n|---|---|---|---|\n"
    );
    for row in rows {
        let of_katran = katran(row.katran);
        let _ = writeln!(
            page,
            "| `{}` | {} | {of_katran} | {} |",
            row.name, row.unit, row.help
        );
    }
}

fn sections<C>(page: &mut String, rows: &[Row<C>]) {
    for section in rows.chunk_by(|row, next| row.section == next.section) {
        let _ = write!(
            page,
            "\n### {}\n\n| name | kind | unit | Katran | meaning |\n|---|---|---|---|---|\n",
            section[0].section
        );
        for row in section {
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} | {} |",
                row.name,
                row.kind.name(),
                row.unit,
                katran(row.katran),
                row.help
            );
        }
    }
}

fn health_checks(page: &mut String) {
    page.push_str("\n### Health checks\n\n| name | Katran | meaning |\n|---|---|---|\n");
    for counter in HealthCheckCounter::ALL {
        let of_katran = HEALTH_CHECKS
            .iter()
            .find(|(_, counters)| counters.contains(counter))
            .map_or("", |(name, _)| *name);
        let (name, help) = (counter.name(), counter.help());
        let _ = writeln!(page, "| `{name}` | {} | {help} |", katran(of_katran));
    }
}

/// Every counter of Katran's and what it is here.
fn map(page: &mut String) {
    let mut here: BTreeMap<&str, String> = BTreeMap::new();
    let mut add = |katran: &'static str, place: &str, name: &str| {
        for of_katran in katran.split(", ").filter(|one| !one.is_empty()) {
            here.insert(of_katran, format!("{place}`{name}`"));
        }
    };
    for row in FRAMES {
        add(row.katran, "frames: ", row.name);
    }
    for row in VIP_ROWS {
        add(row.katran, "each VIP: ", row.name);
    }
    for row in REAL_ROWS {
        add(row.katran, "each real: ", row.name);
    }
    for row in WorkerCounters::ROWS {
        add(row.katran, "", row.name);
    }
    for (of_katran, counters) in HEALTH_CHECKS {
        let names = counters
            .iter()
            .map(|counter| format!("`{}`", counter.name()));
        let sum = names.collect::<Vec<_>>().join(" + ");
        here.insert(of_katran, format!("health checks: {sum}"));
    }
    for (of_katran, why) in NOT_COUNTED {
        here.insert(of_katran, format!("not counted. {why}"));
    }
    page.push_str("\n## From Katran's counters\n\n| Katran | here |\n|---|---|\n");
    for of_katran in KATRAN {
        if let Some(place) = here.get(of_katran) {
            let _ = writeln!(page, "| {of_katran} | {place} |");
        }
    }
}

fn tables() -> String {
    let mut page = String::new();
    frames(&mut page);
    list(&mut page, "Each VIP", VIP_ROWS);
    list(&mut page, "Each real", REAL_ROWS);
    sections(&mut page, WorkerCounters::ROWS);
    sections(&mut page, IoCounters::ROWS);
    health_checks(&mut page);
    map(&mut page);
    page
}

#[test]
fn the_page_has_the_tables_of_the_code() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/statistics.md");
    let page = fs::read_to_string(&path).unwrap();
    let (words, written) = page.split_once(MARK).expect("the page has the mark");
    if std::env::var_os("KATRAN_XSK_WRITE_DOCS").is_some() {
        fs::write(&path, format!("{words}{MARK}{}", tables())).unwrap();
        return;
    }
    let tables = tables();
    let differs = tables
        .lines()
        .zip(written.lines())
        .find(|(here, there)| here != there);
    assert_eq!(
        differs, None,
        "the code and the page; see the head of this file"
    );
    assert_eq!(tables, written, "one is longer; see the head of this file");
}
