//! Deleted directories and symbolic links that something still leads to: files without a name have their content elsewhere.

use serde::{Deserialize, Serialize};

use super::Name;

/// A deleted directory (which is empty) or symbolic link. Whatever led to it refers to its index in
/// [`super::memory::SharedObjects::nameless`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nameless {
    /// The last path it had.
    pub path: Name,
    /// Permission bits.
    pub mode: u32,
    /// Where it points to, if it is a symbolic link.
    pub target: Option<Name>,
}

/// Which of the directories of a process are deleted ones; indices as above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Directories {
    /// Its working directory.
    pub cwd: Option<u32>,
    /// Its root directory.
    pub root: Option<u32>,
}
