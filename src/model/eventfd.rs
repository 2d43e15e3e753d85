//! eventfd(2).

use serde::{Deserialize, Serialize};

/// An event counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eventfd {
    /// Its count.
    pub count: u64,
    /// EFD_SEMAPHORE.
    pub semaphore: bool,
}
