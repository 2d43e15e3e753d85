//! The directory of control sockets: `$XDG_RUNTIME_DIR/ckpt`, else `/tmp/ckpt-<uid>`.
//!
//! Sockets are reached through a descriptor of the directory (`/proc/self/fd/N/NAME.sock`): the path of the directory
//! may be longer than a socket address holds, and cannot be exchanged under us.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::client::peer_of;
use super::{Error, name};

const SUFFIX: &str = ".sock";

/// A directory of control sockets that belongs to us alone.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

/// A name that is ours for as long as this lives; the socket goes when it is dropped.
#[derive(Debug)]
pub struct Claim {
    /// Takes the connections.
    pub listener: UnixListener,
    /// Where clients find it.
    pub path: PathBuf,
    directory: Directory,
    name: String,
    inode: u64,
}

impl Directory {
    /// The directory for new jobs; made if it isn't there.
    ///
    /// # Errors
    /// [`Error::Directory`]: it belongs to somebody else, or others may enter it.
    pub fn ours() -> Result<Directory, Error> {
        let path = match runtime_dir() {
            Some(runtime) => runtime.join("ckpt"),
            None => fallback(),
        };
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::Directory { path, reason: error.to_string() });
            }
            _ => {}
        }
        Self::open(path)
    }

    /// Where clients look: the directory for new jobs, and where nothing says which that is, also the one of a login
    /// session. Directories that aren't there or aren't ours are left out.
    pub fn all() -> Vec<Directory> {
        let paths = match runtime_dir() {
            Some(runtime) => vec![runtime.join("ckpt")],
            None => vec![fallback(), PathBuf::from(format!("/run/user/{}/ckpt", uid()))],
        };
        paths.into_iter().filter_map(|path| Self::open(path).ok()).collect()
    }

    fn open(path: PathBuf) -> Result<Directory, Error> {
        let bad =
            |path: &Path, reason: &dyn ToString| Error::Directory { path: path.into(), reason: reason.to_string() };
        let flags = libc_flags::DIRECTORY | libc_flags::NOFOLLOW;
        let file = File::options().read(true).custom_flags(flags).open(&path).map_err(|error| bad(&path, &error))?;
        let meta = file.metadata().map_err(|error| bad(&path, &error))?;
        if meta.uid() != uid() {
            return Err(bad(&path, &format!("it belongs to uid {}", meta.uid())));
        }
        if meta.mode() & 0o077 != 0 {
            return Err(bad(&path, &"others may enter it (chmod 700 mends that)"));
        }
        Ok(Directory { fd: file.into(), path })
    }

    fn reach(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}{SUFFIX}", self.fd.as_raw_fd()))
    }

    /// Takes `name` for a job of ours.
    ///
    /// # Errors
    /// [`Error::NameTaken`] by a living job, [`Error::BadName`], or what the system says.
    pub fn claim(self, name: &str) -> Result<Claim, (Directory, Error)> {
        match self.bind(name) {
            Ok((listener, inode)) => {
                let path = self.path.join(format!("{name}{SUFFIX}"));
                Ok(Claim { listener, path, directory: self, name: name.to_owned(), inode })
            }
            Err(error) => Err((self, error)),
        }
    }

    fn bind(&self, name: &str) -> Result<(UnixListener, u64), Error> {
        name::check(name)?;
        let path = self.reach(name);
        let _lock = self.lock()?;
        match UnixStream::connect(&path) {
            Ok(stream) => {
                let pid = peer_of(&stream).map_or(0, |peer| peer.pid);
                return Err(Error::NameTaken { name: name.to_owned(), pid });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Nobody listens: its supervisor is dead.
            Err(_) => fs::remove_file(&path).map_err(Error::io("remove the stale socket of", name))?,
        }
        let listener = UnixListener::bind(&path).map_err(Error::io("make the control socket of", name))?;
        let finish = || {
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            fs::symlink_metadata(&path).map(|meta| meta.ino())
        };
        let inode = finish().map_err(Error::io("set up the control socket of", name))?;
        Ok((listener, inode))
    }

    /// Whoever takes or removes a name holds this, so that nobody removes a socket that was just made.
    fn lock(&self) -> Result<Flock<OwnedFd>, Error> {
        let object = self.path.display();
        // A description of its own: a lock belongs to the description.
        let own = File::open(format!("/proc/self/fd/{}", self.fd.as_raw_fd())).map_err(Error::io("open", &object))?;
        Flock::lock(own.into(), FlockArg::LockExclusive).map_err(|(_, errno)| Error::io("lock", object)(errno))
    }

    /// Connects to the supervisor of job `name`; `None` if there is none. A dead one's socket is removed.
    pub fn connect(&self, name: &str) -> Option<UnixStream> {
        name::check(name).ok()?;
        let path = self.reach(name);
        match UnixStream::connect(&path) {
            Ok(stream) => Some(stream),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _lock = self.lock().ok()?;
                match UnixStream::connect(&path) {
                    Ok(stream) => Some(stream),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        let _ = fs::remove_file(&path);
                        None
                    }
                    Err(_) => None,
                }
            }
            Err(_) => None,
        }
    }

    /// Names that have a socket here, in order; their supervisors may be dead.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/self/fd/{}", self.fd.as_raw_fd())).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<_> = names.filter_map(|name| Some(name.strip_suffix(SUFFIX)?.to_owned())).collect();
        names.sort();
        names
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let path = self.directory.reach(&self.name);
        if fs::symlink_metadata(&path).is_ok_and(|meta| meta.ino() == self.inode) {
            let _ = fs::remove_file(&path);
        }
    }
}

