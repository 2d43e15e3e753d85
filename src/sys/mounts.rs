//! A file system of our own that is mounted nowhere.
//!
//! # Safety
//! The child made here only makes system calls: nothing allocates or locks in it.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{check, child};

const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;

/// The root of an empty file system in memory (tmpfs), which lives as long as something in it is open or mapped.
/// `user`: by way of a user namespace, for who may not mount.
///
/// # Errors
/// As clone(2), fsopen(2), fsconfig(2) and fsmount(2).
pub fn private(user: bool) -> io::Result<OwnedFd> {
    if user {
        return in_namespaces();
    }
    // SAFETY: a new descriptor, which nobody else knows of.
    make().map(|number| unsafe { OwnedFd::from_raw_fd(number) })
}

/// fsopen, fsconfig, fsmount: the descriptor's number.
fn make() -> io::Result<i32> {
    // SAFETY: no pointers but a string literal; the context is closed by its only owner.
    unsafe {
        let context = check(libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), FSOPEN_CLOEXEC))? as i32;
        let none = std::ptr::null::<libc::c_void>();
        let created = check(libc::syscall(libc::SYS_fsconfig, context, FSCONFIG_CMD_CREATE, none, none, 0));
        let made = created.and_then(|_| check(libc::syscall(libc::SYS_fsmount, context, FSMOUNT_CLOEXEC, 0)));
        libc::close(context);
        made.map(|number| number as i32)
    }
}

/// The same, in a child that has namespaces where it may.
fn in_namespaces() -> io::Result<OwnedFd> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let (uids, gids) = (format!("{uid} {uid} 1"), format!("{gid} {gid} 1"));
    child::opens(libc::CLONE_NEWUSER | libc::CLONE_NEWNS, || {
        let maps = [(c"setgroups", "deny"), (c"uid_map", uids.as_str()), (c"gid_map", gids.as_str())];
        maps.into_iter().try_for_each(|(file, text)| put(file, text))?;
        make()
    })
}

/// Writes to a file of /proc/self.
fn put(file: &CStr, text: &str) -> io::Result<()> {
    // SAFETY: names and text outlive their calls; the descriptors are closed by their only owner.
    unsafe {
        let dir = check(i64::from(libc::open(c"/proc/self".as_ptr(), libc::O_PATH | libc::O_CLOEXEC)))? as i32;
        let fd = check(i64::from(libc::openat(dir, file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC)));
        libc::close(dir);
        let fd = fd? as i32;
        let written = check(libc::write(fd, text.as_ptr().cast(), text.len()) as i64);
        libc::close(fd);
        written.map(drop)
    }
}

/// A new file in the file system with this root, for reading and writing, that may be executed: made under `path` in it
/// and deleted, so that the kernel shows it as `PATH (deleted)`.
///
/// # Errors
/// As openat(2).
pub fn unnamed_file(root: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    let names: Vec<&OsStr> =
        path.components().filter_map(|c| if let Component::Normal(name) = c { Some(name) } else { None }).collect();
    let mut at = PathBuf::new();
    for (index, name) in names.iter().enumerate() {
        at.push(name);
        if index + 1 < names.len() {
            match mkdirat(root, &at, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let file = openat(root, &at, flags, Mode::from_bits_truncate(0o755))?;
    unlinkat(root, &at, UnlinkatFlags::NoRemoveDir)?;
    Ok(File::from(file))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;

    #[test]
    fn a_file_nobody_finds() {
        let root = match private(!nix::unistd::geteuid().is_root()) {
            Ok(root) => root,
            Err(error) => return println!("SKIP a_file_nobody_finds: {error}"),
        };
        let made = ["/usr/lib/x y", "/usr/lib/z"].map(|path| unnamed_file(root.as_fd(), Path::new(path)).unwrap());
        assert!(unnamed_file(root.as_fd(), Path::new("/usr")).is_err(), "a directory has that name");
        drop(root);
        let shown = made.map(|file| std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap());
        assert_eq!(shown, ["/usr/lib/x y (deleted)", "/usr/lib/z (deleted)"].map(PathBuf::from));
    }
}
