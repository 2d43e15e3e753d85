//! Checking every byte of an image.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::buffer::Buffer;
use super::crew::Crew;
use super::digest::{self, Digest, Hasher};
use super::error::Result;
use super::reader::{Image, Member, Metadata, PartLocation};
use super::{CHUNK, names};

enum Check<'a> {
    /// A member with one digest.
    Whole(&'a Member, Digest),
    /// `len` bytes of a page member.
    Chunk { member: &'a Member, offset: u64, len: usize, digest: Digest },
}

impl Image {
    /// Compares all bytes of memory and files with their digests, on so many threads (0: as many as pay).
    ///
    /// # Errors
    /// Of [`super::Error`] `Altered` with the name of a member; `Truncated`, `Io`, `Cancelled`.
    pub fn verify(&self, threads: usize, cancel: &AtomicBool) -> Result<()> {
        let verifier = Verifier::new(self, cancel)?;
        let threads = if threads == 0 { super::crew::threads_for(self.source.len) } else { threads };
        verifier.crew.run(threads, verifier.checks.len(), self.buffer(), |check, buf| verifier.check(check, buf))?;
        Ok(())
    }

    /// Bytes that hold any chunk of pages.
    pub fn buffer(&self) -> usize {
        let chunk = usize::try_from(self.chunk).unwrap_or(CHUNK).max(CHUNK);
        chunk.min(usize::try_from(self.source.len).unwrap_or(CHUNK))
    }

    /// Bytes of a chunk of pages: the last of a part may be shorter.
    pub fn chunk(&self) -> u64 {
        self.chunk
    }

    /// Reads a chunk of a part's pages into `buf`, which is [`Image::buffer`] long.
    ///
    /// # Errors
    /// Of [`super::Error`] `Truncated`, `Io`.
    pub fn read_chunk<'b>(&self, part: &PartLocation, index: u64, buf: &'b mut [u8]) -> Result<&'b [u8]> {
        let from = index.saturating_mul(self.chunk);
        let len = self.chunk.min(part.len.saturating_sub(from)) as usize;
        let piece = buf.get_mut(..len).unwrap_or_default();
        self.source.read(piece, part.data_offset.saturating_add(from))?;
        Ok(piece)
    }
}

/// A check of everything in an image that several may do together, each thing once.
pub struct Verifier<'a> {
    image: &'a Image,
    checks: Vec<Check<'a>>,
    begun: Vec<AtomicBool>,
    next: AtomicUsize,
    /// Where in `checks` the chunks of each part begin.
    first: Vec<usize>,
    crew: Crew<'a>,
}

impl<'a> Verifier<'a> {
    /// One that has done nothing yet, and stops soon after `cancel` was raised.
    ///
    /// # Errors
    /// Of [`super::Error`] `Altered` if the digests themselves have changed; `Io`.
    pub fn new(image: &'a Image, cancel: &'a AtomicBool) -> Result<Verifier<'a>> {
        let (checks, first) = image.checks()?;
        let begun = checks.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Verifier { image, checks, begun, next: AtomicUsize::new(0), first, crew: Crew::new(cancel) })
    }

    /// Checks one thing more, with a buffer of [`Image::buffer`] bytes. False: all have been begun.
    ///
    /// # Errors
    /// As [`Image::verify`].
    pub fn next(&self, buf: &mut [u8]) -> Result<bool> {
        self.crew.go_on()?;
        let check = self.next.fetch_add(1, Ordering::Relaxed);
        if check < self.checks.len() {
            self.check(check, buf)?;
        }
        Ok(check < self.checks.len())
    }

    /// Checks what nobody has begun.
    ///
    /// # Errors
    /// As [`Image::verify`].
    pub fn rest(&self) -> Result<()> {
        if self.next.load(Ordering::Relaxed) >= self.checks.len() {
            return Ok(());
        }
        let mut buf = Buffer::new(self.image.buffer());
        while self.next(buf.bytes())? {}
        Ok(())
    }

    /// Checks a chunk that has been read, unless that has been begun.
    ///
    /// # Errors
    /// Of [`super::Error`] `Altered`.
    pub fn chunk(&self, part: usize, index: u64, bytes: &[u8]) -> Result<()> {
        let check = self.first.get(part).map_or(usize::MAX, |first| first.saturating_add(index as usize));
        match self.checks.get(check) {
            Some(Check::Chunk { member, digest, .. }) if self.begin(check) => {
                self.image.same(member, Digest::of(bytes) == *digest)
            }
            _ => Ok(()),
        }
    }

    fn begin(&self, check: usize) -> bool {
        self.begun.get(check).is_some_and(|begun| !begun.swap(true, Ordering::Relaxed))
    }

    fn check(&self, check: usize, buf: &mut [u8]) -> Result<()> {
        let what = self.checks.get(check).filter(|_| self.begin(check));
        let Some(what) = what else { return Ok(()) };
        let source = &self.image.source;
        match what {
            Check::Whole(member, digest) => {
                let mut hasher = Hasher::default();
                let mut at = 0;
                while at < member.size {
                    self.crew.go_on()?;
                    let len = (member.size - at).min(buf.len() as u64) as usize;
                    let piece = buf.get_mut(..len).unwrap_or_default();
                    source.read(piece, member.offset + at)?;
                    hasher.update(piece);
                    at += len as u64;
                }
                self.image.same(member, hasher.finish() == *digest)
            }
            Check::Chunk { member, offset, len, digest } => {
                let piece = buf.get_mut(..*len).unwrap_or_default();
                source.read(piece, *offset)?;
                self.image.same(member, Digest::of(piece) == *digest)
            }
        }
    }
}

impl Image {
    fn same(&self, member: &Member, same: bool) -> Result<()> {
        if same { Ok(()) } else { Err(self.source.altered(&*member.name)) }
    }

    /// What is left to check: all but the metadata, which was checked when the image was opened. And where the chunks of
    /// each part begin.
    fn checks(&self) -> Result<(Vec<Check<'_>>, Vec<usize>)> {
        let by_name: HashMap<&str, &Member> = self.members().iter().map(|m| (m.name.as_str(), m)).collect();
        let mut metadata = Metadata::new(&self.source);
        let mut checks = Vec::new();
        let mut first = Vec::new();
        for member in self.members() {
            if let Some(digest) = member.digest {
                checks.push(Check::Whole(member, digest));
            }
        }
        for part in self.parts() {
            first.push(checks.len());
            let find = |name: String| by_name.get(name.as_str()).copied().ok_or_else(|| self.source.altered(name));
            let (member, sums) = (find(names::pages(&part.name))?, find(names::sums(&part.name))?);
            let sums = metadata.sound(sums)?;
            for (i, digest) in (0u64..).zip(sums.chunks_exact(digest::LEN).filter_map(|sum| sum.try_into().ok())) {
                let from = i * self.chunk;
                let len = self.chunk.min(part.len.saturating_sub(from)) as usize;
                checks.push(Check::Chunk { member, offset: part.data_offset + from, len, digest: Digest(digest) });
            }
        }
        Ok((checks, first))
    }
}
