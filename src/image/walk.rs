//! The members of a tar file, found without trusting it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use tar::{EntryType, Header, PaxExtensions};

use super::error::{Error, Result};
use super::header::{BLOCK, is_sound, padded};

/// Bytes of pax records before one member: ours need 5 KiB at most.
const MAX_PAX: u64 = 64 * 1024;

/// An image file under a name for messages.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) file: File,
    pub(super) name: String,
    pub(super) len: u64,
}

impl Source {
    pub(super) fn truncated(&self, what: impl Into<String>) -> Error {
        Error::Truncated { image: self.name.clone(), what: what.into() }
    }

    pub(super) fn altered(&self, member: impl Into<String>) -> Error {
        Error::Altered { image: self.name.clone(), member: member.into() }
    }

    pub(super) fn inconsistent(&self, what: impl Into<String>) -> Error {
        Error::Inconsistent { image: self.name.clone(), what: what.into() }
    }

    pub(super) fn too_large(&self, what: impl Into<String>) -> Error {
        Error::TooLarge { image: self.name.clone(), what: what.into() }
    }

    /// Fills `buf` from `offset`.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => self.truncated("it became shorter while it was read"),
            _ => Error::io("read", &*self.name)(e),
        })
    }
}

/// A member as its headers have it; its bytes lie inside the file.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// Goes from member to member.
pub(super) struct Walk<'a> {
    source: &'a Source,
    at: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Walk<'a> {
    pub(super) fn new(source: &'a Source) -> Walk<'a> {
        Walk { source, at: 0, window: Vec::new(), window_at: 0 }
    }

    /// Position of the next header.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next member; `None` at a block of zeros, which ends an archive.
    pub(super) fn next(&mut self) -> Result<Option<Found>> {
        let mut pax_size = None;
        let mut pax_name = None;
        loop {
            let block = self.block(self.at)?;
            if block.iter().all(|&b| b == 0) {
                return Ok(None);
            }
            let here = || format!("header at byte {}", self.at);
            if !is_sound(&block) {
                return Err(self.source.altered(here()));
            }
            let header = Header::from_byte_slice(&block);
            let stored = header.entry_size().map_err(|_| self.source.altered(here()))?;
            let kind = header.entry_type();
            let meta = matches!(kind, EntryType::XHeader | EntryType::XGlobalHeader);
            let size = if meta { stored } else { pax_size.unwrap_or(stored) };
            let offset = self.at + BLOCK;
            let end = offset.checked_add(size).filter(|&end| end <= self.source.len);
            let next = padded(size).and_then(|padded| offset.checked_add(padded));
            let (Some(_), Some(next)) = (end, next) else {
                return Err(self.source.truncated(format!("the member at byte {} is cut off", self.at)));
            };
            match kind {
                EntryType::XHeader => {
                    if size > MAX_PAX {
                        return Err(self.source.too_large(here()));
                    }
                    let mut records = vec![0; size as usize];
                    self.source.read(&mut records, offset)?;
                    for record in PaxExtensions::new(&records) {
                        let record = record.map_err(|_| self.source.altered(here()))?;
                        let value = || record.value().map_err(|_| self.source.altered(here()));
                        match record.key_bytes() {
                            b"size" => pax_size = Some(value()?.parse().map_err(|_| self.source.altered(here()))?),
                            b"path" => pax_name = Some(value()?.to_owned()),
                            _ => {}
                        }
                    }
                }
                EntryType::XGlobalHeader => {}
                EntryType::Regular | EntryType::Continuous | EntryType::Directory => {
                    let name = match pax_name {
                        Some(name) => name,
                        None => String::from_utf8(header.path_bytes().into_owned())
                            .map_err(|_| self.source.altered(here()))?,
                    };
                    self.at = next;
                    return Ok(Some(Found { name, offset, size }));
                }
                _ => return Err(self.source.altered(here())),
            }
            self.at = next;
        }
    }

    /// The block at `at`, through a window: headers of small members are close together.
    fn block(&mut self, at: u64) -> Result<[u8; BLOCK as usize]> {
        const WINDOW: u64 = 16 * 1024;
        if at.checked_add(BLOCK).is_none_or(|end| end > self.source.len) {
            return Err(self.source.truncated("its end mark is missing"));
        }
        if at < self.window_at || at + BLOCK > self.window_at + self.window.len() as u64 {
            self.window.resize(WINDOW.min(self.source.len - at) as usize, 0);
            self.window_at = at;
            self.source.read(&mut self.window, at)?;
        }
        let block = self.window.get((at - self.window_at) as usize..).and_then(|rest| rest.first_chunk());
        block.copied().ok_or_else(|| self.source.truncated("its end mark is missing"))
    }
}
