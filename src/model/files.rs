//! Regular files, directories and the harmless devices.

use serde::{Deserialize, Serialize};

use super::Name;
use super::memory::FileStamp;

/// An open regular file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Regular {
    /// Its path; of a deleted file the last one it had.
    pub path: Name,
    /// Read/write position in bytes.
    pub offset: u64,
    /// What it was like.
    pub stamp: FileStamp,
    /// Permission bits.
    pub mode: u32,
    /// Set for a deleted file: its content.
    pub content: Option<Content>,
    /// Set for a file that still had its name if its content was asked for.
    #[serde(default)]
    pub saved: Option<Saved>,
    /// Made by O_TMPFILE, through this very description: it may be given a name by linkat(2).
    #[serde(default)]
    pub temporary: bool,
}

/// The content of a file that still had its name, to be put back there if that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// What was in it.
    pub content: Content,
    /// Permission bits.
    pub mode: u32,
}

/// The content of a file, kept in the image as member `files/ID.data`. Two descriptions of the same (deleted) file
/// carry the same id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Number of the member.
    pub id: u32,
    /// Bytes of the file; the member is as long, unless holes are left out ([`super::sparse::Sparse`]).
    pub size: u64,
}

/// An open directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Its path.
    pub path: Name,
    /// Position as `lseek` has it.
    pub offset: u64,
    /// Set for a deleted one: index into [`super::memory::SharedObjects::nameless`].
    #[serde(default)]
    pub deleted: Option<u32>,
}

/// A character device without state of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its path.
    pub path: Name,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}
