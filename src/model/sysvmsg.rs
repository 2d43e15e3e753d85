//! System V message queues.

use serde::{Deserialize, Serialize};

use super::Hex;
use super::ipc::Perm;

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Id, key, mode and owner.
    pub perm: Perm,
    /// How many bytes it may hold (msg_qbytes).
    pub limit: u64,
    /// Its messages, the oldest first.
    pub messages: Vec<Message>,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// At least 1.
    pub kind: i64,
    /// Its text; may be empty.
    pub text: Hex,
}
