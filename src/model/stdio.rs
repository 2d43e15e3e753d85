//! Standard streams that lead outside the tree.

use serde::{Deserialize, Serialize};

/// A terminal, pipe or socket whose other side is not in the tree, held as standard input, output or error.
/// At resume the resuming command's own stream takes its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// 0, 1 or 2: which of our streams stands in for it.
    pub role: i32,
    /// What it was, for people: `/dev/pts/3`, `pipe`, `socket`.
    pub was: String,
    /// Whether it was a terminal.
    pub terminal: bool,
}
