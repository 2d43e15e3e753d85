//! The file system as the program is going to see it.
//!
//! A tree with a mount namespace of its own has copies of all mounts. What is opened through those of the host is on
//! other mounts than the program's paths: to link or rename from one to the other fails with EXDEV, and above such a
//! directory is the host's /proc. Symbolic links with absolute paths lead there, too, whoever follows them: they start at the
//! root of the process that looks (path_resolution(7)). So no link is left for the kernel to follow.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::sys::mounts::{self, Copied};

use super::Error;
use super::namespaces::{Wanted, namespace_error};

/// Where paths of the program start: in a mount namespace that waits for it, or in ours.
#[derive(Debug, Default)]
pub struct View {
    copied: Option<Copied>,
    /// Directories without links on the way, by those that were asked for.
    directories: Mutex<HashMap<PathBuf, PathBuf>>,
}

impl View {
    /// As it is wanted. Call it while this process has one thread.
    pub fn new(wanted: Wanted) -> Result<View, Error> {
        if !wanted.pid {
            return Ok(View::default());
        }
        let copied = mounts::copy(wanted.user).map_err(|e| namespace_error("making namespaces", &e))?;
        Ok(View { copied: Some(copied), ..View::default() })
    }

    /// Where we find an absolute path of the program. What is there may be a symbolic link.
    pub fn path(&self, path: &Path) -> PathBuf {
        let Some(copied) = &self.copied else { return path.to_owned() };
        let mut full = std::ffi::OsString::from(format!("/proc/self/fd/{}", copied.root.as_raw_fd()));
        match (path.parent(), path.file_name()) {
            (Some(directory), Some(name)) => full.push(self.directory(directory).join(name)),
            _ => full.push(path),
        }
        full.into()
    }

    /// The same of what a symbolic link there leads to.
    pub fn followed(&self, path: &Path) -> PathBuf {
        let is_link = self.copied.is_some() && fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
        let target = is_link.then(|| fs::canonicalize(path).ok()).flatten();
        self.path(target.as_deref().unwrap_or(path))
    }

    /// A directory without links on the way, as far as it is there: in ours, of which the other mounts are copies.
    fn directory(&self, path: &Path) -> PathBuf {
        if let Some(known) = self.directories.lock().ok().and_then(|known| known.get(path).cloned()) {
            return known;
        }
        let found = fs::canonicalize(path).unwrap_or_else(|_| match (path.parent(), path.file_name()) {
            (Some(above), Some(name)) => self.directory(above).join(name),
            _ => path.to_owned(),
        });
        if let Ok(mut known) = self.directories.lock() {
            known.insert(path.to_owned(), found.clone());
        }
        found
    }

    /// The namespaces that the first process is to enter, and its root directory there: mount, root, and user where
    /// there is a new one.
    pub fn entrance(&self) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>, Option<BorrowedFd<'_>>)> {
        self.copied.as_ref().map(|c| (c.mounts.as_fd(), c.root.as_fd(), c.user.as_ref().map(OwnedFd::as_fd)))
    }
}

#[cfg(test)]
impl View {
    /// Our own.
    pub fn ours() -> View {
        View::default()
    }
}
