//! Regular files, directories and the harmless devices.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use crate::model::Name;
use crate::model::fd::Kind;
use crate::model::files::{Content, Device, Directory, Regular, Saved};

use super::Error;
use super::fd::{SeenFd, Work};
use super::keep::{self, SaveFiles};
use super::mapped::stamp;
use super::nameless::is_deleted;
use super::refusals::CLOSE;
use super::view::Place;
use super::{fd, linked, memfd, mqueue, procfs};

const O_DIRECTORY: u32 = 0o200_000;
const O_TMPFILE: u32 = 0o20_000_000;

/// Devices without state: null, zero, full, random, urandom.
const DEVICES: [(u32, u32); 5] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9)];

/// Flags for the model: those of a temporary file mean its creation.
pub(super) fn flags(s: &SeenFd) -> u32 {
    if s.meta.is_file() { s.flags() & !(O_TMPFILE | O_DIRECTORY) } else { s.flags() }
}

/// One of the harmless devices, if it is one.
pub(super) fn device(s: &SeenFd) -> Option<Device> {
    let (major, minor) = (libc::major(s.meta.rdev()), libc::minor(s.meta.rdev()));
    DEVICES.contains(&(major, minor)).then(|| Device { path: Name(s.link.clone()), major, minor })
}

/// A regular file or a directory; `None` if it was refused.
pub(super) fn capture(work: &mut Work<'_>, s: &SeenFd) -> Result<Option<Kind>, Error> {
    let file_system = file_system(work, s)?;
    if file_system == mqueue::MAGIC && s.meta.is_file() {
        return mqueue::capture(work, s);
    }
    if procfs::is_of(s, file_system) {
        return procfs::capture(work, s);
    }
    let mut refuse = |reason: &str, hint: &str| {
        work.refusals.add(s.pid, s.object(&s.name()), reason, hint);
        Ok(None)
    };
    if let Some(reason) = not_by_name(file_system).or_else(|| special(&s.link)) {
        return refuse(reason, CLOSE);
    }
    let (dev, _) = s.key();
    let place = s.place(work.view).clone();
    if s.meta.is_dir() {
        return match place {
            Place::Present { path, meta } if meta.dev() == dev => {
                Ok(Some(Kind::Directory(Directory { path: Name(path), offset: s.info.pos, deleted: None })))
            }
            Place::Gone { path } if is_deleted(&s.meta, &s.link, file_system) => {
                let deleted = Some(work.contents.nameless.add(&s.meta, &s.link, None));
                Ok(Some(Kind::Directory(Directory { path: Name(path), offset: s.info.pos, deleted })))
            }
            _ => refuse("it is a directory that is out of sight", "have it closed"),
        };
    }
    let other_name = work.linked.get(&s.key()).cloned();
    if matches!(place, Place::Gone { .. }) && s.meta.nlink() > 0 && other_name.is_none() && !hidden(s) {
        // A shell may have opened it for us where we don't see it.
        if (0..=2).contains(&s.fd) {
            return Ok(Some(Kind::Stdio(super::stdio::outside(s, s.fd, false))));
        }
        return refuse(linked::NOT_FOUND, linked::HINT);
    }
    if matches!(place, Place::Gone { .. }) && hidden(s) {
        // A shell may have opened it for us with rights we do not have; we could not open it again.
        if (0..=2).contains(&s.fd) {
            return Ok(Some(Kind::Stdio(super::stdio::outside(s, s.fd, false))));
        }
        return refuse("it lies where its name cannot be looked up", "have it closed, or save as a user who may");
    }
    let mut stamp = stamp(&s.meta);
    let mode = s.meta.mode() & 0o7777;
    let mut saved = None;
    let (path, content) = match place {
        Place::Present { path, meta } if meta.dev() == dev => {
            if work.keep.wants(&path, file_system) {
                match work.contents.file(s.key(), s.meta.size(), || readable(work.held, s)) {
                    Ok(content) => saved = Some(Saved { content, mode }),
                    Err(error) => {
                        let reason = format!("{}: {error}", keep::UNREADABLE);
                        work.refusals.add(s.pid, s.object(&s.name()), &reason, "save as a user who may read it");
                        return Ok(None);
                    }
                }
            }
            (path, None)
        }
        Place::Present { path, .. } | Place::Gone { path } => match other_name {
            Some(name) => (name, None),
            None if *work.keep == SaveFiles::None && !memfd::is(&path) => {
                work.refusals.add(s.pid, s.object(&s.name()), keep::DELETED, keep::DELETED_HINT);
                return Ok(None);
            }
            None => {
                let content = content(work, s, &path)?;
                stamp.size = content.size;
                (path, Some(content))
            }
        },
    };
    let temporary = content.is_some() && s.flags() & O_TMPFILE != 0;
    Ok(Some(Kind::Regular(Regular { path: Name(path), offset: s.info.pos, stamp, mode, content, saved, temporary })))
}

