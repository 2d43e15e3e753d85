//! Deleted directories and symbolic links, each once for the whole tree.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use crate::model::Name;
use crate::model::nameless::Nameless;

/// Those found so far.
#[derive(Debug, Default)]
pub(super) struct NamelessObjects {
    list: Vec<Nameless>,
    /// By device and inode.
    known: HashMap<(u64, u64), u32>,
}

impl NamelessObjects {
    /// The index of the deleted object with this `meta`, which the kernel shows as `name`; `target`: of a symbolic link.
    pub fn add(&mut self, meta: &Metadata, name: &[u8], target: Option<Name>) -> u32 {
        let next = self.list.len() as u32;
        let index = *self.known.entry((meta.dev(), meta.ino())).or_insert(next);
        if index == next {
            let path = Name(name.strip_suffix(DELETED).unwrap_or(name).to_vec());
            self.list.push(Nameless { path, mode: meta.mode() & 0o7777, target });
        }
        index
    }

    /// For the model.
    pub fn into_list(self) -> Vec<Nameless> {
        self.list
    }
}

const DELETED: &[u8] = b" (deleted)";

/// Whether an object is deleted that the kernel shows as `name`, and can be made again: the kernel's own file systems are
/// no places to make anything.
pub(super) fn is_deleted(meta: &Metadata, name: &[u8], file_system: i64) -> bool {
    /// proc, sysfs, cgroup, cgroup2 (linux/magic.h).
    const KERNELS: [i64; 4] = [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270];
    meta.nlink() == 0 && name.starts_with(b"/") && name.ends_with(DELETED) && !KERNELS.contains(&file_system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_once() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let meta = |dir: &tempfile::TempDir| std::fs::metadata(dir.path()).unwrap();
        let mut all = NamelessObjects::default();
        assert_eq!(all.add(&meta(&one), b"/tmp/a (deleted)", None), 0);
        assert_eq!(all.add(&meta(&other), b"/tmp/a (deleted)", None), 1);
        assert_eq!(all.add(&meta(&one), b"/tmp/a (deleted)", None), 0);
        let list = all.into_list();
        assert_eq!((list.len(), list[1].path.0.as_slice()), (2, &b"/tmp/a"[..]));
        assert!(!is_deleted(&meta(&one), b"/tmp/a (deleted)", 0), "it has its name yet");
    }
}
