//! The file system as the program is going to see it.
//!
//! A tree with a mount namespace of its own has copies of all mounts. What is opened through those of the host is on
//! other mounts than the program's paths: to link or rename from one to the other fails with EXDEV, and above such a
//! directory is the host's /proc.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::sys::mounts::{self, Copied};

use super::Error;
use super::namespaces::{Wanted, namespace_error};

/// Where paths of the program start: in a mount namespace that waits for it, or in ours.
#[derive(Debug)]
pub struct View(Option<Copied>);

impl View {
    /// As it is wanted. Call it while this process has one thread.
    pub fn new(wanted: Wanted) -> Result<View, Error> {
        if !wanted.pid {
            return Ok(View(None));
        }
        let copied = mounts::copy(wanted.user).map_err(|e| namespace_error("making namespaces", &e))?;
        Ok(View(Some(copied)))
    }

    /// Where we find an absolute path of the program.
    pub fn path(&self, path: &Path) -> PathBuf {
        match &self.0 {
            None => path.to_owned(),
            Some(copied) => {
                let mut full = std::ffi::OsString::from(format!("/proc/self/fd/{}", copied.root.as_raw_fd()));
                full.push(path);
                full.into()
            }
        }
    }

    /// The namespaces that the first process is to enter, and its root directory there: mount, root, and user where
    /// there is a new one.
    pub fn entrance(&self) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>, Option<BorrowedFd<'_>>)> {
        self.0.as_ref().map(|c| (c.mounts.as_fd(), c.root.as_fd(), c.user.as_ref().map(OwnedFd::as_fd)))
    }
}

#[cfg(test)]
impl View {
    /// Our own.
    pub fn ours() -> View {
        View(None)
    }
}
