//! Walks a parsed TOML document and keeps account of what is wrong with it.

use std::{
    collections::HashMap,
    fmt::Display,
    ops::{Range, RangeInclusive},
    str::FromStr,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::Problem;

/// Longest excerpt of the file that a message repeats, in characters.
const MAX_EXCERPT: usize = 60;

/// The line of each key that an element of the file has.
pub(super) type KeyLines = HashMap<&'static str, usize>;

/// What is wrong with a value: `<value> <problem>; <remedy>`.
pub(super) struct Complaint {
    problem: String,
    remedy: String,
}

impl Complaint {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    fn wrong_type(value: &DeValue<'_>, expected: &str) -> Self {
        let found = match value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        Self::new(format!("is {found}"), format!("give {expected}"))
    }
}

/// One table of the file while it is being read.
pub(super) struct Section<'t, 'i> {
    table: &'t DeTable<'i>,
    /// How messages name the table; empty for the file itself.
    pub(super) name: String,
    /// Line on which the table starts.
    pub(super) line: usize,
    /// Lines of the keys asked for so far that were there.
    pub(super) lines: KeyLines,
    asked: Vec<&'static str>,
}

impl Section<'_, '_> {
    /// `vip[2] (203.0.113.10:80/tcp).port`
    fn field(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    /// Whether a key that was asked for is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.lines.contains_key(key)
    }
}

/// The text of the file and what was found wrong so far.
pub(super) struct Reader<'i> {
    text: &'i str,
    /// Byte offset of the start of each line.
    line_starts: Vec<usize>,
    pub(super) problems: Vec<Problem>,
}

impl<'i> Reader<'i> {
    pub(super) fn new(text: &'i str) -> Self {
        let starts = text.match_indices('\n').map(|(offset, _)| offset + 1);
        Self {
            text,
            line_starts: std::iter::once(0).chain(starts).collect(),
            problems: Vec::new(),
        }
    }

