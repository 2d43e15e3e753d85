//! Pipes and FIFOs.

use serde::{Deserialize, Serialize};

use super::Name;
use super::files::Content;

/// One end of a pipe or FIFO: the read or the write end by the description's access mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeEnd {
    /// Ends with the same number are ends of the same pipe.
    pub pipe: u32,
    /// Path of a FIFO.
    pub fifo: Option<Name>,
    /// Bytes it can hold (F_GETPIPE_SZ).
    pub capacity: u64,
    /// What is in it; the same for every end of a pipe.
    pub content: Option<Content>,
}
