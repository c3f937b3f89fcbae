//! Whether machines that measured the same agree.

use std::collections::BTreeMap;

use serde_json::Value;

use super::report::Row;

/// How much of the least one measurement may be more than it.
const AGREEMENT: f64 = 0.02;

/// Figures of which a machine has several measurements, with those of all machines that have the same
/// card: those that differ by too much.
pub(super) fn disagreements(rows: &[Row]) -> Vec<String> {
    let mut measured: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for row in rows {
        for (figure, value) in row.heard.figures() {
            if let Some(several) = value.as_array() {
                measured
                    .entry((row.card, figure))
                    .or_default()
                    .extend(several.iter().filter_map(Value::as_f64));
            }
        }
    }
    measured
        .into_iter()
        .filter(|(_, values)| !agree(values))
        .map(|((card, figure), values)| {
            format!(
                "{card}: {figure}: measurements of the same differ by more than {} %: {values:?}",
                AGREEMENT * 100.0
            )
        })
        .collect()
}

fn agree(values: &[f64]) -> bool {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    least > 0.0 && most <= least * (1.0 + AGREEMENT)
}

#[cfg(test)]
mod tests {
    use super::super::{
        matrix::{CARDS, Version},
        plan::Work,
    };
    use super::*;

    fn row(card: usize, figure: &str) -> Row {
        let mut row = Row::new("7.3.4", Version(7, 3), &CARDS[card], Work::Count);
        row.heard
            .read(&format!(r#"{{"fact":"figure more","value":{figure}}}"#));
        row
    }

    #[test]
    fn measurements_of_one_machine_and_of_two_must_agree() {
        for (rows, good) in [
            (vec![row(0, "[1000, 1020]")], true),
            (vec![row(0, "[1000, 1021]")], false),
            (vec![row(0, "[1000, 1010]"), row(0, "[1015, 1020]")], true),
            (vec![row(0, "[1000, 1001]"), row(0, "[1021, 1022]")], false),
            // Another card has its own; one number is no measurement that was repeated.
            (vec![row(0, "[1000, 1001]"), row(1, "[1021, 1022]")], true),
            (vec![row(0, "1000"), row(0, "2000")], true),
            (vec![row(0, "[0, 0]")], false),
            (vec![row(0, "[-3, 3]")], false),
        ] {
            let found = disagreements(&rows);
            assert_eq!(found.is_empty(), good, "{found:?}");
        }
        let found = disagreements(&[row(0, "[1000, 1021]")]);
        assert!(found[0].starts_with("igb: more: "), "{found:?}");
    }
}