mod libc_flags {
    use nix::fcntl::OFlag;
    pub const DIRECTORY: i32 = OFlag::O_DIRECTORY.bits();
    pub const NOFOLLOW: i32 = OFlag::O_NOFOLLOW.bits();
}

fn uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn fallback() -> PathBuf {
    PathBuf::from(format!("/tmp/ckpt-{}", uid()))
}

/// `$XDG_RUNTIME_DIR`, if it is ours (after `su` it may be another user's).
fn runtime_dir() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    let meta = fs::metadata(&path).ok()?;
    (path.is_absolute() && meta.is_dir() && meta.uid() == uid()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn private() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        let path = dir.path().to_owned();
        (dir, path)
    }

    #[test]
    fn a_living_name_is_taken_and_a_dead_one_is_not() {
        let (_guard, path) = private();
        let claim = Directory::open(path.clone()).unwrap().claim("job").unwrap();
        assert_eq!(fs::metadata(&claim.path).unwrap().mode() & 0o777, 0o600);
        let (dir, error) = Directory::open(path.clone()).unwrap().claim("job").unwrap_err();
        assert!(matches!(error, Error::NameTaken { pid, .. } if pid == std::process::id() as i32), "{error}");
        assert!(dir.connect("job").is_some());

        // A supervisor that was killed leaves its socket behind. Made by hand: a listener of ours that is closed may
        // live on for a moment in a child that another test has just forked.
        let stale = path.join("dead.sock");
        let leave = || {
            use nix::sys::stat::{Mode, SFlag, mknod};
            mknod(&stale, SFlag::S_IFSOCK, Mode::S_IRUSR | Mode::S_IWUSR, 0).unwrap();
        };
        leave();
        assert_eq!(dir.names(), ["dead", "job"]);
        assert!(dir.connect("dead").is_none());
        assert_eq!(dir.names(), ["job"]);
        leave();
        assert!(dir.claim("dead").is_ok());

        drop(claim);
        assert!(!path.join("job.sock").exists());
    }

    #[test]
    fn a_claim_leaves_a_strange_socket_alone() {
        let (_guard, path) = private();
        let claim = Directory::open(path.clone()).unwrap().claim("job").unwrap();
        fs::remove_file(&claim.path).unwrap();
        let _other = UnixListener::bind(path.join("job.sock")).unwrap();
        drop(claim);
        assert!(path.join("job.sock").exists());
    }

    #[test]
    fn a_directory_others_may_enter_is_refused() {
        let (_guard, path) = private();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(Directory::open(path.clone()), Err(Error::Directory { .. })));
        let link = path.join("link");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        assert!(matches!(Directory::open(link), Err(Error::Directory { .. })));
    }
}
