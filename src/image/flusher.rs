//! Writing to the device while the rest is still being written to the page cache, so that the sync at the end is short.

use std::fs::File;
use std::io;
use std::sync::mpsc::{Sender, channel};

use crate::sys::writeback;

/// Begins write-back in a thread of its own: on a slow device that blocks, which those who hold a program still must
/// not. Ends by itself some time after it was dropped.
#[derive(Debug)]
pub(super) struct Flusher {
    ranges: Sender<(u64, u64)>,
}

impl Flusher {
    /// Bytes to hand over at a time: enough for the file system to allocate in large pieces.
    pub(super) const SPAN: u64 = 16 << 20;

    /// One for `file`.
    ///
    /// # Errors
    /// No descriptor or no thread to be had; one can do without.
    pub(super) fn new(file: &File) -> io::Result<Flusher> {
        let file = file.try_clone()?;
        let (ranges, queue) = channel();
        std::thread::Builder::new().name("flush".to_owned()).spawn(move || {
            for (offset, len) in queue {
                // A file system that can't, or an error of the device: the sync at the end tells.
                if writeback::start(&file, offset, len).is_err() {
                    break;
                }
            }
        })?;
        Ok(Flusher { ranges })
    }

    /// `len` bytes from `offset` on are written for good.
    pub(super) fn written(&self, offset: u64, len: u64) {
        // Nobody listens any more where write-back does not work.
        let _ = self.ranges.send((offset, len));
    }
}
