//! Descriptors opened with O_PATH.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use crate::model::Name;
use crate::model::fd::Kind;
use crate::model::opath::{Object, Place};

use super::fd::{SeenFd, Work};
use super::nameless::is_deleted;
use super::{Error, files, linked, procfs, view};

/// What it leads to; `None` if it was refused.
pub(super) fn capture(work: &mut Work<'_>, s: &SeenFd) -> Result<Option<Kind>, Error> {
    let file_system = files::file_system(work, s)?;
    let file_type = s.meta.mode() & libc::S_IFMT;
    if !s.link.starts_with(b"/") {
        return refuse(work, s, "it leads to something that has no name in the file system", "have it closed");
    }
    if procfs::is_of(s, file_system) {
        return procfs::capture(work, s);
    }
    if let Some(reason) = files::not_by_name(file_system) {
        return refuse(work, s, reason, "have it closed");
    }
    let path = match find(work, s, file_type) {
        view::Place::Present { path, .. } => return Ok(place(path, Object::Named { file_type })),
        view::Place::Gone { path } => path,
    };
    let object = match file_type {
        libc::S_IFREG if s.meta.nlink() == 0 => {
            let content = files::content(work, s, &path)?;
            Object::Deleted { content, mode: s.meta.mode() & 0o7777 }
        }
        libc::S_IFREG => return refuse(work, s, linked::NOT_FOUND, linked::HINT),
        libc::S_IFDIR | libc::S_IFLNK if is_deleted(&s.meta, &s.link, file_system) => {
            let target = if file_type == libc::S_IFLNK { Some(target(work, s)?) } else { None };
            Object::Nameless(work.contents.nameless.add(&s.meta, &s.link, target))
        }
        _ => return refuse(work, s, "what it leads to is deleted or out of sight", "have it closed"),
    };
    Ok(place(path, object))
}

fn place(path: Vec<u8>, object: Object) -> Option<Kind> {
    Some(Kind::Path(Place { path: Name(path), object }))
}

fn refuse(work: &mut Work<'_>, s: &SeenFd, reason: &str, hint: &str) -> Result<Option<Kind>, Error> {
    work.refusals.add(s.pid, s.object(&format!("O_PATH {}", s.name())), reason, hint);
    Ok(None)
}

/// By its name, or another that a file has.
fn find(work: &Work<'_>, s: &SeenFd, file_type: u32) -> view::Place {
    let (dev, ino) = s.key();
    let there = if file_type == libc::S_IFLNK { work.view.lstat(&s.link) } else { work.view.stat(&s.link) };
    if let Some(meta) = there.filter(|m| (m.dev(), m.ino()) == (dev, ino)) {
        return view::Place::Present { path: s.link.clone(), meta: Box::new(meta) };
    }
    match work.linked.get(&s.key()) {
        Some(path) => view::Place::Present { path: path.clone(), meta: Box::new(s.meta.clone()) },
        None => view::Place::Gone { path: s.link.strip_suffix(b" (deleted)").unwrap_or(&s.link).to_vec() },
    }
}

/// Where a symbolic link points to.
fn target(work: &Work<'_>, s: &SeenFd) -> Result<Name, Error> {
    let copy = s.copy(work.held)?;
    let target = nix::fcntl::readlinkat(copy.as_fd(), "");
    Ok(Name(target.map_err(|e| Error::of(s.host, "reading a symbolic link")(e.into()))?.into_vec()))
}
