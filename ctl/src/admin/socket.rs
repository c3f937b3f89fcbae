//! The socket file: made with its final permissions, never on top of a running balancer.

use std::{
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

/// Longest path of a Unix socket: `sun_path` without its terminating zero.
const LONGEST_PATH: usize = 107;

/// Why the admin socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit a socket address.
    #[error("admin socket {}: the path is longer than {LONGEST_PATH} bytes; choose a shorter one with --socket", .0.display())]
    PathTooLong(PathBuf),
    /// Somebody answers there.
    #[error("admin socket {}: another katran-xsk is running there; stop it, or choose another path with --socket", .0.display())]
    InUse(PathBuf),
    /// Something else has that name.
    #[error("admin socket {}: there is a file of that name which is not a socket; remove it, or choose another path with --socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("admin socket {}: cannot {action}: {error}; check that the directory exists and may be written to, or choose another path with --socket", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// A listening socket and its file, which goes when this is dropped.
#[derive(Debug)]
pub struct BoundSocket {
    pub(super) listener: UnixListener,
    file: SocketFile,
}

impl BoundSocket {
    /// Listens at `path` with these permission bits.
    ///
    /// The socket is bound inside a directory that only this user can enter, gets its permissions
    /// there and is then renamed to its place: nobody can connect before the permissions are right,
    /// and a socket that a dead instance left behind is replaced in one step.
    ///
    /// # Errors
    ///
    /// The socket cannot be made, or another instance listens there.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, SocketError> {
        let failed = |action| {
            move |error| SocketError::Io {
                path: path.to_owned(),
                action,
                error,
            }
        };
        if path.as_os_str().as_bytes().len() > LONGEST_PATH {
            return Err(SocketError::PathTooLong(path.to_owned()));
        }
        refuse_taken(path)?;
        let private =
            PrivateDirectory::beside(path).map_err(failed("make a directory beside it"))?;
        let inside = private.0.join("s");
        if inside.as_os_str().as_bytes().len() > LONGEST_PATH {
            return Err(SocketError::PathTooLong(path.to_owned()));
        }
        let listener = UnixListener::bind(&inside).map_err(failed("bind"))?;
        let permissions = fs::Permissions::from_mode(mode);
        let prepared = fs::set_permissions(&inside, permissions)
            .and_then(|()| SocketFile::at(&inside))
            .and_then(|file| fs::rename(&inside, path).map(|()| file));
        match prepared {
            Ok(file) => Ok(Self {
                listener,
                file: SocketFile {
                    path: path.to_owned(),
                    ..file
                },
            }),
            Err(error) => {
                // The directory is removed with the listener's name gone.
                let _ = fs::remove_file(&inside);
                Err(failed("put it in its place")(error))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.file.path
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        self.file.remove();
    }
}

/// Which file is ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    /// Removes the file unless another instance has put its own there since.
    fn remove(&self) {
        let ours = Self::at(&self.path)
            .is_ok_and(|now| now.device == self.device && now.inode == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the admin socket");
        }
    }
}

/// A directory that only this user can enter, gone when this is dropped.
struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    fn beside(path: &Path) -> io::Result<Self> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let directory = parent.join(format!(".{}", std::process::id()));
        let build = || fs::DirBuilder::new().mode(0o700).create(&directory);
        match build() {
            // Left behind by a process that had our id and died between two steps.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let _ = fs::remove_file(directory.join("s"));
                fs::remove_dir(&directory)?;
                build()?;
            }
            result => result?,
        }
        Ok(Self(directory))
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a directory");
        }
    }
}

/// Refuses a path at which something is that must stay.
fn refuse_taken(path: &Path) -> Result<(), SocketError> {
    let failed = |action, error| SocketError::Io {
        path: path.to_owned(),
        action,
        error,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at its path", error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) => match error.kind() {
            // Nobody listens: its owner is dead.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(()),
            // Somebody listens and is busy.
            io::ErrorKind::WouldBlock => Err(SocketError::InUse(path.to_owned())),
            _ => Err(failed("find out whether it is in use", error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path)
            .expect("exists")
            .permissions()
            .mode()
            & 0o7777
    }

    #[test]
    fn permissions_are_exact_and_nothing_is_left_behind() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.sock");
        for wanted in [0o660, 0o600, 0o666] {
            let socket = BoundSocket::bind(&path, wanted).expect("binds");
            assert_eq!(mode(&path), wanted);
            UnixStream::connect(&path).expect("somebody listens");
            drop(socket);
            assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 0);
        }
    }

    #[test]
    fn a_running_instance_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.sock");
        let first = BoundSocket::bind(&path, 0o660).expect("binds");
        let error = BoundSocket::bind(&path, 0o660).expect_err("taken");
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
        UnixStream::connect(&path).expect("the first still listens");
        drop(first);
    }

    #[test]
    fn a_dead_instances_socket_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.sock");
        // The standard listener leaves its file behind, as a killed process does.
        drop(UnixListener::bind(&path).expect("binds"));
        let socket = BoundSocket::bind(&path, 0o660).expect("replaces");
        UnixStream::connect(&path).expect("somebody listens");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn other_files_are_never_touched() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.sock");
        fs::write(&path, "precious").expect("writes");
        let error = BoundSocket::bind(&path, 0o660).expect_err("not a socket");
        assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
        assert_eq!(fs::read(&path).expect("reads"), b"precious");
    }

    #[test]
    fn the_successors_socket_is_not_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.sock");
        let first = BoundSocket::bind(&path, 0o660).expect("binds");
        fs::remove_file(&path).expect("removes");
        let second = BoundSocket::bind(&path, 0o660).expect("binds");
        drop(first);
        UnixStream::connect(&path).expect("the second still listens");
        drop(second);
    }

    #[test]
    fn impossible_paths_are_explained() {
        let directory = tempfile::tempdir().expect("a directory");
        let long = directory.path().join("x".repeat(120));
        let error = BoundSocket::bind(&long, 0o660).expect_err("too long");
        assert!(matches!(error, SocketError::PathTooLong(_)), "{error}");
        let nowhere = directory.path().join("missing/a.sock");
        let error = BoundSocket::bind(&nowhere, 0o660).expect_err("no directory");
        assert!(error.to_string().contains("--socket"), "{error}");
    }
}
