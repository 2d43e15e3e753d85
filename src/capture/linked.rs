//! Open files that have lost the name they were opened by, but have another: a hard link, or the one that a file made by
//! O_TMPFILE was given later. The kernel shows the old name only; the file is to stay the same.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;

use super::Error;
use super::fd::Work;
use super::files::hidden;
use super::search;
use super::view::Place;

/// Why a file is refused whose name was not found.
pub(super) const NOT_FOUND: &str = "it is deleted under the name it was opened by, and has another that was not found";
/// What to do about it.
pub(super) const HINT: &str = "have it closed, or save it with its working directory near the other name";

/// Their names, by device and inode. What is mapped of them is told, too.
pub(super) fn find(work: &mut Work<'_>) -> Result<HashMap<(u64, u64), Vec<u8>>, Error> {
    let mut wanted = HashSet::new();
    for s in work.seen {
        let is_file = matches!(s.meta.mode() & libc::S_IFMT, libc::S_IFREG | libc::S_IFIFO);
        let linked = is_file && s.is_named() && s.meta.nlink() > 0;
        if linked && matches!(s.place(work.view), Place::Gone { .. }) && !hidden(s) {
            wanted.insert(s.key());
        }
    }
    let found = search::names(work, wanted)?;
    for (key, path) in &found {
        if let Some(meta) = work.view.stat(path) {
            work.mapped.found(*key, path, &meta);
        }
    }
    Ok(found)
}
