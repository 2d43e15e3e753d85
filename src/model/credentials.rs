//! Users, groups and capabilities of one thread: the kernel keeps them for each.

use serde::{Deserialize, Serialize};

/// Users, groups and capabilities. See credentials(7) and capabilities(7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Real, effective, saved, file system.
    pub uid: [u32; 4],
    /// Real, effective, saved, file system.
    pub gid: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding, ambient, as bit sets.
    pub caps: [u64; 5],
    /// `PR_GET_SECUREBITS`: `SECBIT_*`, their locks among them.
    pub securebits: u32,
    /// `PR_GET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
}
