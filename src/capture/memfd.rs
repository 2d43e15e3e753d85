//! Memory files (memfd_create): files that never had a name.

use std::fs::File;
use std::os::fd::AsFd;

use crate::model::files::Content;
use crate::model::memfd::Memfd;
use crate::sys::fds;

use nix::sys::statfs::fstatfs;

use super::contents::Contents;

/// Of a file made without MFD_ALLOW_SEALING.
const F_SEAL_SEAL: u32 = 1;

/// Whether the kernel's name for a file says that it is one.
pub(super) fn is(name: &[u8]) -> bool {
    name.starts_with(b"/memfd:")
}

/// Bytes of the pages of a file of hugetlbfs; none: it is of another file system.
pub(super) fn huge(file: &File) -> Option<u64> {
    const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;
    let found = fstatfs(file).ok()?;
    (found.filesystem_type().0 as i64 == HUGETLBFS_MAGIC).then(|| found.block_size() as u64)
}

/// Notes that a content is that of a memory file, with pages of `huge` bytes. Without a descriptor (`file`) nobody can
/// change or ask for its seals any more.
pub(super) fn capture(contents: &mut Contents, content: Content, file: Option<&File>, huge: Option<u64>) {
    let seals = file.and_then(|f| fds::fcntl(f.as_fd(), libc::F_GET_SEALS, 0).ok()).map_or(F_SEAL_SEAL, |s| s as u32);
    if !contents.memfds.iter().any(|m| m.content == content.id) {
        contents.memfds.push(Memfd { content: content.id, seals, huge });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_name() {
        assert!(is(b"/memfd:x (deleted)") && is(b"/memfd:"));
        assert!(!is(b"/tmp/memfd:x") && !is(b"/memfdx"));
    }
}
