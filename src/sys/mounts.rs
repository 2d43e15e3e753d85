//! A file system of our own that is mounted nowhere, and a copy of all mounts.
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
    let maps = IdMaps::own();
    let [root] = child::opens(libc::CLONE_NEWUSER | libc::CLONE_NEWNS, || {
        maps.write()?;
        make().map(|number| [number])
    })?;
    Ok(root)
}

/// A copy of our mount namespace, which nobody is in yet.
#[derive(Debug)]
pub struct Copied {
    /// The namespace.
    pub mounts: OwnedFd,
    /// Our root directory in it, open as a place only (O_PATH).
    pub root: OwnedFd,
    /// The user namespace it belongs to, if that is a new one. Our user and group are the same in it, and no others.
    pub user: Option<OwnedFd>,
}

/// Copies our mount namespace. What is mounted in ours later is mounted in the copy, too, and not the other way round.
/// `user`: with a new user namespace, for who may not do so.
///
/// # Errors
/// As clone(2), mount(2) and open(2).
pub fn copy(user: bool) -> io::Result<Copied> {
    let maps = IdMaps::own();
    let flags = if user { libc::CLONE_NEWUSER } else { 0 };
    let [mounts, root, owner] = child::opens(flags | libc::CLONE_NEWNS, || {
        if user {
            maps.write()?;
        }
        let slave = libc::MS_REC | libc::MS_SLAVE;
        let (none, root) = (c"none".as_ptr(), c"/".as_ptr());
        // SAFETY: no pointers but string literals.
        check(unsafe { libc::mount(none, root, std::ptr::null(), slave, std::ptr::null()) }.into())?;
        Ok([open(c"/proc/self/ns/mnt", 0)?, open(c"/", libc::O_PATH)?, open(c"/proc/self/ns/user", 0)?])
    })?;
    Ok(Copied { mounts, root, user: user.then_some(owner) })
}

fn open(path: &CStr, flags: i32) -> io::Result<i32> {
    // SAFETY: `path` ends in NUL.
    check(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }.into()).map(|fd| fd as i32)
}

/// What makes our user and group the only ones of a new user namespace.
struct IdMaps {
    uids: String,
    gids: String,
}

impl IdMaps {
    fn own() -> IdMaps {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        IdMaps { uids: format!("{uid} {uid} 1"), gids: format!("{gid} {gid} 1") }
    }

    fn write(&self) -> io::Result<()> {
        let maps = [(c"setgroups", "deny"), (c"uid_map", self.uids.as_str()), (c"gid_map", self.gids.as_str())];
        maps.into_iter().try_for_each(|(file, text)| put(file, text))
    }
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

/// Whether something is mounted at `path`. Kernels before 5.8 don't tell; then it is.
///
/// # Errors
/// As statx(2).
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    use std::os::unix::ffi::OsStrExt;
    const MOUNT_ROOT: u64 = libc::STATX_ATTR_MOUNT_ROOT as u64;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: zeros are a valid `struct statx`; path and buffer outlive the call.
    let stat = unsafe {
        let mut stat: libc::statx = std::mem::zeroed();
        check(libc::statx(libc::AT_FDCWD, path.as_ptr(), libc::AT_SYMLINK_NOFOLLOW, 0, &raw mut stat).into())?;
        stat
    };
    Ok(stat.stx_attributes_mask & MOUNT_ROOT == 0 || stat.stx_attributes & MOUNT_ROOT != 0)
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
