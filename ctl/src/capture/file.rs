//! The file of a capture.
//!
//! The balancer runs as root, and what it writes here came from the network. So a capture goes to a
//! file that did not exist, or that its operator said may be replaced: always a new file of this
//! process's user with mode 0600, never through a symbolic link at the path's end, never a device or
//! a pipe. Who may name a path at all is decided where the request comes in
//! ([`crate::admin::Engine`]).

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use crate::admin::AdminError;

/// Makes the file.
pub(super) fn create(path: &Path, force: bool) -> Result<File, AdminError> {
    let name = path.display();
    if !path.is_absolute() {
        return Err(AdminError::new(
            "file",
            format!("`{name}` is not an absolute path"),
            "write the whole path: it is the balancer that opens the file",
        ));
    }
    if force {
        remove_old(path)?;
    }
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    created.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists if path.is_dir() => {
            AdminError::new("file", format!("{name} is a directory"), "name a file in it")
        }
        io::ErrorKind::AlreadyExists => AdminError::new(
            "file",
            format!("{name} exists already"),
            "name another file, or replace it with --force",
        ),
        io::ErrorKind::NotFound => AdminError::new(
            "file",
            format!("{name}: there is no such directory"),
            "make it first; the balancer may see other directories than you do (PrivateTmp= of its unit)",
        ),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => AdminError::new(
            "file",
            format!("{name}: {error}"),
            "name a directory that the balancer may write to (ReadWritePaths= of its unit)",
        ),
        _ => AdminError::new("file", format!("{name}: {error}"), "name another file"),
    })
}

/// Removes what is to be replaced, so that the new file is nobody else's.
fn remove_old(path: &Path) -> Result<(), AdminError> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        // Whatever is wrong shows when the file is made.
        return Ok(());
    };
    if !metadata.is_file() {
        return Err(AdminError::new(
            "file",
            format!("{} is not a regular file", path.display()),
            "only files are replaced; name another",
        ));
    }
    fs::remove_file(path).map_err(|error| {
        AdminError::new(
            "file",
            format!("{}: cannot be replaced: {error}", path.display()),
            "name another file",
        )
    })
}

/// Removes the file of a capture that did not start.
pub(super) fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "an empty capture is left behind");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_new_file_is_its_owners_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.pcapng");
        for force in [false, true] {
            create(&path, force).expect("it can be made");
            let mode = fs::metadata(&path).expect("it exists").permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
            // As somebody may have left it for the balancer to write to.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("permissions");
        }
    }

    #[test]
    fn other_things_are_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        fs::write(at("old"), "old").expect("a file");
        symlink(at("old"), at("link")).expect("a link");
        symlink(at("nothing"), at("dangling")).expect("a link");
        fs::create_dir(at("directory")).expect("a directory");
        for (path, force, part) in [
            ("old".into(), false, "exists already"),
            ("/dev/full".into(), false, "exists already"),
            ("link".into(), false, "exists already"),
            ("link".into(), true, "not a regular file"),
            ("dangling".into(), false, "exists already"),
            ("dangling".into(), true, "not a regular file"),
            ("directory".into(), false, "is a directory"),
            ("directory".into(), true, "not a regular file"),
            ("/dev/full".into(), true, "not a regular file"),
            ("none/a.pcapng".into(), false, "no such directory"),
            ("old/a.pcapng".into(), true, "old/a.pcapng"),
            ("x".repeat(300), false, "xxx"),
        ] as [(String, bool, &str); 12]
        {
            let error = create(&at(&path), force).expect_err(&path);
            assert_eq!(error.field, "file");
            assert!(error.problem.contains(part), "{path}: {error}");
            assert!(!error.remedy.is_empty(), "{path}: {error}");
        }
        assert_eq!(fs::read_to_string(at("old")).expect("it is there"), "old");
        assert!(!at("nothing").exists());
        let error = create(Path::new("a.pcapng"), false).expect_err("relative");
        assert!(error.problem.contains("absolute"), "{error}");
    }
}
