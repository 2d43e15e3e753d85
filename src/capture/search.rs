//! Finding names of files of which only device and inode are known. Without privilege there is no way but to look: first
//! at the names that the tree itself has to do with, then, nearest first, at what lies below them and elsewhere.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::unix::fs::MetadataExt;

use crate::proc;

use super::Error;
use super::fd::Work;
use super::inotify::device;

/// Directory entries looked at, at most: some tenths of a second while the tree stands still.
const MOST: usize = 100_000;

/// Device and inode.
type Key = (u64, u64);

/// Names for as many of `wanted` as are found.
pub(super) fn names(work: &Work<'_>, wanted: HashSet<Key>) -> Result<HashMap<Key, Vec<u8>>, Error> {
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let mut search = Search { work, devices: wanted.iter().map(|k| k.0).collect(), wanted, found: HashMap::new() };
    let mut known = Vec::new();
    for p in work.held.processes.iter().filter(|p| !p.threads.is_empty()) {
        for name in ["cwd", "exe", "root"] {
            known.extend(proc::link(&format!("{}/{name}", p.host)));
        }
    }
    known.extend(work.seen.iter().map(|s| s.link.clone()));
    for p in work.held.processes.iter().filter(|p| !p.threads.is_empty()) {
        let environment = proc::read(&format!("{}/environ", p.host)).unwrap_or_default();
        known.extend(environment.split(|b| *b == 0).filter_map(|e| e.strip_prefix(b"HOME=")).map(<[u8]>::to_vec));
    }
    known.extend([b"/tmp".to_vec(), b"/".to_vec()]);
    // What is mounted below other file systems is not come by on the way through those.
    if let Some(p) = work.held.processes.iter().find(|p| !p.threads.is_empty()) {
        let mounts = proc::mounts(p.live()).map_err(Error::proc(p.host))?;
        known.extend(mounts.into_iter().filter(|m| search.devices.contains(&device(m.sdev))).map(|m| m.point));
    }
    known.retain(|name| name.starts_with(b"/"));
    let mut directories = VecDeque::new();
    for name in &known {
        for name in upwards(name) {
            if search.look(name) {
                directories.push_back(name.to_vec());
            }
        }
    }
    search.walk(directories);
    Ok(search.found)
}

/// An absolute path and those of the directories above it.
fn upwards(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path), |path| {
        let slash = path.iter().rposition(|b| *b == b'/')?;
        match slash {
            0 if path.len() > 1 => path.get(..1),
            0 => None,
            _ => path.get(..slash),
        }
    })
}

struct Search<'a> {
    work: &'a Work<'a>,
    wanted: HashSet<Key>,
    devices: HashSet<u64>,
    found: HashMap<Key, Vec<u8>>,
}

impl Search<'_> {
    /// Takes note of a name if it is wanted; whether it is a directory where some may be.
    fn look(&mut self, path: &[u8]) -> bool {
        let Some(meta) = self.work.view.lstat(path) else { return false };
        let key = (meta.dev(), meta.ino());
        if self.wanted.contains(&key) {
            self.found.entry(key).or_insert_with(|| path.to_vec());
        }
        meta.is_dir() && self.devices.contains(&meta.dev())
    }

    /// Looks through directories, level by level.
    fn walk(&mut self, mut directories: VecDeque<Vec<u8>>) {
        let inodes: HashSet<u64> = self.wanted.iter().map(|k| k.1).collect();
        let mut left = MOST;
        let mut visited = HashSet::new();
        while let Some(directory) = directories.pop_front() {
            if self.found.len() == self.wanted.len() {
                return;
            }
            if !visited.insert(directory.clone()) {
                continue;
            }
            for (name, inode, is_directory) in self.work.view.entries(&directory) {
                if left == 0 {
                    return;
                }
                left -= 1;
                // What is mounted on a directory has another inode than its entry says.
                if !is_directory && !inodes.contains(&inode) {
                    continue;
                }
                let mut path = directory.clone();
                if path != b"/" {
                    path.push(b'/');
                }
                path.extend(&name);
                if self.look(&path) {
                    directories.push_back(path);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_above() {
        let all =
            |path: &'static str| upwards(path.as_bytes()).map(|p| std::str::from_utf8(p).unwrap()).collect::<Vec<_>>();
        assert_eq!(all("/a/b/c"), ["/a/b/c", "/a/b", "/a", "/"]);
        assert_eq!(all("/"), ["/"]);
    }
}
