//! Contents of files that still have their names: which of them go into the image (`--save-files`, `--embed-files`).

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use crate::model::Pid;
use crate::model::files::Saved;
use crate::model::memory::{Backing, Vma};
use crate::model::process::Exe;

use super::Error;
use super::contents::Contents;
use super::glob;
use super::mapped::Mapped;
use super::refusals::Refusals;
use super::view::View;

/// Why a deleted file is refused where contents are not to be saved.
pub(super) const DELETED: &str = "it is deleted, and --save-files none keeps its content out of the image";
/// The way out.
pub(super) const DELETED_HINT: &str = "leave --save-files none out, or have the file closed";
/// Why a file is refused that can't be read.
pub(super) const UNREADABLE: &str = "it can't be read, and its content was asked for";

/// File systems whose files have no content of their own: linux/magic.h (proc, sysfs, cgroup, cgroup2, securityfs,
/// efivarfs, configfs).
const MADE_UP: [i64; 7] = [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270, 0x7363_6673, 0xde5e_81e4, 0x6265_6570];

/// Contents of which files go into an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Keep {
    /// What is open, deleted or mapped shared.
    #[serde(default)]
    pub files: SaveFiles,
    /// Files that are executed or mapped and not written to.
    #[serde(default)]
    pub embed: bool,
}

/// Contents of which of the files that a program works on go into an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaveFiles {
    /// None: a deleted file is refused.
    None,
    /// Those of deleted files, which nothing else could bring back.
    #[default]
    Unlinked,
    /// Also those of all regular files that are open or mapped shared.
    Open,
    /// Also those of files that are open or mapped shared with a path that one of these patterns fits.
    Matching(Vec<String>),
}

impl SaveFiles {
    /// From the words `none`, `unlinked`, `open` and patterns, in any mixture that makes sense.
    ///
    /// # Errors
    /// What does not.
    pub fn from_words(words: &[String]) -> Result<SaveFiles, String> {
        let mut out = SaveFiles::Unlinked;
        for word in words {
            out = match (word.as_str(), out) {
                ("", _) => return Err("an empty pattern".to_owned()),
                ("none", _) if words.len() > 1 => return Err("none goes with nothing else".to_owned()),
                ("none", _) => SaveFiles::None,
                ("unlinked", before) => before,
                ("open", _) | (_, SaveFiles::Open) => SaveFiles::Open,
                (_, SaveFiles::Matching(mut patterns)) => {
                    patterns.push(word.clone());
                    SaveFiles::Matching(patterns)
                }
                _ => SaveFiles::Matching(vec![word.clone()]),
            };
        }
        Ok(out)
    }

    /// Whether the content of a file with a name is wanted. `file_system`: its kind (linux/magic.h).
    pub(super) fn wants(&self, path: &[u8], file_system: i64) -> bool {
        let named = match self {
            SaveFiles::None | SaveFiles::Unlinked => false,
            SaveFiles::Open => true,
            SaveFiles::Matching(patterns) => patterns.iter().any(|p| glob::fits(p.as_bytes(), path)),
        };
        named && !MADE_UP.contains(&file_system)
    }
}

/// Takes the contents of mapped files that are wanted.
pub(super) fn mapped<'a>(
    keep: &Keep,
    view: &View,
    processes: impl Iterator<Item = (Pid, &'a Exe, &'a [Vma])>,
    mapped: &mut Mapped,
    contents: &mut Contents,
    refusals: &mut Refusals,
) -> Result<(), Error> {
    let (mut shared, mut written, mut used) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
    for (pid, exe, vmas) in processes {
        used.entry(exe.file).or_insert(pid);
        for vma in vmas {
            let Backing::File { file, shared: is_shared, may_write, .. } = vma.backing else { continue };
            used.entry(file).or_insert(pid);
            if is_shared {
                shared.insert(file);
            }
            if is_shared && may_write {
                written.insert(file);
            }
        }
    }
    for (index, pid) in used {
        let Some((path, key)) = mapped.present(index) else { continue };
        let place = nix::sys::statfs::statfs(&view.path(&path.0));
        let saves =
            shared.contains(&index) && place.is_ok_and(|s| keep.files.wants(&path.0, s.filesystem_type().0 as i64));
        let embeds = keep.embed && !written.contains(&index);
        if !saves && !embeds {
            continue;
        }
        let opened = view.open(&path.0).and_then(|file| Ok((file.metadata()?, file)));
        let (meta, file) = match opened {
            Ok((meta, file)) if (meta.dev(), meta.ino()) == key => (meta, file),
            Ok(_) => return Err(Error::io("opening", "a mapped file")(std::io::ErrorKind::NotFound.into())),
            Err(error) => {
                let hint = "save as a user who may read it, or without --save-files and --embed-files";
                refusals.add(pid, format!("mapped file {}", path.display()), format!("{UNREADABLE}: {error}"), hint);
                continue;
            }
        };
        let content = contents.file(key, meta.size(), || Ok(file)).map_err(Error::io("opening", "a mapped file"))?;
        let saved = saves.then(|| Saved { content, mode: meta.mode() & 0o7777 });
        mapped.keep(index, saved, embeds.then_some(content));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let of = |words: &[&str]| SaveFiles::from_words(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[]), Ok(SaveFiles::Unlinked));
        assert_eq!(of(&["none"]), Ok(SaveFiles::None));
        assert_eq!(of(&["unlinked"]), Ok(SaveFiles::Unlinked));
        for words in [&["open"][..], &["open", "*.db"], &["*.db", "open"], &["unlinked", "open"]] {
            assert_eq!(of(words), Ok(SaveFiles::Open), "{words:?}");
        }
        assert_eq!(of(&["*.a", "unlinked", "/b/**"]), Ok(SaveFiles::Matching(vec!["*.a".into(), "/b/**".into()])));
        for words in [&["none", "open"][..], &["*.db", "none"], &[""]] {
            assert!(of(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn made_up_files_have_no_content() {
        let matching = SaveFiles::Matching(vec!["/sys/**".into(), "*.db".into()]);
        const EXT4: i64 = 0xef53;
        assert!(SaveFiles::Open.wants(b"/x", EXT4) && matching.wants(b"/a/b.db", EXT4));
        assert!(!SaveFiles::Open.wants(b"/proc/stat", 0x9fa0) && !matching.wants(b"/sys/x/y", 0x6265_6572));
        assert!(!SaveFiles::Unlinked.wants(b"/x", EXT4) && !matching.wants(b"/a/b.dbx", EXT4));
    }
}
