//! Model and pages ↔ one tar file.
//!
//! `docs/image-format.md` is the normative description. [`Writer`] lays the whole file out from the sizes it is given,
//! then fills it from several threads; [`Image`] opens one, checks all of its metadata, and says where every page is;
//! [`Image::verify`] checks the bytes of memory and files as well.

mod blobs;
mod buffer;
mod check;
mod crew;
mod digest;
mod end;
mod error;
mod fanotify;
mod header;
mod inotify;
mod layout;
mod names;
mod pages;
mod partial;
mod reader;
mod rewrite;
#[cfg(test)]
mod sample;
mod schema;
mod sockets;
mod stream;
mod verify;
mod walk;
mod writer;

pub use blobs::{Blob, BlobSource, MemoryPiece};
pub use digest::Digest;
pub use error::{Error, Result};
pub use names::{process_part, shared_part};
pub use pages::{PageSource, Part, Run};
pub use reader::{Image, Member, PartLocation};
pub use rewrite::rewrite;
#[cfg(test)]
pub(crate) use sample::checkpoint as sample;
pub use verify::Verifier;
pub use writer::{Sink, Writer};

/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// Bytes of a page member that share one digest. Small enough that a chunk stays in a core's own cache from the moment
/// it is read until it is written, large enough that a thread seldom has to fetch the next one.
const CHUNK: usize = 512 * 1024;

/// First address a 47-bit x86-64 program cannot use.
const ADDRESS_END: u64 = 1 << 47;

/// Members an image may have.
const MAX_MEMBERS: usize = 1_000_000;

/// Bytes of metadata (JSON, run indexes, chunk digests) an image may have in all.
const MAX_METADATA: u64 = 1 << 30;
