//! The file that becomes the image: `TARGET.partial` until it is complete.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::error::{Error, Result};

/// A partial file of ours, removed when dropped uncommitted. A lock on it tells others that its writer is alive.
#[derive(Debug)]
pub(super) struct Partial {
    target: PathBuf,
    path: PathBuf,
    file: Held,
    committed: bool,
}

#[derive(Debug)]
enum Held {
    Locked(Flock<File>),
    /// On a file system without locks.
    Plain(File),
}

impl Deref for Held {
    type Target = File;
    fn deref(&self) -> &File {
        match self {
            Held::Locked(file) => file,
            Held::Plain(file) => file,
        }
    }
}

impl Partial {
    /// Makes the partial file of `target`, mode 0600, in place of one that a dead writer left.
    pub(super) fn create(target: &Path) -> Result<Partial> {
        let target = resolved(target)?;
        let mut path = target.clone().into_os_string();
        path.push(".partial");
        let path = PathBuf::from(path);
        // Another writer may remove the stale file, or ours before it is locked: then try again, but not for ever.
        for _ in 0..100 {
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    if let Some(file) = hold(file, &path)? {
                        return Ok(Partial { target, path, file, committed: false });
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => remove_stale(&path)?,
                Err(e) => return Err(Error::writing(&path, "create", e)),
            }
        }
        Err(Error::Busy { path })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The name it will have.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Makes it durable under its final name.
    pub(super) fn commit(mut self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::writing(&self.target, "sync", e))?;
        fs::rename(&self.path, &self.target).map_err(|e| Error::writing(&self.target, "rename to", e))?;
        self.committed = true;
        let dir = match self.target.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        match File::open(dir) {
            Ok(handle) => handle.sync_all().map_err(|e| Error::writing(dir, "sync", e)),
            // One may write into a directory that one may not read; the image is there all the same.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(e) => Err(Error::writing(dir, "open", e)),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing more can be done about a failure; the next writer clears it away.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Where a rename must go: through a symbolic link to the file it names, never over a device or directory.
fn resolved(target: &Path) -> Result<PathBuf> {
    match fs::metadata(target) {
        Ok(found) if !found.is_file() => Err(Error::NotAFile { path: target.to_owned() }),
        Ok(_) => fs::canonicalize(target).map_err(Error::io("resolve", target.display().to_string())),
        Err(_) => Ok(target.to_owned()),
    }
}

/// Locks a new file; `None` if it was taken for a stale one meanwhile.
fn hold(file: File, path: &Path) -> Result<Option<Held>> {
    let held = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => Held::Locked(locked),
        Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
        Err((file, _)) => Held::Plain(file),
    };
    Ok(is_at(&held, path).map_err(|e| Error::writing(path, "look at", e))?.then_some(held))
}

/// Removes the partial file of a writer that is gone, for which its lock is the sign.
fn remove_stale(path: &Path) -> Result<()> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::writing(path, "replace", e)),
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(stale) if is_at(&stale, path).map_err(|e| Error::writing(path, "look at", e))? => {
            fs::remove_file(path).map_err(|e| Error::writing(path, "replace", e))
        }
        Ok(_) => Ok(()),
        Err(_) => Err(Error::Busy { path: path.to_owned() }),
    }
}

/// Whether the open file is still the one with this name.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn dropped_it_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let partial = Partial::create(&dir.path().join("a")).unwrap();
        assert_eq!(names(dir.path()), ["a.partial"]);
        assert_eq!(partial.file().metadata().unwrap().mode() & 0o777, 0o600);
        drop(partial);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_live_writer_is_left_alone_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a");
        fs::write(dir.path().join("a.partial"), b"left behind").unwrap();
        let first = Partial::create(&target).unwrap();
        assert_eq!(first.file().metadata().unwrap().len(), 0);
        assert!(matches!(Partial::create(&target), Err(Error::Busy { .. })));
        first.commit().unwrap();
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn only_regular_files_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Partial::create(dir.path()), Err(Error::NotAFile { .. })));
        assert!(matches!(Partial::create(Path::new("/dev/null")), Err(Error::NotAFile { .. })));
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        Partial::create(&link).unwrap().commit().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().len(), 0);
    }
}
