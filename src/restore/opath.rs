//! Descriptors opened with O_PATH.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::model::opath::{Object, Place};
use crate::model::{Checkpoint, Refusal};

use super::files::{Contents, NOFOLLOW, own_link};
use super::permitted::Forbidden;
use super::{Error, sockets};

/// Opens one anew.
pub fn open(place: &Place, flags: u32, contents: &mut Contents<'_>) -> Result<OwnedFd, Error> {
    let fail = |e| Error::file("opening", &place.path, e);
    match place.object {
        Object::Named { file_type: libc::S_IFLNK } => of(&contents.path(&place.path), flags).map_err(fail),
        Object::Named { .. } => of(&contents.followed(&place.path), flags).map_err(fail),
        Object::Deleted { content, mode } => {
            let made = contents.make(&place.path, &content, mode)?;
            of(&own_link(made), flags & !NOFOLLOW).map_err(fail)
        }
        Object::Nameless(index) => {
            let made = contents.nameless(index)?;
            let directory = nix::sys::stat::fstat(made).is_ok_and(|m| m.st_mode & libc::S_IFMT == libc::S_IFDIR);
            // A link that is opened by way of /proc would be followed.
            if directory { of(&own_link(made), flags & !NOFOLLOW) } else { made.try_clone() }.map_err(fail)
        }
    }
}

fn of(path: &Path, flags: u32) -> io::Result<OwnedFd> {
    let flags = OFlag::from_bits_retain(flags as i32) | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty())?)
}

/// What is gone, or something else by now.
pub fn conflicts(checkpoint: &Checkpoint, conflicts: &mut Vec<Refusal>) {
    use std::os::unix::fs::MetadataExt;
    for (file, index) in checkpoint.files.iter().zip(0u32..) {
        let crate::model::fd::Kind::Path(Place { path, object: Object::Named { file_type } }) = &file.kind else {
            continue;
        };
        let there = std::fs::symlink_metadata(path.as_path());
        let reason = match there {
            Ok(meta) if meta.mode() & libc::S_IFMT == *file_type => continue,
            Ok(_) => "what was opened with O_PATH is of another type now".to_owned(),
            Err(e) => match Forbidden::to_reach(&e) {
                Some(forbidden) => forbidden.describe("what was opened with O_PATH"),
                None => format!("what was opened with O_PATH is gone ({e})"),
            },
        };
        let (pid, hint) = (sockets::holder(checkpoint, index).0, "bring it back, where it can be reached".to_owned());
        conflicts.push(Refusal { pid, object: path.display(), reason, hint });
    }
}
