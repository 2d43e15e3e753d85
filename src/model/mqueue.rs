//! POSIX message queues.

use serde::{Deserialize, Serialize};

use super::mqnotify::Notification;
use super::{Hex, Name};

/// A queue that a process has open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Its name, without the slash; of one that is removed the last it had.
    pub name: Name,
    /// mq_unlink(3) has been called: it goes with its last descriptor.
    pub removed: bool,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// How many messages it may hold.
    pub max_messages: u32,
    /// Bytes of the longest message it takes.
    pub message_size: u32,
    /// What is in it, in the order of receiving.
    pub messages: Vec<Message>,
    /// Who is told of the next message: then there is none in it.
    #[serde(default)]
    pub notify: Option<Notification>,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// 0..=32767; the highest is received first.
    pub priority: u32,
    /// May be empty.
    pub text: Hex,
}

/// An open description of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mqueue {
    /// Index into [`super::memory::SharedObjects::mqueues`].
    pub queue: u32,
}
