//! System V shared memory.

use serde::{Deserialize, Serialize};

use super::ipc::Perm;

/// A segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Id, key and owner. The key is the one it was made with, also where it has lost that by IPC_RMID.
    pub perm: Perm,
    /// Bytes.
    pub size: u64,
    /// Its content: index into [`super::memory::SharedObjects::anon`], an object as large in pages.
    pub object: u32,
    /// IPC_RMID has been called: it goes with its last attachment.
    pub removed: bool,
    /// SHM_LOCK: it stays out of swap.
    pub locked: bool,
}
