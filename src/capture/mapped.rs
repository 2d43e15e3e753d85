//! Files that memory is mapped from or that are executed: found again by name, each once for the whole tree.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::model::files::{Content, Saved};
use crate::model::memory::{FileStamp, MappedFile};
use crate::model::{Hex, Name};
use crate::proc::elf;

use super::view::{Place, View};

/// The files so far.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    entries: Vec<Entry>,
    /// By name as the kernel shows it, device and inode: most mappings of a tree are of a few libraries.
    seen: HashMap<(Vec<u8>, u64, u64), u32>,
    /// Files that others may clear away are taken for what they are now.
    trusting: bool,
}

#[derive(Debug)]
struct Entry {
    file: MappedFile,
    key: (u64, u64),
    present: bool,
    regular: bool,
    device: Option<(u64, u64)>,
    examined: bool,
    huge: Option<u64>,
}

impl Mapped {
    /// None yet. `contents`: that of a file which may be gone when it is needed is to be saved.
    pub fn new(contents: bool) -> Mapped {
        Mapped { trusting: !contents, ..Mapped::default() }
    }

    /// The index of a file, which is added if it is new. `executed`: its build id is wanted.
    pub fn add(&mut self, view: &View, name: &[u8], dev: u64, ino: u64, executed: bool) -> u32 {
        let seen_as = (name.to_vec(), dev, ino);
        let index = match self.seen.get(&seen_as) {
            Some(&index) => index,
            None => {
                let index = self.insert(view.find_mapped(name, dev, ino), (dev, ino));
                self.seen.insert(seen_as, index);
                index
            }
        };
        if let Some(entry) = self.entries.get_mut(index as usize) {
            if executed && entry.present && !entry.examined {
                entry.examined = true;
                entry.file.stamp.build_id = view.open(&entry.file.path.0).ok().and_then(|f| elf::build_id(&f)).map(Hex);
            }
        }
        index
    }

    fn insert(&mut self, place: Place, key: (u64, u64)) -> u32 {
        let place = match place {
            Place::Present { path, .. } if !self.trusting && fleeting(&path) => Place::Gone { path },
            place => place,
        };
        let entry = match place {
            Place::Present { path, meta } => {
                // The same file by way of `maps` and of /proc/PID/exe, whose device numbers may differ.
                if let Some(twin) = self.entries.iter().position(|e| e.present && e.file.path.0 == path) {
                    return twin as u32;
                }
                let kind = meta.file_type();
                Entry {
                    file: MappedFile {
                        path: Name(path),
                        stamp: stamp(&meta),
                        content: None,
                        saved: None,
                        embedded: None,
                    },
                    key: (meta.dev(), meta.ino()),
                    present: true,
                    regular: kind.is_file(),
                    device: (kind.is_char_device() || kind.is_block_device())
                        .then(|| (libc::major(meta.rdev()).into(), libc::minor(meta.rdev()).into())),
                    examined: false,
                    huge: None,
                }
            }
            Place::Gone { path } => Entry {
                file: MappedFile {
                    path: Name(path),
                    stamp: FileStamp { size: 0, mtime: 0, build_id: None },
                    content: None,
                    saved: None,
                    embedded: None,
                },
                key,
                present: false,
                regular: true,
                device: None,
                examined: false,
                huge: None,
            },
        };
        self.entries.push(entry);
        (self.entries.len() - 1) as u32
    }

    /// Its path; of a deleted file the last one.
    pub fn path(&self, index: u32) -> Name {
        self.entries.get(index as usize).map(|e| e.file.path.clone()).unwrap_or_default()
    }

    /// Major and minor number, if it is a device.
    pub fn device(&self, index: u32) -> Option<(u64, u64)> {
        self.entries.get(index as usize)?.device
    }