/// Takes the content of a deleted file, which the kernel shows as `path`, into the image.
pub(super) fn content(work: &mut Work<'_>, s: &SeenFd, path: &[u8]) -> Result<Content, Error> {
    let held = work.held;
    let content = work.contents.file(s.key(), s.meta.size(), || readable(held, s));
    let content = content.map_err(Error::of(s.host, "opening a deleted file"))?;
    let file = readable(held, s).map_err(Error::of(s.host, "opening a memory file"))?;
    let huge = memfd::huge(&file);
    if memfd::is(path) || huge.is_some() {
        memfd::capture(work.contents, content, Some(&file), huge);
    }
    Ok(content)
}

/// Whether the file still has a name, in a directory that we may not search.
pub(super) fn hidden(s: &SeenFd) -> bool {
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(&s.link));
    s.meta.nlink() > 0
        && std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
}

/// The file opened for reading. What the program has open may be for writing only, or want its buffers aligned.
fn readable(held: &crate::tracer::Held, s: &SeenFd) -> std::io::Result<File> {
    let copy = s.copy(held).map_err(std::io::Error::other)?;
    let as_it_is = !s.only_path() && s.reads() && s.flags() & libc::O_DIRECT as u32 == 0;
    if as_it_is { Ok(File::from(copy)) } else { File::open(format!("/proc/self/fd/{}", copy.as_raw_fd())) }
}

/// Files that are none, by the names the kernel gives them.
fn special(link: &[u8]) -> Option<&'static str> {
    if link.starts_with(b"/secretmem") {
        Some("secret memory (memfd_secret) is not supported")
    } else if !link.starts_with(b"/") {
        Some("not supported")
    } else {
        None
    }
}

/// The kind of file system it is on (linux/magic.h).
pub(super) fn file_system(work: &mut Work<'_>, s: &SeenFd) -> Result<i64, Error> {
    if let Some(kind) = work.file_systems.get(&s.info.mnt_id) {
        return Ok(*kind);
    }
    let kind = fd::file_system(&format!("{}/fd/{}", s.host, s.fd));
    let kind = kind.map_err(Error::of(s.host, "asking for a file system"))?;
    work.file_systems.insert(s.info.mnt_id, kind);
    Ok(kind)
}

/// Why files of such a file system can't be opened again by name, if so.
pub(super) fn not_by_name(kind: i64) -> Option<&'static str> {
    /// Kinds whose files are objects of the kernel rather than files: linux/magic.h.
    const REFUSED: [(i64, &str); 5] = [
        (0x6e73_6673, "namespace descriptors are not supported"),
        (0xcafe_4a11, "BPF objects are not supported"),
        (0x6462_6720, "files of debugfs are not supported"),
        (0x7472_6163, "files of tracefs are not supported"),
        (0x5345_434d, "secret memory (memfd_secret) is not supported"),
    ];
    REFUSED.iter().find(|(magic, _)| *magic == kind).map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_none() {
        assert!(special(b"/secretmem (deleted)").is_some());
        assert!(special(b"net:[4026531840]").is_some());
        assert!(special(b"/tmp/secretmem").is_none());
    }
}
