//! What a change did: what is new, gone and different, with the values before and after.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Names that are listed of a longer list.
const LISTED: usize = 1000;

/// Names that one line of the log has of each kind.
const LOGGED: usize = 10;

/// What became of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It has other values.
    Changed,
}

impl Verb {
    /// As answers and the log write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

/// A value before and after. What is new was `null`, and what is gone is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// Key in the file; empty for a setting, whose name is its key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// Before.
    pub old: Value,
    /// Now.
    pub new: Value,
}

impl Edit {
    fn text(&self, verb: Verb) -> Option<String> {
        let Self { field, old, new } = self;
        let blank = if field.is_empty() { "" } else { " " };
        let value = match verb {
            Verb::Changed => format!("{} -> {}", text(old), text(new)),
            Verb::Added if is_plain(new) => return None,
            Verb::Added => text(new),
            Verb::Removed if is_plain(old) => return None,
            Verb::Removed => text(old),
        };
        Some(format!("{field}{blank}{value}"))
    }
}

/// Not worth a word of something that is new or gone.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "not set".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() => "none".to_owned(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// What something is called, and its values by their key in the file.
pub(super) type Described = (String, Vec<(&'static str, Value)>);

/// How many, and which: the first thousand are named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub names: Vec<String>,
    /// For each name, in the same order: the values that it has now or had, or those that are different.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Vec<Edit>>,
}

impl Names {
    fn push(&mut self, entry: impl FnOnce() -> (String, Vec<Edit>)) {
        self.count += 1;
        if self.names.len() < LISTED {
            let (name, values) = entry();
            self.names.push(name);
            self.values.push(values);
        }
    }

    /// One that is new.
    pub(super) fn push_added(&mut self, describe: impl FnOnce() -> Described) {
        self.push(|| with_values(describe(), |new| (Value::Null, new)));
    }

    /// One that is gone.
    pub(super) fn push_removed(&mut self, describe: impl FnOnce() -> Described) {
        self.push(|| with_values(describe(), |old| (old, Value::Null)));
    }

    /// One that is described differently now.
    pub(super) fn push_changed(&mut self, describe: impl FnOnce() -> (Described, Described)) {
        self.push(|| {
            let ((_, old), (name, new)) = describe();
            let pairs = old.into_iter().zip(new);
            let edits = pairs.filter(|((_, old), (_, new))| old != new);
            let edit = |((_, old), (field, new)): ((&str, Value), (&str, Value))| Edit {
                field: field.to_owned(),
                old,
                new,
            };
            (name, edits.map(edit).collect())
        });
    }

    /// Nothing.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Those that are named, with their values: `203.0.113.10:80/tcp real 198.51.100.11 weight 1 -> 0`.
    pub fn lines(&self, verb: Verb) -> impl Iterator<Item = String> {
        self.names.iter().enumerate().map(move |(place, name)| {
            let edits = self.values.get(place).into_iter().flatten();
            let values = edits.filter_map(|edit| edit.text(verb));
            values.fold(name.clone(), |line, value| format!("{line} {value}"))
        })
    }
}

fn with_values(
    (name, values): Described,
    sides: impl Fn(Value) -> (Value, Value),
) -> (String, Vec<Edit>) {
    let edit = |(field, value): (&str, Value)| {
        let (old, new) = sides(value);
        let field = field.to_owned();
        Edit { field, old, new }
    };
    (name, values.into_iter().map(edit).collect())
}

/// What a change did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Generation of the table that is in force now.
    pub generation: u32,
    /// Settings that have another value, by their key in the file.
    pub settings: Names,
    /// VIPs that are new.
    pub vips_added: Names,
    /// VIPs that are gone.
    pub vips_removed: Names,
    /// VIPs whose hash function or flags are different.
    pub vips_changed: Names,
    /// Reals that are new to a VIP that was there before: `VIP real ADDRESS`.
    pub reals_added: Names,
    /// Reals that left a VIP that is still there.
    pub reals_removed: Names,
    /// Reals with another weight, or that became `local` or `down` or no longer are.
    pub reals_changed: Names,
    /// Decap destinations that are new.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub decap_added: Names,
    /// Decap destinations that are gone.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub decap_removed: Names,
    /// Decap destinations with another `egress`.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub decap_changed: Names,
    /// Marks that are new: `mark MARK`.
    pub health_checks_added: Names,
    /// Marks that are gone.
    pub health_checks_removed: Names,
    /// Marks with another real.
    pub health_checks_changed: Names,
    /// Server ids that are new: `server id ID`.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub server_ids_added: Names,
    /// Server ids that are gone.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub server_ids_removed: Names,
    /// Server ids with another real, or that became valid or invalid.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub server_ids_changed: Names,
    /// Source routes that are new: `source route PREFIX`.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub source_routes_added: Names,
    /// Source routes that are gone.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub source_routes_removed: Names,
    /// Source routes to another real.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub source_routes_changed: Names,
    /// What the operator should look at because of the change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Changes {
    /// What was changed, kind by kind: a verb and a noun for each. The names of settings, VIPs and
    /// decap destinations leave the noun out.
    pub fn kinds(&self) -> [(Verb, &'static str, &Names); 19] {
        [
            (Verb::Changed, "settings", &self.settings),
            (Verb::Added, "vips", &self.vips_added),
            (Verb::Removed, "vips", &self.vips_removed),
            (Verb::Changed, "vips", &self.vips_changed),
            (Verb::Added, "reals", &self.reals_added),
            (Verb::Removed, "reals", &self.reals_removed),
            (Verb::Changed, "reals", &self.reals_changed),
            (Verb::Added, "decap", &self.decap_added),
            (Verb::Removed, "decap", &self.decap_removed),
            (Verb::Changed, "decap", &self.decap_changed),
            (Verb::Added, "health checks", &self.health_checks_added),
            (Verb::Removed, "health checks", &self.health_checks_removed),
            (Verb::Changed, "health checks", &self.health_checks_changed),
            (Verb::Added, "server ids", &self.server_ids_added),
            (Verb::Removed, "server ids", &self.server_ids_removed),
            (Verb::Changed, "server ids", &self.server_ids_changed),
            (Verb::Added, "source routes", &self.source_routes_added),
            (Verb::Removed, "source routes", &self.source_routes_removed),
            (Verb::Changed, "source routes", &self.source_routes_changed),
        ]
    }

    /// For the log: `vips added 203.0.113.10:80/tcp hash maglev-v2; reals removed 200`. Of a kind of
    /// which there are many, the names are in lines of their own.
    pub fn log_lines(&self) -> Vec<String> {
        let mut lines = vec![String::new()];
        for (verb, noun, names) in self.kinds() {
            if names.is_empty() {
                continue;
            }
            let start = format!("{noun} {}", verb.name());
            let named: Vec<String> = names.lines(verb).collect();
            let first = if names.count <= LOGGED {
                format!("{start} {}", named.join(", "))
            } else {
                let parts = named.chunks(LOGGED);
                lines.extend(parts.map(|part| format!("{start} {}", part.join(", "))));
                format!("{start} {}", names.count)
            };
            if !lines[0].is_empty() {
                lines[0].push_str("; ");
            }
            lines[0].push_str(&first);
        }
        if lines[0].is_empty() {
            lines[0].push_str("nothing changed");
        }
        lines
    }

    /// Everything is as it was.
    pub fn is_empty(&self) -> bool {
        self.kinds().iter().all(|(_, _, names)| names.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_log_names_all_and_many_in_lines_of_their_own() {
        let mut changes = Changes::default();
        assert_eq!(changes.log_lines(), ["nothing changed"]);
        let vip = |values| ("203.0.113.10:80/tcp".to_owned(), values);
        changes
            .vips_added
            .push_added(|| vip(vec![("hash", json!("maglev-v2")), ("flags", json!([]))]));
        changes.vips_changed.push_changed(|| {
            let before = vip(vec![("flags", json!([])), ("hash", json!("maglev"))]);
            let after = vip(vec![("flags", json!(["quic"])), ("hash", json!("maglev"))]);
            (before, after)
        });
        for number in 0..12 {
            let real = || (number.to_string(), vec![("weight", json!(5))]);
            changes.reals_removed.push_removed(real);
        }
        assert_eq!(
            changes.log_lines(),
            [
                "vips added 203.0.113.10:80/tcp hash maglev-v2; vips changed 203.0.113.10:80/tcp flags none -> \
                 quic; reals removed 12",
                "reals removed 0 weight 5, 1 weight 5, 2 weight 5, 3 weight 5, 4 weight 5, 5 weight 5, \
                 6 weight 5, 7 weight 5, 8 weight 5, 9 weight 5",
                "reals removed 10 weight 5, 11 weight 5",
            ]
        );
    }
}
