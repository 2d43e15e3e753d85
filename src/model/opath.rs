//! Descriptors that only stand for a place in the file system: open(2) with O_PATH.

use serde::{Deserialize, Serialize};

use super::Name;
use super::files::Content;

/// A descriptor opened with O_PATH.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The path of what it leads to; of something deleted the last one it had.
    pub path: Name,
    /// What that is.
    pub object: Object,
}

/// What an O_PATH descriptor leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    /// Something that has its name; of this type (`S_IFMT` bits of its mode).
    Named {
        /// The type.
        file_type: u32,
    },
    /// A deleted file.
    Deleted {
        /// What is in it.
        content: Content,
        /// Permission bits.
        mode: u32,
    },
    /// A deleted directory or symbolic link: index into [`super::memory::SharedObjects::nameless`].
    Nameless(u32),
}
