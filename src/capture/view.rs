//! The file system as the program sees it.
//!
//! A resumed tree lives in a mount namespace of its own. Its paths are resolved from the root directory of its
//! namespace, which `/proc/PID/root` leads to; they hold no symbolic links, because the kernel made them up.

use std::fs::{File, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::PathBuf;

/// Where paths of the program start.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    root: Option<i32>,
}

/// What has become of a file that the program knows under some name.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// It is there.
    Present { path: Vec<u8>, meta: Box<Metadata> },
    /// It is no longer there (or another file is): the last name it had.
    Gone { path: Vec<u8> },
}

impl View {
    /// Our own view.
    pub fn ours() -> View {
        View::default()
    }

    /// The view of a process in another mount namespace, by its pid as we see it.
    pub fn of(pid: i32) -> View {
        View { root: Some(pid) }
    }

    /// Where we find an absolute path of the program.
    pub fn path(&self, path: &[u8]) -> PathBuf {
        let path = std::ffi::OsStr::from_bytes(path);
        match self.root {
            None => PathBuf::from(path),
            Some(pid) => {
                let mut full = std::ffi::OsString::from(format!("/proc/{pid}/root"));
                full.push(path);
                PathBuf::from(full)
            }
        }
    }

    /// stat(2) of an absolute path.
    pub fn stat(&self, path: &[u8]) -> Option<Metadata> {
        path.starts_with(b"/").then(|| std::fs::metadata(self.path(path)).ok()).flatten()
    }

    /// The same, of a symbolic link itself.
    pub fn lstat(&self, path: &[u8]) -> Option<Metadata> {
        path.starts_with(b"/").then(|| std::fs::symlink_metadata(self.path(path)).ok()).flatten()
    }

    /// What is in a directory, as far as it can be read: name, inode, and whether it is a directory.
    pub fn entries(&self, path: &[u8]) -> impl Iterator<Item = (Vec<u8>, u64, bool)> {
        let entries = std::fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        entries.map(|e| (e.file_name().into_vec(), e.ino(), e.file_type().is_ok_and(|t| t.is_dir())))
    }

    /// Opens an absolute path for reading.
    pub fn open(&self, path: &[u8]) -> std::io::Result<File> {
        File::open(self.path(path))
    }

    /// Finds the file that the kernel shows as `name`. A name that ends in ` (deleted)` may be a real one.
    /// `dev` as stat(2) has it; the numbers in `maps` differ from it on some file systems, so that it only counts
    /// against a name that looks deleted.
    pub fn find(&self, name: &[u8], dev: u64, ino: u64) -> Place {
        let deleted = name.strip_suffix(b" (deleted)");
        if let Some(meta) = self.stat(name) {
            if meta.ino() == ino && (meta.dev() == dev || deleted.is_none()) {
                return Place::Present { path: name.to_vec(), meta: Box::new(meta) };
            }
        }
        let path = deleted.unwrap_or(name);
        match deleted.and_then(|path| self.sibling(path, dev, ino)) {
            Some((path, meta)) => Place::Present { path, meta: Box::new(meta) },
            None => Place::Gone { path: path.to_vec() },
        }
    }

    /// The same for a name from `maps`, where a newline shows as `\\012`, and `\\012` as itself: what was read as a newline
    /// may be either.
    pub fn find_mapped(&self, name: &[u8], dev: u64, ino: u64) -> Place {
        /// So many are tried in all their mixtures.
        const MOST: usize = 6;
        let as_read = self.find(name, dev, ino);
        let newlines = name.iter().filter(|&&b| b == b'\n').count().min(MOST);
        if newlines == 0 || matches!(as_read, Place::Present { .. }) {
            return as_read;
        }
        let other = (1..1u32 << newlines).find_map(|literal| {
            let mut pieces = name.split(|&b| b == b'\n');
            let mut other = pieces.next().unwrap_or_default().to_vec();
            for (n, piece) in pieces.enumerate() {
                let newline = n >= newlines || literal >> n & 1 == 0;
                other.extend(if newline { &b"\n"[..] } else { b"\\012" });
                other.extend(piece);
            }
            let place = self.find(&other, dev, ino);
            matches!(place, Place::Present { .. }).then_some(place)
        });
        other.unwrap_or(as_read)
    }

    /// Another name of a file beside the one it had: sem_open(3) makes a semaphore under a temporary one.
    fn sibling(&self, path: &[u8], dev: u64, ino: u64) -> Option<(Vec<u8>, Metadata)> {
        let dir = path.get(..=path.iter().rposition(|&b| b == b'/')?)?;
        self.entries(dir).filter(|(_, i, _)| *i == ino).find_map(|(name, ..)| {
            let path = [dir, &name].concat();
            let meta = self.stat(&path).filter(|m| (m.dev(), m.ino()) == (dev, ino))?;
            Some((path, meta))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_really_called_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x (deleted)");
        std::fs::write(&path, "1").unwrap();
        let name = path.as_os_str().as_bytes();
        let meta = std::fs::metadata(&path).unwrap();
        assert!(matches!(View::ours().find(name, meta.dev(), meta.ino()), Place::Present { path, .. } if path == name));
        let Place::Gone { path } = View::ours().find(name, meta.dev(), meta.ino() + 1) else { panic!() };
        assert!(path.ends_with(b"/x"));
    }

    #[test]
    fn a_file_with_another_name_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (temporary, last) = (dir.path().join("sem.XYZ"), dir.path().join("sem.last"));
        std::fs::write(&temporary, "1").unwrap();
        std::fs::hard_link(&temporary, &last).unwrap();
        let meta = std::fs::metadata(&temporary).unwrap();
        std::fs::remove_file(&temporary).unwrap();
        let shown = [temporary.as_os_str().as_bytes(), b" (deleted)"].concat();
        let Place::Present { path, .. } = View::ours().find(&shown, meta.dev(), meta.ino()) else { panic!() };
        assert_eq!(path, last.as_os_str().as_bytes());
        std::fs::remove_file(&last).unwrap();
        assert!(matches!(View::ours().find(&shown, meta.dev(), meta.ino()), Place::Gone { .. }));
    }

    #[test]
    fn newlines_and_what_looks_like_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a\nb\\012c\nd");
        std::fs::write(&path, "1").unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        let read = [dir.path().as_os_str().as_bytes(), b"/a\nb\nc\nd"].concat();
        let found = |ino| View::ours().find_mapped(&read, meta.dev(), ino);
        assert!(matches!(found(meta.ino()), Place::Present { path: p, .. } if p == path.as_os_str().as_bytes()));
        assert!(matches!(found(meta.ino() + 1), Place::Gone { path } if path == read));
    }

    #[test]
    fn a_replaced_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "1").unwrap();
        std::fs::write(&b, "2").unwrap();
        let meta = std::fs::metadata(&a).unwrap();
        std::fs::rename(&b, &a).unwrap();
        let place = View::ours().find(a.as_os_str().as_bytes(), meta.dev(), meta.ino());
        assert!(matches!(place, Place::Gone { path } if path == a.as_os_str().as_bytes()));
    }

    #[test]
    fn through_another_process() {
        let view = View::of(std::process::id() as i32);
        assert_eq!(view.stat(b"/usr").unwrap().ino(), View::ours().stat(b"/usr").unwrap().ino());
        assert!(view.stat(b"usr").is_none());
    }
}
