//! Memory files: what makes a file without a name one of memfd_create(2).

use serde::{Deserialize, Serialize};

/// A memory file. Its name, size and permissions are where other files without a name have them: in the descriptions and
/// mappings that refer to its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memfd {
    /// Number of its content, see [`super::files::Content::id`].
    pub content: u32,
    /// Its seals (fcntl(2), F_GET_SEALS).
    pub seals: u32,
    /// Bytes of its pages, if they are huge ones: of MFD_HUGETLB, or a deleted file of hugetlbfs.
    #[serde(default)]
    pub huge: Option<u64>,
}
