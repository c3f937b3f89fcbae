//! The file of a capture.
//!
//! The balancer runs as root, and what it writes here came from the network. So a capture goes to a
//! file that did not exist, or that is a capture and its operator said may be replaced: always a new file
//! of this process's user with mode 0600, never through a symbolic link at the path's end, never a device
//! or a pipe. Who may name a path at all is decided where the request comes in
//! ([`crate::admin::Engine`]).
//!
//! The file gets its name once the capture runs. One that does not start leaves nothing behind, and
//! what it was to replace as it was.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;
use tempfile::{NamedTempFile, TempPath};

use crate::admin::AdminError;

/// A new file that has another name than the one asked for. Dropping it removes it.
#[derive(Debug)]
pub(super) struct NewFile {
    temporary: TempPath,
    path: PathBuf,
    force: bool,
}

impl NewFile {
    /// Gives it its name, in the place of what `force` replaces.
    pub(super) fn keep(self) -> Result<(), AdminError> {
        let Self {
            temporary,
            path,
            force,
        } = self;
        let kept = if force {
            // Looked at again: a rename would replace a link or a pipe as well.
            refuse_others(&path)?;
            temporary.persist(&path)
        } else {
            temporary.persist_noclobber(&path)
        };
        kept.map_err(|refused| describe(&path, &refused.error))
    }
}

/// Makes the file, next to where it is to be.
pub(super) fn create(path: &Path, force: bool) -> Result<(File, NewFile), AdminError> {
    let name = path.display();
    if !path.is_absolute() {
        return Err(AdminError::new(
            "file",
            format!("`{name}` is not an absolute path"),
            "write the whole path: it is the balancer that opens the file",
        ));
    }
    match fs::symlink_metadata(path) {
        Ok(_) if force => refuse_others(path)?,
        Ok(_) => return Err(describe(path, &io::ErrorKind::AlreadyExists.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(describe(path, &error)),
    }
    let directory = path.parent().unwrap_or(path);
    let made = NamedTempFile::new_in(directory).map_err(|error| describe(path, &error))?;
    let (file, temporary) = made.into_parts();
    let new = NewFile {
        temporary,
        path: path.to_owned(),
        force,
    };
    Ok((file, new))
}

/// Refuses to replace anything but a capture: a configuration, for example, would be lost.
fn refuse_others(path: &Path) -> Result<(), AdminError> {
    let refusal = |what| {
        let name = path.display();
        let problem = format!("{name} is not a {what}");
        AdminError::new("file", problem, "only captures are replaced; name another")
    };
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(refusal("regular file")),
        Ok(metadata) if metadata.len() > 0 && !is_capture(path) => Err(refusal("capture")),
        // Whatever else is wrong shows when the file gets its name.
        _ => Ok(()),
    }
}

/// Whether the file begins as pcapng or pcap does.
fn is_capture(path: &Path) -> bool {
    const BEGINNINGS: [u32; 3] = [0x0a0d_0d0a, 0xa1b2_c3d4, 0xa1b2_3c4d];
    let mut begin = [0; 4];
    // A pipe that took the file's place meanwhile is not waited for.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(path);
    file.and_then(|mut file| file.read_exact(&mut begin))
        .is_ok()
        && (BEGINNINGS.contains(&u32::from_be_bytes(begin))
            || BEGINNINGS.contains(&u32::from_le_bytes(begin)))
}

fn describe(path: &Path, error: &io::Error) -> AdminError {
    let name = path.display();
    match error.kind() {
        io::ErrorKind::AlreadyExists if path.is_dir() => AdminError::new(
            "file",
            format!("{name} is a directory"),
            "name a file in it",
        ),
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
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const PCAPNG: &[u8] = b"\x0a\x0d\x0d\x0a and so on";

    #[test]
    fn a_new_file_is_its_owners_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.pcapng");
        for force in [false, true] {
            let (_, new) = create(&path, force).expect("it can be made");
            new.keep().expect("it gets its name");
            fs::write(&path, PCAPNG).expect("the capture");
            let mode = fs::metadata(&path).expect("it exists").permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
            // As somebody may have left it for the balancer to write to.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("permissions");
        }
    }

    #[test]
    fn a_capture_that_does_not_start_leaves_no_trace() {
        let directory = tempfile::tempdir().expect("a directory");
        let names = || -> Vec<_> {
            let entries = fs::read_dir(directory.path()).expect("a directory");
            entries
                .map(|entry| entry.expect("an entry").file_name())
                .collect()
        };
        let path = directory.path().join("a.pcapng");
        drop(create(&path, false).expect("it can be made"));
        assert!(names().is_empty(), "{:?}", names());
        fs::write(&path, PCAPNG).expect("a file");
        drop(create(&path, true).expect("it can be made"));
        assert_eq!(names(), ["a.pcapng"]);
        assert_eq!(fs::read(&path).expect("it is there"), PCAPNG);
    }

    #[test]
    fn what_came_meanwhile_is_not_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.pcapng");
        let (_, new) = create(&path, false).expect("it can be made");
        fs::write(&path, "another's").expect("a file");
        let error = new.keep().expect_err("the name is taken");
        assert!(error.problem.contains("exists already"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "another's");
        fs::remove_file(&path).expect("removed");

        let (_, new) = create(&path, true).expect("it can be made");
        symlink("/dev/null", &path).expect("a link");
        let error = new.keep().expect_err("a link is not replaced");
        assert!(error.problem.contains("not a regular file"), "{error}");
    }

    #[test]
    fn other_things_are_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        fs::write(at("old"), "old").expect("a file");
        fs::write(at("short"), [0x0a, 0x0d]).expect("a file");
        symlink(at("old"), at("link")).expect("a link");
        symlink(at("nothing"), at("dangling")).expect("a link");
        fs::create_dir(at("directory")).expect("a directory");
        for (path, force, part) in [
            ("old".into(), false, "exists already"),
            ("old".into(), true, "not a capture"),
            ("short".into(), true, "not a capture"),
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
        ] as [(String, bool, &str); 14]
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
