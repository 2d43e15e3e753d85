//! Deleted directories and symbolic links: made where they were, opened, and deleted again.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::model::nameless::Nameless;

use super::Error;
use super::files::{beside, temporary};
use super::view::View;

/// Directories on the way to something that is to have no name. They are removed again, whatever happens.
#[derive(Debug, Default)]
pub struct Scaffold(Vec<PathBuf>);

impl Scaffold {
    /// Makes what is missing of the directories above `path`.
    pub fn above(&mut self, path: &Path) -> io::Result<()> {
        let Some(parent) = path.parent().filter(|p| !p.exists()) else { return Ok(()) };
        self.above(parent)?;
        self.directory(parent)
    }

    fn directory(&mut self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)?;
        self.0.push(path.to_owned());
        Ok(())
    }
}

impl Drop for Scaffold {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            let _ = fs::remove_dir(path);
        }
    }
}

/// All of them, open: directories for reading, links with O_PATH. Those that were in each other are so again.
pub fn open_all(list: &[Nameless], view: &View) -> Result<Vec<OwnedFd>, Error> {
    let mut scaffold = Scaffold::default();
    let mut order: Vec<(usize, &Nameless)> = list.iter().enumerate().collect();
    order.sort_by_key(|(_, n)| n.path.0.len());
    let mut made = Vec::with_capacity(list.len());
    for (index, object) in order {
        let path = view.path(object.path.as_path());
        let opened = make(&mut scaffold, object, &path)
            .or_else(|_| make(&mut scaffold, object, &beside(&path)))
            .or_else(|_| make(&mut scaffold, object, &view.path(&temporary())));
        made.push((index, opened.map_err(|e| Error::file("making again what was deleted", &object.path, e))?));
    }
    drop(scaffold);
    made.sort_by_key(|(index, _)| *index);
    for ((_, fd), object) in made.iter().zip(list).filter(|(_, object)| object.target.is_none()) {
        let mode = nix::sys::stat::fchmod(fd, Mode::from_bits_truncate(object.mode));
        mode.map_err(|e| Error::file("setting the permissions of", &object.path, e.into()))?;
    }
    Ok(made.into_iter().map(|(_, fd)| fd).collect())
}

fn make(scaffold: &mut Scaffold, object: &Nameless, path: &Path) -> io::Result<OwnedFd> {
    scaffold.above(path)?;
    match &object.target {
        None => {
            scaffold.directory(path)?;
            Ok(File::open(path)?.into())
        }
        Some(target) => {
            symlink(target.as_path(), path)?;
            let opened = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
            fs::remove_file(path)?;
            Ok(opened?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn nothing_of_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Name::from(dir.path().join(name).as_path());
        fs::create_dir(dir.path().join("taken")).unwrap();
        let list = [("a/b/c", None), ("a/b", None), ("x/link", Some(at("nowhere"))), ("taken", None)]
            .map(|(name, target)| Nameless { path: at(name), mode: 0o751, target });
        let all = open_all(&list, &View::ours()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let meta = |fd: &OwnedFd| File::from(fd.try_clone().unwrap()).metadata().unwrap();
        assert_eq!((meta(&all[0]).nlink(), meta(&all[0]).permissions().mode() & 0o7777), (0, 0o751));
        // The one is above the other, as it was.
        let above = nix::sys::stat::fstatat(&all[0], "..", nix::fcntl::AtFlags::empty()).unwrap();
        assert_eq!(above.st_ino, meta(&all[1]).ino());
        assert!(meta(&all[2]).is_symlink());
        assert_eq!(nix::fcntl::readlinkat(all[2].as_fd(), "").unwrap(), dir.path().join("nowhere").as_os_str());
    }
}
