//! Documentation that would go stale unnoticed: the list of unsafe code, and links.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Files below `folder` with this extension; build output and hidden folders are left out.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            let name = name.to_string_lossy();
            if name != "target" && !name.starts_with('.') {
                found.extend(files(&path, extension));
            }
        } else if path.extension().is_some_and(|is| is == extension) {
            found.push(path);
        }
    }
    found
}

/// Places in Rust source where unsafe code begins: blocks, functions, implementations, foreign items
/// and attributes.
fn unsafe_places(source: &str) -> usize {
    let code = source.lines().map(|line| match line.split_once("//") {
        Some((code, _comment)) => code,
        None => line,
    });
    code.flat_map(|line| line.match_indices("unsafe").map(move |(at, _)| (line, at)))
        .filter(|&(line, at)| {
            let after = &line[at + "unsafe".len()..];
            let starts_word = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let opens = after.starts_with('(')
                || ["{", "fn ", "impl ", "impl<", "extern ", "trait "]
                    .iter()
                    .any(|next| after.starts_with(' ') && after[1..].starts_with(next))
                || after.trim().is_empty();
            starts_word && opens
        })
        .count()
}

/// Rows ``| `FILE` | NUMBER | … |`` of docs/unsafe.md.
fn documented() -> BTreeMap<String, usize> {
    let text = fs::read_to_string(root().join("docs/unsafe.md")).unwrap();
    text.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            let file = cells.next()?.trim().strip_suffix('`')?;
            let number = cells.next()?.trim().parse().ok()?;
            Some((file.to_owned(), number))
        })
        .collect()
}

#[test]
fn every_unsafe_place_is_documented() {
    let found: BTreeMap<String, usize> = files(root(), "rs")
        .into_iter()
        .filter(|path| !path.components().any(|part| part.as_os_str() == "tests"))
        .filter_map(|path| {
            let source = fs::read_to_string(&path).unwrap();
            // There the compiler watches, and words in text do not count.
            if source.contains("#![forbid(unsafe_code)]") {
                return None;
            }
            let places = unsafe_places(&source);
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
            (places > 0).then(|| (name.to_owned(), places))
        })
        .collect();
    let documented = documented();
    let differences: Vec<String> = found
        .keys()
        .chain(documented.keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter_map(|file| {
            let (here, there) = (found.get(file), documented.get(file));
            (here != there).then(|| {
                format!(
                    "{file}: {} places, docs/unsafe.md says {}",
                    here.unwrap_or(&0),
                    there.unwrap_or(&0)
                )
            })
        })
        .collect();
    assert!(
        differences.is_empty(),
        "{}\nReview what was added, and write down there why it is sound.",
        differences.join("\n")
    );
}

#[test]
fn unsafe_places_are_counted() {
    for (source, places) in [
        ("let x = unsafe { f() };", 1),
        ("    unsafe {", 1),
        ("pub unsafe fn f() {}", 1),
        ("unsafe impl Send for X {}", 1),
        ("unsafe impl<T> Send for X<T> {}", 1),
        ("#[unsafe(no_mangle)]", 1),
        ("unsafe { a() }; unsafe { b() }", 2),
        ("let x = unsafe\n{ f() };", 1),
        ("// unsafe { f() }", 0),
        ("#![forbid(unsafe_code)]", 0),
        ("#![deny(unsafe_op_in_unsafe_fn)]", 0),
        ("let not_unsafe = 1;", 0),
    ] {
        assert_eq!(unsafe_places(source), places, "{source}");
    }
}

#[test]
fn links_lead_somewhere() {
    let mut pages = files(&root().join("docs"), "md");
    pages.push(root().join("README.md"));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                page.clone()
            } else {
                page.with_file_name(file)
            };
            let text = fs::read_to_string(&target)
                .unwrap_or_else(|error| panic!("{}: link {link}: {error}", page.display()));
            assert!(
                heading.is_empty() || headings(&text).any(|anchor| anchor == heading),
                "{}: link {link}: no such heading",
                page.display()
            );
        }
    }
}

/// Anchors of a page's headings: lower case, blanks as hyphens, most other signs left out.
fn headings(text: &str) -> impl Iterator<Item = String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .replace(' ', "-")
                .replace(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'), "")
        })
}

/// Inputs of fuzz targets that failed once, as `TARGET/NAME`.
#[test]
fn every_input_that_failed_once_is_explained() {
    let page = fs::read_to_string(root().join("docs/fuzzing.md")).unwrap();
    let mut cases = BTreeSet::new();
    for inputs in ["dataplane/tests/__fuzz__", "ctl/fuzz/src/__fuzz__"] {
        for target in fs::read_dir(root().join(inputs)).into_iter().flatten() {
            let target = target.unwrap().path();
            let name = target.file_name().unwrap().to_str().unwrap();
            for case in fs::read_dir(target.join("crashes")).into_iter().flatten() {
                let case = case.unwrap().file_name();
                cases.insert(format!("{name}/{}", case.to_str().unwrap()));
            }
        }
    }
    let explained: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(case, _)| case.to_owned())
        .filter(|case| case.contains('/'))
        .collect();
    assert_eq!(cases, explained);
}
