//! Regular files, directories, harmless devices; and files that had no name any more.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::image::Image;
use crate::model::Name;
use crate::model::fd::Kind;
use crate::model::files::{Content, Device, Directory, Regular};
use crate::model::memory::MappedFile;
use crate::sys::fds;
use crate::sys::mounts;

use super::changed::{Changed, PutBack};
use super::fd::reopen;
use super::nameless::{self, Scaffold};
use super::view::View;
use super::{Error, memfd, namespaces, permitted, sparse};

/// O_NOFOLLOW stays among a file's flags, and would forbid the way through /proc, which is a link.
pub const NOFOLLOW: u32 = libc::O_NOFOLLOW as u32;

/// Flags of a temporary file that can't be given to it later.
const AT_ONCE: i32 = fds::ACCESS | libc::O_SYNC | libc::O_NOATIME;

/// Files made anew from their content, once each; directories and links that were deleted.
#[derive(Debug)]
pub struct Contents<'a> {
    image: &'a Image,
    changed: &'a Changed,
    view: &'a View,
    /// Deleted files, by the number of their content.
    made: HashMap<u32, Made>,
    nameless: Vec<OwnedFd>,
    /// Files that others know by their names.
    copies: HashMap<Name, File>,
    returning: Returning,
    /// Where copies are made that nobody is to find.
    private: Option<OwnedFd>,
}

/// A deleted file made anew.
#[derive(Debug)]
struct Made {
    file: File,
    /// Permissions that it is to have.
    mode: u32,
    /// By O_TMPFILE, so that it may be given a name.
    temporary: bool,
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
    pub fn new(image: &'a Image, changed: &'a Changed, view: &'a View) -> Result<Self, Error> {
        let nameless = nameless::open_all(&image.checkpoint().shared.nameless, view)?;
        let (made, copies, returning) = (HashMap::new(), HashMap::new(), Returning::default());
        Ok(Contents { image, changed, view, made, nameless, copies, returning, private: None })
    }

    /// Where we find a path of the program. What is there may be a symbolic link.
    pub fn path(&self, path: &Name) -> PathBuf {
        self.view.path(path.as_path())
    }

    /// The same of what a symbolic link there leads to.
    pub fn followed(&self, path: &Name) -> PathBuf {
        self.view.followed(path.as_path())
    }

    /// A deleted directory or symbolic link.
    pub fn nameless(&self, index: u32) -> Result<&OwnedFd, Error> {
        let missing = || Error::step("opening what was deleted", 0, io::Error::other("it is not in the image"));
        self.nameless.get(index as usize).ok_or_else(missing)
    }

