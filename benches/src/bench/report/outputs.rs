//! The files of a report: tried before anything is measured, written when all is.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

use super::markdown;
use crate::bench::options::BenchOptions;

/// Whether all files that the options name can be written. Files that do not exist are not left behind,
/// the folder of the charts is.
///
/// # Errors
/// One of them cannot.
pub(crate) fn check(options: &BenchOptions) -> Result<()> {
    if let Some(path) = &options.json {
        can_write(path)?;
    }
    if let Some(path) = &options.markdown {
        page(path, "")?;
        can_write(path)?;
    }
    if let Some(folder) = &options.svg {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        can_write(&folder.join("try.svg"))?;
    }
    Ok(())
}

fn can_write(path: &Path) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    let is_new = !fs::exists(path).with_context(context)?;
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .with_context(context)?;
    if is_new {
        fs::remove_file(path).with_context(context)?;
    }
    Ok(())
}

/// The page of that name with these figures, or a new one.
pub(super) fn page(path: &Path, figures: &str) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(page) if page.is_empty() => Ok(markdown::page(figures)),
        Ok(page) => markdown::replaced(&page, figures).with_context(|| {
            format!(
                "{} has no place for the figures: put the lines `<!-- figures: begin -->` and \
                 `<!-- figures: end -->` into it, or name a file that does not exist",
                path.display()
            )
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(markdown::page(figures)),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes a file.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Scratch;

    fn refused(options: &BenchOptions, file: &str) -> String {
        let error = format!("{:#}", check(options).expect_err(file));
        assert!(error.contains(file), "{error}");
        error
    }

    #[test]
    fn files_are_tried_and_not_changed() {
        let folder = Scratch::new().expect("a folder");
        let path = |name: &str| Some(folder.file(name));
        folder.write("old.json", "old").expect("written");
        for json in ["new.json", "old.json"] {
            let options = BenchOptions {
                json: path(json),
                markdown: path("new.md"),
                svg: path("charts/inner"),
                ..BenchOptions::default()
            };
            check(&options).expect("all can be written");
        }
        let names = fs::read_dir(folder.path()).expect("a folder");
        assert_eq!(names.count(), 2, "old.json and charts");
        assert_eq!(
            fs::read_to_string(folder.file("old.json")).expect("kept"),
            "old"
        );
        let charts = fs::read_dir(folder.file("charts/inner")).expect("made");
        assert_eq!(charts.count(), 0);
    }

    #[test]
    fn what_cannot_be_written_is_refused_before_the_run() {
        let folder = Scratch::new().expect("a folder");
        let path = |name: &str| Some(folder.file(name));
        folder.write("page.md", "# Page\n").expect("written");
        refused(
            &BenchOptions {
                json: path("missing/rows.json"),
                ..BenchOptions::default()
            },
            "missing/rows.json",
        );
        refused(
            &BenchOptions {
                svg: path("page.md"),
                ..BenchOptions::default()
            },
            "page.md",
        );
        let markers = refused(
            &BenchOptions {
                markdown: path("page.md"),
                ..BenchOptions::default()
            },
            "page.md",
        );
        assert!(markers.contains("figures: begin"), "{markers}");
        assert_eq!(
            fs::read_to_string(folder.file("page.md")).expect("kept"),
            "# Page\n"
        );
    }
}
