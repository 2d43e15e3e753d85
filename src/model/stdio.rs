//! Standard streams that lead outside the tree.

use serde::{Deserialize, Serialize};

use super::Hex;
use super::pty::Session;

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
    /// `struct termios2` of a terminal in whose foreground the program was. In the background those settings are somebody
    /// else's.
    #[serde(default)]
    pub settings: Option<Hex>,
    /// The session whose controlling terminal it was, if processes of the tree are in that.
    #[serde(default)]
    pub session: Option<Session>,
}
