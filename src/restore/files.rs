//! Regular files, directories, harmless devices; and files that had no name any more.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::image::Image;
use crate::model::Name;
use crate::model::files::{Content, Device, Directory, Regular};
use crate::model::memory::MappedFile;
use crate::sys::mounts;

use super::changed::{Changed, PutBack};
use super::fd::reopen;
use super::{Error, memfd, namespaces, sparse};

/// O_NOFOLLOW stays among a file's flags, and would forbid the way through /proc, which is a link.
const NOFOLLOW: u32 = libc::O_NOFOLLOW as u32;

/// Files made anew from their content, once each.
#[derive(Debug)]
pub struct Contents<'a> {
    image: &'a Image,
    changed: &'a Changed,
    /// Deleted files and their permissions, by the number of their content.
    made: HashMap<u32, (File, u32)>,
    /// Files that others know by their names.
    copies: HashMap<Name, File>,
    returning: Returning,
    /// Where copies are made that nobody is to find.
    private: Option<OwnedFd>,
}

/// Files made again beside their names, which they take when the tree stands ready. Until then nothing has changed; what
/// is dropped before is removed.
#[derive(Debug, Default)]
pub struct Returning(Vec<(PathBuf, PathBuf)>);

impl Returning {
    /// Gives them their names.
    pub fn settle(mut self) -> Result<(), Error> {
        while let Some((made, name)) = self.0.last() {
            fs::rename(made, name).map_err(|e| Error::file("putting back", &name.as_path().into(), e))?;
            self.0.pop();
        }
        Ok(())
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        for (made, _) in &self.0 {
            let _ = fs::remove_file(made);
        }
    }
}

impl<'a> Contents<'a> {
    /// None made yet.
    pub fn new(image: &'a Image, changed: &'a Changed) -> Self {
        let (made, copies) = (HashMap::new(), HashMap::new());
        Contents { image, changed, made, copies, returning: Returning::default(), private: None }
    }

    /// An open regular file, at its position.
    pub fn open(&mut self, regular: &Regular, flags: u32) -> Result<OwnedFd, Error> {
        let fail = |e| Error::file("opening", &regular.path, e);
        let mut file = match self.source(&regular.path, regular.content.as_ref(), regular.mode)? {
            Some(made) => reopen(&own_link(made), flags & !NOFOLLOW),
            None => reopen(regular.path.as_path(), flags),
        }
        .map_err(fail)?;
        file.seek(SeekFrom::Start(regular.offset)).map_err(fail)?;
        Ok(file.into())
    }

    /// A file to map or to execute.
    pub fn open_mapped(&mut self, mapped: &MappedFile, write: bool) -> Result<OwnedFd, Error> {
        let flags = if write { libc::O_RDWR } else { libc::O_RDONLY } as u32;
        // Without the right to execute it could not be anybody's executable.
        let file = match self.source(&mapped.path, mapped.content.as_ref(), 0o700)? {
            Some(made) => reopen(&own_link(made), flags),
            None => reopen(mapped.path.as_path(), flags),
        };
        file.map(OwnedFd::from).map_err(|e| Error::file("opening", &mapped.path, e))
    }

    /// What is opened in the place of a file's own name: a deleted file, or a copy of one that has changed.
    fn source(&mut self, path: &Name, content: Option<&Content>, mode: u32) -> Result<Option<&File>, Error> {
        if let Some(content) = content {
            return self.make(path, content, mode).map(Some);
        }
        if !self.copies.contains_key(path) {
            let (copy, content) = match (self.changed.put_back.get(path), self.changed.embedded.get(path)) {
                (Some(put_back), _) => (self.beside(path), put_back.saved.content),
                (None, Some(content)) => (self.apart(path), *content),
                (None, None) => return Ok(None),
            };
            let fail = |e| Error::file("making a copy", path, e);
            let copy = copy.map_err(fail)?;
            sparse::fill(self.image, &content, &copy, None).map_err(fail)?;
            self.copies.insert(path.clone(), copy);
        }
        Ok(self.copies.get(path))
    }

