//! Linux AIO: io_setup(2).

use serde::{Deserialize, Serialize};

use super::{Addr, Hex};

/// A context with nothing under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Where its ring is mapped, which is what the program knows it by.
    pub ring: Addr,
    /// Events that its ring has places for, as many as fit into the mapping.
    pub places: u32,
    /// Place of the first event that waits.
    pub head: u32,
    /// Place of the next event.
    pub tail: u32,
    /// Those that wait, in their order.
    pub events: Hex,
}

/// Bytes of the ring's head and of each of its events (`struct aio_ring` in fs/aio.c, `struct io_event`).
pub const UNIT: usize = 32;

/// Events for which a ring of so many bytes has places; its head takes one.
pub fn places(bytes: u64) -> u64 {
    (bytes / UNIT as u64).saturating_sub(1)
}

impl Context {
    /// How many events wait.
    pub fn waiting(&self) -> u32 {
        let wrapped = if self.tail < self.head { self.places } else { 0 };
        self.tail.wrapping_add(wrapped).wrapping_sub(self.head)
    }
}
