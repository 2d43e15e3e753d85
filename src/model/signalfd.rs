//! signalfd(2).

use serde::{Deserialize, Serialize};

/// Signals that are read. The queue is the reader's pending signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signalfd {
    /// Signals accepted, bit n-1 for signal n.
    pub mask: u64,
}