    /// An open regular file, at its position.
    pub fn open(&mut self, regular: &Regular, flags: u32) -> Result<OwnedFd, Error> {
        let fail = |e| Error::file("opening", &regular.path, e);
        let source = self.source(&regular.path, regular.content.as_ref(), regular.mode)?;
        let reopened = match source {
            Some(made) => reopen(&own_link(made), flags & !NOFOLLOW),
            None => {
                let path = self.followed(&regular.path);
                reopen(&path, flags).or_else(|error| reopen_as_owner(&path, flags, regular.mode).unwrap_or(Err(error)))
            }
        };
        let own = regular.content.and_then(|c| self.made.get(&c.id)).filter(|m| m.temporary && regular.temporary);
        let mut file = match own {
            Some(made) => {
                fds::fcntl(made.file.as_fd(), libc::F_SETFL, i64::from(flags)).map_err(fail)?;
                made.file.try_clone()
            }
            None => reopened,
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
            None => reopen(&self.followed(&mapped.path), flags),
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
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.view.path(Path::new(&made)))?;
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
        for (id, Made { file, mode, .. }) in self.made {
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

    /// A file made by O_TMPFILE where it was, if the one with this content was made so and can be again. Its description
    /// is the one that made it.
    fn temporary(&self, path: &Name, content: u32) -> Option<File> {
        let by = self.image.checkpoint().files.iter().find(|f| match &f.kind {
            Kind::Regular(r) => r.temporary && r.content.is_some_and(|c| c.id == content),
            _ => false,
        })?;
        let flags = libc::O_TMPFILE | libc::O_CLOEXEC | by.flags as i32 & AT_ONCE;
        let directory = self.view.followed(path.as_path().parent()?);
        let opened = nix::fcntl::open(&directory, OFlag::from_bits_retain(flags), Mode::S_IRUSR | Mode::S_IWUSR);
        opened.ok().map(File::from)
    }

    /// The file without a name, made where it was (so that it is on the same file system) and deleted again.
    pub fn make(&mut self, path: &Name, content: &Content, mode: u32) -> Result<&File, Error> {
        if !self.made.contains_key(&content.id) {
            let fail = |e| Error::file("making the deleted file", path, e);
            let memfd = self.image.checkpoint().shared.memfds.iter().find(|m| m.content == content.id);
            let temporary = if memfd.is_none() { self.temporary(path, content.id) } else { None };
            let made = |file, temporary| Made { file, mode, temporary };
            let made = match (memfd, temporary) {
                (Some(memfd), _) => made(memfd::make(memfd, path).map_err(fail)?, false),
                (None, Some(file)) => made(file, true),
                (None, None) => {
                    let create = |p: &Path| {
                        OpenOptions::new().read(true).write(true).create_new(true).mode(mode | 0o600).open(p)
                    };
                    made(without_name(path.as_path(), self.view, create).map_err(fail)?, false)
                }
            };
            sparse::fill(self.image, content, &made.file, memfd.and_then(|m| m.huge)).map_err(fail)?;
            self.made.insert(content.id, made);
        }
        self.made
            .get(&content.id)
            .map(|made| &made.file)
            .ok_or_else(|| Error::file("making", path, io::ErrorKind::NotFound.into()))
    }
}

/// Opens a file of ours against its mode, which it has again afterwards: programs make files that later may only be read, and
/// go on writing to them (git its packs). `None` where that is not so.
fn reopen_as_owner(path: &Path, flags: u32, mode: u32) -> Option<io::Result<File>> {
    let handle = fds::place(path, 0).ok()?;
    if !permitted::as_it_was_made(&handle.metadata().ok()?, mode) {
        return None;
    }
    let link = own_link(&handle);
    fs::set_permissions(&link, Permissions::from_mode(mode | 0o600)).ok()?;
    let opened = reopen(&link, flags & !NOFOLLOW);
    Some(fs::set_permissions(&link, Permissions::from_mode(mode)).and(opened))
}

/// Makes a file under the old name if that is free, else beside it; where nothing can be made there, among temporary
/// files: nobody knows it by its name any more. That is removed at once, whatever happens from here on.
pub fn without_name<T>(path: &Path, view: &View, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    let attempt = |path: &Path| {
        let path = &view.path(path);
        let mut scaffold = Scaffold::default();
        scaffold.above(path)?;
        let made = make(path)?;
        fs::remove_file(path)?;
        Ok(made)
    };
    attempt(path).or_else(|_: io::Error| attempt(&beside(path))).or_else(|_| attempt(&temporary()))
}

/// A name beside one that is taken.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".ckpt-{}", std::process::id()));
    PathBuf::from(name)
}

/// A name among temporary files.
pub fn temporary() -> PathBuf {
    std::env::temp_dir().join(format!("deleted.ckpt-{}", std::process::id()))
}

/// The name under which a file of ours can be opened again with other flags.
pub fn own_link(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// An open directory, at its position.
pub fn open_directory(directory: &Directory, flags: u32, contents: &Contents<'_>) -> Result<OwnedFd, Error> {
    let fail = |e| Error::file("opening", &directory.path, e);
    let (path, flags) = match directory.deleted {
        Some(index) => (own_link(contents.nameless(index)?), flags & !NOFOLLOW),
        None => (contents.followed(&directory.path), flags),
    };
    let mut file = reopen(&path, flags | libc::O_DIRECTORY as u32).map_err(fail)?;
    if directory.offset != 0 {
        file.seek(SeekFrom::Start(directory.offset)).map_err(fail)?;
    }
    Ok(file.into())
}

/// A device, if it still is the same one.
pub fn open_device(device: &Device, flags: u32, contents: &Contents<'_>) -> Result<OwnedFd, Error> {
    let fail = |e| Error::file("opening", &device.path, e);
    let file = reopen(&contents.followed(&device.path), flags).map_err(fail)?;
    let rdev = file.metadata().map_err(fail)?.rdev();
    if (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev)) != (u64::from(device.major), u64::from(device.minor))
    {
        return Err(fail(io::Error::other("it is another device now")));
    }
    Ok(file.into())
}
