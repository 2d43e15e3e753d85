//! Pipes and FIFOs.

use serde::{Deserialize, Serialize};

use super::Name;
use super::files::Content;

/// One end of a pipe or FIFO: the read or the write end by the description's access mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeEnd {
    /// Ends with the same number are ends of the same pipe.
    pub pipe: u32,
    /// Set for a FIFO.
    pub fifo: Option<Fifo>,
    /// Bytes it can hold (F_GETPIPE_SZ).
    pub capacity: u64,
    /// What is in it; the same for every end of a pipe.
    pub content: Option<Content>,
    /// How the content is cut into packets (O_DIRECT), in order; empty if there are none. The same for every end.
    pub pieces: Vec<Piece>,
    /// A read end of a FIFO that nobody has written to since it was opened: poll shows no hang-up though there is no
    /// writer.
    pub quiet: bool,
    /// The other side is somebody's who is not in the image.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outside: bool,
}

/// A FIFO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fifo {
    /// Its path; of a deleted one the last it had.
    pub path: Name,
    /// Permission bits of a deleted one.
    pub deleted: Option<u32>,
}

/// A part of a pipe's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Bytes of it, not 0.
    pub len: u32,
    /// Whether it is a packet, which one read takes alone and whole. Else it is bytes of a stream.
    pub packet: bool,
}
