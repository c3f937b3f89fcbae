//! Where `--json` writes the rows.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tempfile::NamedTempFile;

/// Where the rows go.
pub(super) enum RowsFile {
    /// A file, which is replaced as a whole.
    File(PathBuf),
    /// Something else that can be written to, such as `/dev/stdout`.
    Device(File),
}

impl RowsFile {
    /// Finds out whether they can be written; nothing is.
    pub(super) fn new(path: &Path) -> Result<Self> {
        let cannot = || format!("--json: cannot write {}", path.display());
        // The file behind a link is the one to replace.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if path.exists() && !path.is_file() {
            let device = File::options().write(true).open(&path);
            return Ok(Self::Device(device.with_context(cannot)?));
        }
        draft(&path).with_context(cannot)?;
        Ok(Self::File(path))
    }

    pub(super) fn write(self, text: &str) -> Result<()> {
        match self {
            Self::File(path) => {
                let cannot = || format!("--json: cannot write {}", path.display());
                let mut draft = draft(&path).with_context(cannot)?;
                writeln!(draft, "{text}").with_context(cannot)?;
                draft.persist(&path).with_context(cannot)?;
                Ok(())
            }
            Self::Device(mut device) => writeln!(device, "{text}").context("--json"),
        }
    }
}

/// A file beside `path` that can take its place; it goes when it is dropped.
fn draft(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    // Less the umask, as any file.
    tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder.unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_file_keeps_what_it_has_until_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("rows.json"), folder.path().join("link"));
        fs::write(&path, "old").unwrap();
        symlink(&path, &link).unwrap();
        let rows = RowsFile::new(&link).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(
            names(folder.path()),
            2,
            "nothing is left if the run is ended here"
        );
        rows.write("new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        assert!(link.is_symlink());
    }

    #[test]
    fn a_device_stays_one() {
        let rows = RowsFile::new(Path::new("/dev/null")).unwrap();
        assert!(matches!(rows, RowsFile::Device(_)));
        rows.write("gone").unwrap();
    }

    #[test]
    fn what_cannot_be_written_is_found_before_anything_runs() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path(), Path::new("/nonexistent/rows.json")] {
            assert!(RowsFile::new(path).is_err(), "{}", path.display());
        }
    }
}