    /// Line of a byte offset, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset)
    }

    /// The value as the file writes it, on one line.
    fn excerpt(&self, span: Range<usize>) -> String {
        let source = self.text.get(span).unwrap_or_default();
        let mut excerpt: String = source.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((end, _)) = excerpt.char_indices().nth(MAX_EXCERPT) {
            excerpt.truncate(end);
            excerpt.push('…');
        }
        excerpt
    }

    fn problem(&mut self, line: usize, field: String, problem: String, remedy: String) {
        self.problems.push(Problem {
            line: Some(line),
            field,
            problem,
            remedy,
        });
    }

    /// Starts to read a table.
    pub(super) fn section<'t>(
        &self,
        name: String,
        table: &'t DeTable<'i>,
        span: &Range<usize>,
    ) -> Section<'t, 'i> {
        Section {
            table,
            name,
            line: self.line(span.start),
            lines: KeyLines::new(),
            asked: Vec::new(),
        }
    }

    /// Complains about the keys nobody asked for.
    pub(super) fn finish(&mut self, section: &Section<'_, 'i>) {
        for key in section.table.keys() {
            let name = key.get_ref().as_ref();
            if section.asked.contains(&name) {
                continue;
            }
            let remedy = match closest(name, &section.asked) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("the keys here are {}", section.asked.join(", ")),
            };
            let line = self.line(key.span().start);
            self.problem(
                line,
                section.name.clone(),
                format!("unknown key `{}`", name.escape_debug()),
                remedy,
            );
        }
    }

    fn get<'t>(
        &self,
        section: &mut Section<'t, 'i>,
        key: &'static str,
    ) -> Option<&'t Spanned<DeValue<'i>>> {
        section.asked.push(key);
        let (name, value) = section
            .table
            .iter()
            .find(|(name, _)| name.get_ref() == key)?;
        // The header of a table gives the table's own line, not that of its first key.
        let start = name.span().start.min(value.span().start);
        section.lines.insert(key, self.line(start));
        Some(value)
    }

    /// Reads a value that may be left out; `None` also when it is wrong.
    pub(super) fn value<T>(
        &mut self,
        section: &mut Section<'_, 'i>,
        key: &'static str,
        read: impl FnOnce(&DeValue<'i>) -> Result<T, Complaint>,
    ) -> Option<T> {
        let value = self.get(section, key)?;
        match read(value.get_ref()) {
            Ok(result) => Some(result),
            Err(complaint) => {
                self.wrong_value(value.span(), section.field(key), complaint);
                None
            }
        }
    }

    /// Complains about the value at `span`.
    pub(super) fn wrong_value(&mut self, span: Range<usize>, field: String, complaint: Complaint) {
        let line = self.line(span.start);
        let problem = format!("{} {}", self.excerpt(span), complaint.problem);
        self.problem(line, field, problem, complaint.remedy);
    }

    /// Complains about a key that is not there.
    pub(super) fn missing(&mut self, section: &Section<'_, 'i>, key: &str, remedy: &str) {
        self.problem(
            section.line,
            section.field(key),
            "missing".to_owned(),
            remedy.to_owned(),
        );
    }

    /// Reads a table that may be left out.
    pub(super) fn table<'t>(
        &mut self,
        section: &mut Section<'t, 'i>,
        key: &'static str,
    ) -> Option<Section<'t, 'i>> {
        let value = self.get(section, key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(self.section(section.field(key), table, &value.span())),
            other => {
                let expected = format!("a table headed [{key}]");
                let complaint = Complaint::wrong_type(other, &expected);
                self.wrong_value(value.span(), section.field(key), complaint);
                None
            }
        }
    }

    /// Reads an array of tables that may be left out: each table with its position.
    pub(super) fn tables<'t>(
        &mut self,
        section: &mut Section<'t, 'i>,
        key: &'static str,
        expected: &str,
    ) -> Vec<(usize, Section<'t, 'i>)> {
        let Some(value) = self.get(section, key) else {
            return Vec::new();
        };
        let field = section.field(key);
        let DeValue::Array(array) = value.get_ref() else {
            let complaint = Complaint::wrong_type(value.get_ref(), expected);
            self.wrong_value(value.span(), field, complaint);
            return Vec::new();
        };
        let mut sections = Vec::with_capacity(array.len());
        for (index, element) in array.iter().enumerate() {
            let name = format!("{field}[{index}]");
            match element.get_ref() {
                DeValue::Table(table) => {
                    sections.push((index, self.section(name, table, &element.span())));
                }
                other => {
                    let complaint = Complaint::wrong_type(other, expected);
                    self.wrong_value(element.span(), name, complaint);
                }
            }
        }
        sections
    }

    /// Reads an array of strings that may be left out, one after the other.
    pub(super) fn strings(
        &mut self,
        section: &mut Section<'_, 'i>,
        key: &'static str,
        expected: &str,
        mut read: impl FnMut(&str) -> Result<(), Complaint>,
    ) {
        let Some(value) = self.get(section, key) else {
            return;
        };
        let field = section.field(key);
        let DeValue::Array(array) = value.get_ref() else {
            let complaint = Complaint::wrong_type(value.get_ref(), expected);
            self.wrong_value(value.span(), field, complaint);
            return;
        };
        for element in array {
            let result = match element.get_ref() {
                DeValue::String(text) => read(text),
                other => Err(Complaint::wrong_type(other, "a string")),
            };
            if let Err(complaint) = result {
                self.wrong_value(element.span(), field.clone(), complaint);
            }
        }
    }

    /// Reads a whole number in a range.
    pub(super) fn integer<T>(
        &mut self,
        section: &mut Section<'_, 'i>,
        key: &'static str,
        noun: &str,
        range: RangeInclusive<T>,
    ) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.value(section, key, |value| {
            let DeValue::Integer(integer) = value else {
                return Err(Complaint::wrong_type(value, &expected));
            };
            i128::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .and_then(|integer| T::try_from(integer).ok())
                .filter(|integer| range.contains(integer))
                .ok_or_else(|| Complaint::new(format!("is not {noun}"), format!("give {expected}")))
        })
    }

    /// Reads `true` or `false`.
    pub(super) fn boolean(
        &mut self,
        section: &mut Section<'_, 'i>,
        key: &'static str,
    ) -> Option<bool> {
        self.value(section, key, |value| {
            value
                .as_bool()
                .ok_or_else(|| Complaint::wrong_type(value, "true or false"))
        })
    }

    /// Reads a string and what it says.
    pub(super) fn string<T>(
        &mut self,
        section: &mut Section<'_, 'i>,
        key: &'static str,
        example: &str,
        read: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        self.value(section, key, |value| match value {
            DeValue::String(text) => read(text),
            other => Err(Complaint::wrong_type(
                other,
                &format!("a string as in {example}"),
            )),
        })
    }

    /// Reads a string that parses.
    pub(super) fn parsed<T: FromStr>(
        &mut self,
        section: &mut Section<'_, 'i>,
        key: &'static str,
        noun: &str,
        example: &str,
    ) -> Option<T> {
        self.string(section, key, example, |text| {
            text.parse().map_err(|_| {
                Complaint::new(
                    format!("is not {noun}"),
                    format!("write one as in {example}"),
                )
            })
        })
    }

    /// Reads one of a few names.
    pub(super) fn name<T: Copy>(
        &mut self,
        section: &mut Section<'_, 'i>,
        key: &'static str,
        names: &[(&str, T)],
    ) -> Option<T> {
        let allowed = list_names(names);
        self.value(section, key, |value| match value {
            DeValue::String(text) => find_name(text, names),
            other => Err(Complaint::wrong_type(other, &allowed)),
        })
    }
}

/// The value of this name.
pub(super) fn find_name<T: Copy>(text: &str, names: &[(&str, T)]) -> Result<T, Complaint> {
    names
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, value)| *value)
        .ok_or_else(|| {
            let known: Vec<_> = names.iter().map(|(name, _)| *name).collect();
            let remedy = match closest(text, &known) {
                // Of two names both can be said.
                Some(name) if known.len() > 2 => format!("did you mean {name:?}?"),
                _ => format!("give {}", list_names(names)),
            };
            Complaint::new("is not known here", remedy)
        })
}

/// `"a", "b" or "c"`
fn list_names<T>(names: &[(&str, T)]) -> String {
    let quoted: Vec<_> = names.iter().map(|(name, _)| format!("{name:?}")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// The known word that differs from `word` by at most two single-character edits.
fn closest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 2 && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in bytes; words that cannot be close are not compared.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_words_find_their_original() {
        let known = ["port", "protocol", "flags", "reals"];
        assert_eq!(closest("prot", &known), Some("port"));
        assert_eq!(closest("flag", &known), Some("flags"));
        assert_eq!(closest("Reals", &known), Some("reals"));
        assert_eq!(closest("weight", &known), None);
        assert_eq!(closest("", &["a"]), None);
    }

    #[test]
    fn lines_count_from_one() {
        let reader = Reader::new("a\nbc\n\nd");
        let lines: Vec<_> = (0..7).map(|offset| reader.line(offset)).collect();
        assert_eq!(lines, [1, 1, 2, 2, 2, 3, 4]);
    }
}