    /// Notes that its pages are huge ones of so many bytes.
    pub fn set_huge(&mut self, index: u32, huge: Option<u64>) {
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.huge = huge;
        }
    }

    /// Bytes of its pages, if they are huge ones.
    pub fn huge(&self, index: u32) -> Option<u64> {
        self.entries.get(index as usize)?.huge
    }

    /// Whether the file (device, inode) is mapped or executed by anybody.
    pub fn has(&self, key: (u64, u64)) -> bool {
        self.entries.iter().any(|e| e.key == key)
    }

    /// Files that are gone and have no content yet: index, device and inode.
    pub fn without_content(&self) -> Vec<(u32, (u64, u64))> {
        let lacking = |(_, e): &(usize, &Entry)| !e.present && e.file.content.is_none();
        self.entries.iter().enumerate().filter(lacking).map(|(i, e)| (i as u32, e.key)).collect()
    }

    /// Path, device and inode of a regular file that is there.
    pub fn present(&self, index: u32) -> Option<(Name, (u64, u64))> {
        let entry = self.entries.get(index as usize).filter(|e| e.present && e.regular)?;
        Some((entry.file.path.clone(), entry.key))
    }

    /// Notes the content of a file that is there.
    pub fn keep(&mut self, index: u32, saved: Option<Saved>, embedded: Option<Content>) {
        if let Some(entry) = self.entries.get_mut(index as usize) {
            (entry.file.saved, entry.file.embedded) = (saved, embedded);
        }
    }

    /// Takes note of where a file is that its mappings show as gone.
    pub fn found(&mut self, key: (u64, u64), path: &[u8], meta: &Metadata) {
        for entry in self.entries.iter_mut().filter(|e| !e.present && e.key == key && !fleeting(&e.file.path.0)) {
            entry.file.path = Name(path.to_vec());
            entry.file.stamp = stamp(meta);
            (entry.present, entry.regular) = (true, meta.is_file());
        }
    }

    /// Sets the content of a deleted file.
    pub fn set_content(&mut self, index: u32, content: Content) {
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.file.stamp.size = content.size;
            entry.file.content = Some(content);
        }
    }

    /// For the model.
    pub fn into_files(self) -> Vec<MappedFile> {
        self.entries.into_iter().map(|e| e.file).collect()
    }
}

/// Whether others clear this file away once its maker is dead, so that only the image can bring it back: the performance
/// data of a Java machine, `/tmp/hsperfdata_USER/PID`, which the next one to start removes.
fn fleeting(path: &[u8]) -> bool {
    let mut parts = path.rsplit(|&b| b == b'/');
    let number = parts.next().is_some_and(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit));
    number && parts.next().is_some_and(|dir| dir.starts_with(b"hsperfdata_"))
}

/// What a file is like; without its build id.
pub(super) fn stamp(meta: &Metadata) -> FileStamp {
    let mtime = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
    FileStamp { size: meta.size(), mtime, build_id: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_listed_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let meta = file.as_file().metadata().unwrap();
        let name = file.path().as_os_str().as_encoded_bytes();
        let mut mapped = Mapped::default();
        let first = mapped.add(&View::ours(), name, meta.dev(), meta.ino(), false);
        assert_eq!(mapped.add(&View::ours(), name, meta.dev() + 1, meta.ino(), true), first);
        let gone = mapped.add(&View::ours(), b"/nowhere/x (deleted)", 1, 2, false);
        assert_eq!(mapped.without_content(), [(gone, (1, 2))]);
        mapped.set_content(gone, Content { id: 7, size: 99 });
        assert_eq!(mapped.without_content(), []);
        let files = mapped.into_files();
        assert_eq!((files.len(), files[1].path.0.as_slice(), files[1].stamp.size), (2, &b"/nowhere/x"[..], 99));
    }

    #[test]
    fn a_fleeting_file_is_taken_for_gone() {
        assert!(fleeting(b"/tmp/hsperfdata_somebody/4711"));
        for name in [&b"/tmp/hsperfdata_somebody/x"[..], b"/tmp/hsperfdata_somebody/", b"/tmp/other/4711", b"4711", b""]
        {
            assert!(!fleeting(name), "{}", name.escape_ascii());
        }
    }
}
