//! Files and names of UNIX sockets.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::unistd::{AccessFlags, access, mkdtemp};

use crate::model::unix::{Bound, SocketFile};
use crate::model::{Checkpoint, Name, Refusal};
use crate::net::unix::{LONGEST, display, lives, sockaddr};
use crate::sys::socket;

use super::sockets;

/// Files that were made for a resume; dropping it removes them.
#[derive(Debug, Default)]
pub struct Files(Vec<PathBuf>);

impl Files {
    /// Notes one that was just made.
    pub fn made(&mut self, path: &Path) {
        self.0.push(path.to_owned());
    }

    /// The resume has succeeded: they stay.
    pub fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// A directory for files of sockets that nobody is to find by their names. A helper has it as its root, and so can give a
/// socket any path as its name.
#[derive(Debug)]
pub struct Elsewhere {
    dir: PathBuf,
    count: u32,
}

impl Elsewhere {
    /// A new one, among temporary files.
    pub fn new() -> io::Result<Elsewhere> {
        let dir = mkdtemp(&std::env::temp_dir().join("ckpt-sockets-XXXXXX"))?;
        let elsewhere = Elsewhere { dir, count: 0 };
        // Helpers may be other users; nobody knows the name.
        fs::set_permissions(&elsewhere.dir, fs::Permissions::from_mode(0o711))?;
        open_directory(&elsewhere.root())?;
        Ok(elsewhere)
    }

    /// What is the root of the helper.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Makes the directories that a name speaks of.
    pub fn prepare(&self, name: &Name) -> io::Result<()> {
        let root = self.root();
        let mut at = root.clone();
        for part in name.as_path().parent().into_iter().flat_map(Path::components) {
            match part {
                Component::Normal(part) => at.push(part),
                Component::ParentDir if at != root => drop(at.pop()),
                _ => continue,
            }
            if !at.exists() {
                open_directory(&at)?;
            }
        }
        Ok(())
    }

    /// Puts the file with this name aside, so that the name can be given again; an address by which it is found.
    pub fn put_aside(&mut self, name: &Name) -> io::Result<Vec<u8>> {
        let root = self.root();
        let mut from = root.clone();
        for part in name.as_path().components() {
            match part {
                Component::Normal(part) => from.push(part),
                Component::ParentDir if from != root => drop(from.pop()),
                _ => {}
            }
        }
        let to = self.next();
        fs::rename(from, &to)?;
        Ok(sockaddr(&Name::from(to)))
    }

    /// A short address of a file at any path.
    pub fn address_of(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let link = self.next();
        std::os::unix::fs::symlink(path, &link)?;
        Ok(sockaddr(&Name::from(link)))
    }

    fn next(&mut self) -> PathBuf {
        self.count += 1;
        self.dir.join(self.count.to_string())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn open_directory(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))
}

/// The directory from which the name of a socket leads to its file.
pub fn directory<'a>(bound: &Bound, file: &'a SocketFile) -> &'a Path {
    let path = file.path.as_path().as_os_str().as_bytes();
    let dir = path.get(..path.len().saturating_sub(bound.tail().len())).filter(|dir| !dir.is_empty());
    Path::new(std::ffi::OsStr::from_bytes(dir.unwrap_or(b"/")))
}

/// Removes what is left of a socket where another is to be.
pub fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Names that can't be had.
pub fn conflicts(checkpoint: &Checkpoint, conflicts: &mut Vec<Refusal>) {
    for (index, socket, unix) in sockets::unix(checkpoint) {
        let Some(bound) = &unix.bound else { continue };
        let found = match &bound.file {
            Some(file) => in_the_way(&file.path, file)
                .or_else(|| file.renamed.as_ref().and_then(|renamed| in_the_way(renamed, file))),
            None if bound.is_abstract() && super::unix::has_its_name(socket, unix) => taken(socket.kind, &bound.name),
            None => continue,
        };
        let Some((reason, hint)) = found else { continue };
        let (pid, fd) = sockets::holder(checkpoint, index);
        let object = format!("{fd} ({})", display(&bound.name));
        conflicts.push(Refusal { pid, object, reason, hint: hint.to_owned() });
    }
}

/// What stands in the way of a socket's file under one of its names, and the way out.
fn in_the_way(path: &Name, file: &SocketFile) -> Option<(String, &'static str)> {
    let path = path.as_path();
    let dir = path.parent().unwrap_or(path);
    if !dir.is_dir() {
        return Some(("the directory of the socket is gone".to_owned(), "make it again"));
    }
    if let Err(error) = access(dir, AccessFlags::W_OK | AccessFlags::X_OK) {
        return Some((format!("no socket can be made in its directory: {error}"), "permit it"));
    }
    let meta = fs::symlink_metadata(path).ok()?;
    if !meta.file_type().is_socket() {
        return Some(("something else is where its socket was".to_owned(), "move that away"));
    }
    match lives(path) {
        Ok(false) => None,
        _ if (meta.dev(), meta.ino()) == (file.device, file.inode) => {
            Some(("the socket is still in use".to_owned(), "end the program that was saved"))
        }
        _ => Some(("another program has a socket there".to_owned(), "end that program")),
    }
}

fn taken(kind: i32, name: &Name) -> Option<(String, &'static str)> {
    use std::os::fd::AsFd;
    let fd = socket::socket(libc::AF_UNIX, kind, 0).ok()?;
    let error = socket::bind(fd.as_fd(), &sockaddr(name)).err()?;
    Some(match error.kind() {
        io::ErrorKind::AddrInUse => {
            ("another program has this abstract name".to_owned(), "end that program, or the one that was saved")
        }
        _ => (format!("its abstract name can't be had: {error}"), "resume in a network of its own: --net private"),
    })
}

/// Whether a path is too long for an address.
pub fn too_long(path: &Path) -> bool {
    path.as_os_str().len() >= LONGEST
}