    /// An empty file beside `path`, to take that name in the end.
    fn beside(&mut self, path: &Name) -> io::Result<File> {
        let name = fs::canonicalize(path.as_path()).unwrap_or_else(|_| path.as_path().to_owned());
        let mut made = name.clone().into_os_string();
        made.push(format!(".ckpt-{}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&made)?;
        if let Ok(now) = fs::metadata(&name) {
            // Only root can give files away.
            let _ = std::os::unix::fs::fchown(&file, Some(now.uid()), Some(now.gid()));
        }
        self.returning.0.push((made.into(), name));
        Ok(file)
    }

    /// An empty file that the kernel shows under `path` and nobody finds there.
    fn apart(&mut self, path: &Name) -> io::Result<File> {
        let root = match self.private.take() {
            Some(root) => root,
            None => mounts::private(!namespaces::may(namespaces::CAP_SYS_ADMIN))?,
        };
        let root = self.private.insert(root);
        mounts::unnamed_file(root.as_fd(), path.as_path())
    }

    /// Gives the files the permissions they had, now that all that is to be open on them is, and memory files their
    /// seals. What comes back are those that `written` tells to be mapped for writing: a seal against new writers keeps
    /// us out as well until the mappings are there.
    pub fn finish(self, written: impl Fn(u32) -> bool) -> Result<(Vec<(File, u32)>, Returning), Error> {
        for (path, file) in &self.copies {
            let Some(PutBack { saved, mtime }) = self.changed.put_back.get(path) else { continue };
            let time = match u64::try_from(*mtime) {
                Ok(since) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(since)),
                Err(_) => SystemTime::UNIX_EPOCH.checked_sub(Duration::from_nanos(mtime.unsigned_abs())),
            };
            file.set_permissions(Permissions::from_mode(saved.mode))
                .and_then(|()| time.map_or(Ok(()), |time| file.set_modified(time)))
                .and_then(|()| file.sync_all())
                .map_err(|e| Error::file("putting back", path, e))?;
        }
        let mut unsealed = Vec::new();
        for (id, (file, mode)) in self.made {
            file.set_permissions(Permissions::from_mode(mode))
                .map_err(|e| Error::step("setting the permissions of a deleted file", 0, e))?;
            match self.image.checkpoint().shared.memfds.iter().find(|m| m.content == id) {
                Some(memfd) if written(id) => unsealed.push((file, memfd.seals)),
                Some(memfd) => {
                    memfd::seal(&file, memfd.seals).map_err(|e| Error::step("sealing a memory file", 0, e))?
                }
                None => {}
            }
        }
        Ok((unsealed, self.returning))
    }

    /// The file without a name, made where it was (so that it is on the same file system) and deleted again.
    fn make(&mut self, path: &Name, content: &Content, mode: u32) -> Result<&File, Error> {
        if !self.made.contains_key(&content.id) {
            let fail = |e| Error::file("making the deleted file", path, e);
            let memfd = self.image.checkpoint().shared.memfds.iter().find(|m| m.content == content.id);
            let file = match memfd {
                Some(memfd) => memfd::make(memfd, path).map_err(fail)?,
                None => {
                    let (file, name) = somewhere(path.as_path(), |p| {
                        OpenOptions::new().read(true).write(true).create_new(true).mode(mode | 0o600).open(p)
                    })
                    .map_err(fail)?;
                    // Nobody is to find it, whatever happens from here on.
                    fs::remove_file(&name).map_err(fail)?;
                    file
                }
            };
            sparse::fill(self.image, content, &file, memfd.and_then(|m| m.huge)).map_err(fail)?;
            self.made.insert(content.id, (file, mode));
        }
        self.made
            .get(&content.id)
            .map(|(file, _)| file)
            .ok_or_else(|| Error::file("making", path, io::ErrorKind::NotFound.into()))
    }
}

/// Makes something under the old name if that is free, else beside it; where nothing can be made there, among temporary
/// files: nobody knows it by its name any more. Returns the name too, which is to be removed.
pub fn somewhere<T>(path: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(T, PathBuf)> {
    let elsewhere = || std::env::temp_dir().join(format!("deleted.ckpt-{}", std::process::id()));
    near(path, &make).or_else(|_| near(&elsewhere(), &make))
}

fn near<T>(path: &Path, make: &impl Fn(&Path) -> io::Result<T>) -> io::Result<(T, PathBuf)> {
    match make(path) {
        Ok(made) => return Ok((made, path.to_owned())),
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        Err(_) => {}
    }
    let suffix = format!(".ckpt-{}", std::process::id());
    let mut beside = path.as_os_str().to_owned();
    beside.push(&suffix);
    let beside = PathBuf::from(beside);
    make(&beside).map(|made| (made, beside))
}

/// The name under which a file of ours can be opened again with other flags.
pub fn own_link(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// An open directory, at its position.
pub fn open_directory(directory: &Directory, flags: u32) -> Result<OwnedFd, Error> {
    let fail = |e| Error::file("opening", &directory.path, e);
    let mut file = reopen(directory.path.as_path(), flags | libc::O_DIRECTORY as u32).map_err(fail)?;
    if directory.offset != 0 {
        file.seek(SeekFrom::Start(directory.offset)).map_err(fail)?;
    }
    Ok(file.into())
}

/// A device, if it still is the same one.
pub fn open_device(device: &Device, flags: u32) -> Result<OwnedFd, Error> {
    let fail = |e| Error::file("opening", &device.path, e);
    let file = reopen(device.path.as_path(), flags).map_err(fail)?;
    let rdev = file.metadata().map_err(fail)?.rdev();
    if (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev)) != (u64::from(device.major), u64::from(device.minor))
    {
        return Err(fail(io::Error::other("it is another device now")));
    }
    Ok(file.into())
}
