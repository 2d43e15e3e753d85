//! Contents of files and pipes on their way into the image, each once.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use crate::image::{Blob, BlobSource, MemoryPiece};
use crate::model::files::Content;
use crate::model::memfd::Memfd;
use crate::model::sparse::Sparse;
use crate::sys::bytes::Bytes;

use super::nameless::NamelessObjects;
use super::reserve::Reserve;
use super::{early, inotify, mqueue, pty, sparse, unaccepted};

/// The contents collected so far.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub blobs: Vec<Blob>,
    /// Which of them are those of memory files.
    pub memfds: Vec<Memfd>,
    /// Which of them are without holes.
    pub sparse: Vec<Sparse>,
    /// Deleted directories and symbolic links.
    pub nameless: NamelessObjects,
    /// Of each inotify instance, if there are events in it, which are yet to be copied.
    pub unread: Vec<Option<inotify::Unread>>,
    /// POSIX message queues, whose messages are yet to be copied.
    pub mqueues: Vec<mqueue::Seen>,
    /// Pseudo-terminals, whose content is yet to be copied.
    pub ptys: Vec<pty::Seen>,
    /// Queues of TCP connections that are yet to be looked into.
    pub queues: Vec<early::Seen>,
    /// The same of UNIX connections.
    pub unaccepted: Vec<unaccepted::Seen>,
    /// Memory for what waits in sockets.
    pub reserve: Arc<Reserve>,
    files: HashMap<(u64, u64), Content>,
}

impl Contents {
    /// None yet, and memory for those to come.
    pub fn new(reserve: Arc<Reserve>) -> Contents {
        Contents { reserve, ..Contents::default() }
    }

    fn push(&mut self, size: u64, source: BlobSource) -> Content {
        let id = self.blobs.len() as u32;
        self.blobs.push(Blob { id, size, source });
        Content { id, size }
    }

    /// Bytes in hand.
    pub fn bytes(&mut self, bytes: impl Into<Bytes>) -> Content {
        let bytes = bytes.into();
        self.push(bytes.len() as u64, BlobSource::Bytes(bytes))
    }

    /// What can be read in the memory of processes.
    pub fn memory(&mut self, size: u64, pieces: Vec<MemoryPiece>) -> Content {
        self.push(size, BlobSource::Memory(pieces))
    }

    /// The content of the file (device, inode), which `open` opens for reading if nobody has before.
    pub fn file(
        &mut self,
        key: (u64, u64),
        size: u64,
        open: impl FnOnce() -> std::io::Result<File>,
    ) -> std::io::Result<Content> {
        if let Some(content) = self.files.get(&key) {
            return Ok(*content);
        }
        let file = open()?;
        let content = match sparse::pieces(&file, size) {
            None => self.push(size, BlobSource::File(file)),
            Some(pieces) => {
                let stored = pieces.iter().map(|p| p.len).sum();
                let Content { id, .. } = self.push(stored, BlobSource::Pieces(file, pieces.clone()));
                self.sparse.push(Sparse { content: id, pieces });
                Content { id, size }
            }
        };
        self.files.insert(key, content);
        Ok(content)
    }

    /// The content of a file if it is among those collected.
    pub fn known(&self, key: (u64, u64)) -> Option<Content> {
        self.files.get(&key).copied()
    }
}
