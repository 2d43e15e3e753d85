//! Whether we may open what the program had open: permissions may have changed since, and so may whoever resumes.

use std::fs::Metadata;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, faccessat, getegid, geteuid};

/// What may not be done with a file, and what the kernel says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forbidden {
    verb: &'static str,
    errno: Errno,
}

/// The way out.
pub const HINT: &str = "permit it (chmod, chown), or resume as the user who may";

impl Forbidden {
    /// That a file can't even be looked at, if that is what an error means.
    pub fn to_reach(error: &io::Error) -> Option<Forbidden> {
        let errno = Errno::from_raw(error.raw_os_error()?);
        (errno == Errno::EACCES).then_some(Forbidden { verb: "reached", errno })
    }

    /// The reason of a conflict about `what`.
    pub fn describe(&self, what: &str) -> String {
        format!("{what} may not be {} ({})", self.verb, self.errno.desc())
    }
}

/// What opening a file with these flags needs.
pub fn of_flags(flags: u32) -> AccessFlags {
    match flags as i32 & crate::sys::fds::ACCESS {
        libc::O_RDONLY => AccessFlags::R_OK,
        libc::O_WRONLY => AccessFlags::W_OK,
        _ => AccessFlags::R_OK | AccessFlags::W_OK,
    }
}

/// What we may not do of what is `needed`. Only where the path leads to something: others see to what is missing.
pub fn forbidden(path: &Path, needed: AccessFlags) -> Option<Forbidden> {
    let verbs = [
        (AccessFlags::R_OK, "read"),
        (AccessFlags::W_OK, "written to"),
        (AccessFlags::X_OK, if needed == AccessFlags::X_OK && path.is_dir() { "entered" } else { "executed" }),
    ];
    verbs.into_iter().filter(|(right, _)| needed.contains(*right)).find_map(|(right, verb)| {
        let errno = faccessat(AT_FDCWD, path, right, AtFlags::AT_EACCESS).err()?;
        (errno != Errno::ENOENT).then_some(Forbidden { verb, errno })
    })
}

/// Whether a file is where nothing may be mapped to be executed (mm/mmap.c, `do_mmap`), whatever its mode. Its name must
/// lead somewhere.
pub fn on_noexec(path: &Path) -> bool {
    statvfs(path).is_ok_and(|of| of.flags().contains(FsFlags::ST_NOEXEC))
}

/// The same as [`forbidden`] for a directory that a process is to be in. In a user namespace made for it (`user`) it has all
/// capabilities, which count for what belongs to the one user and group there are (kernel/capability.c, privileged_wrt_inode_uidgid).
pub fn not_to_enter(path: &Path, meta: &Metadata, user: bool) -> Option<Forbidden> {
    use std::os::unix::fs::MetadataExt;
    let own = meta.uid() == geteuid().as_raw() && meta.gid() == getegid().as_raw();
    if user && own { None } else { forbidden(path, AccessFlags::X_OK) }
}

/// Whether the owner, which we are, may open a file against its mode because it has been like this all along: `mode` is what the
/// program had it open with, from when it was made (open(2): the mode holds for later opens only). Set-id bits would be lost
/// by changing the mode (chmod(2)), so none may be there.
pub fn as_it_was_made(meta: &Metadata, mode: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    meta.uid() == geteuid().as_raw() && meta.mode() & 0o7777 == mode && mode & 0o7000 == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_a_mode_forbids() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let may_not = |mode, needed| {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            forbidden(file.path(), needed).map(|f| f.describe("x"))
        };
        let denied = |verb| Some(format!("x may not be {verb} (Permission denied)"));
        let (read, write) = (AccessFlags::R_OK, AccessFlags::W_OK);
        assert_eq!(may_not(0o700, read | write | AccessFlags::X_OK), None);
        assert_eq!(may_not(0o600, AccessFlags::X_OK), denied("executed"));
        if !geteuid().is_root() {
            assert_eq!(may_not(0o200, read | write), denied("read"));
            assert_eq!(may_not(0o400, read | write), denied("written to"));
        }
        assert_eq!(forbidden(Path::new("/nowhere"), read), None);
    }

    #[test]
    fn what_was_made_so_may_be_opened_by_its_owner() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let made = |mode| {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            fs::metadata(file.path()).unwrap()
        };
        assert!(as_it_was_made(&made(0o444), 0o444));
        assert!(!as_it_was_made(&made(0o444), 0o644));
        assert!(!as_it_was_made(&made(0o2444), 0o2444));
        if !geteuid().is_root() {
            assert!(!as_it_was_made(&fs::metadata("/etc/passwd").unwrap(), 0o644));
        }
    }

    #[test]
    fn flags_tell_what_is_needed() {
        for (flags, needed) in [
            (libc::O_RDONLY, AccessFlags::R_OK),
            (libc::O_WRONLY | libc::O_APPEND, AccessFlags::W_OK),
            (libc::O_RDWR, AccessFlags::R_OK | AccessFlags::W_OK),
        ] {
            assert_eq!(of_flags(flags as u32), needed);
        }
    }
}
