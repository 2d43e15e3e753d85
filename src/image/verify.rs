//! Checking every byte of an image.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;

use super::crew::Crew;
use super::digest::Digest;
use super::error::{Error, Result};
use super::reader::{Image, Member, Metadata};
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
    /// [`Error::Altered`] with the name of a member; [`Error::Truncated`], [`Error::Io`], [`Error::Cancelled`].
    pub fn verify(&self, threads: usize, cancel: &AtomicBool) -> Result<()> {
        let checks = self.checks()?;
        let threads = if threads == 0 { super::crew::threads_for(self.source.len) } else { threads };
        let crew = Crew::new(cancel);
        let buffer = usize::try_from(self.chunk).unwrap_or(CHUNK).max(CHUNK);
        let buffer = buffer.min(usize::try_from(self.source.len).unwrap_or(buffer));
        crew.run(threads, checks.len(), buffer, |job, buf| match checks.get(job) {
            Some(check) => self.check(check, buf, &crew),
            None => Ok(()),
        })?;
        Ok(())
    }

    /// What is left to check: all but the metadata, which was checked when the image was opened.
    fn checks(&self) -> Result<Vec<Check<'_>>> {
        let by_name: HashMap<&str, &Member> = self.members().iter().map(|m| (m.name.as_str(), m)).collect();
        let mut metadata = Metadata::new(&self.source);
        let mut checks = Vec::new();
        for member in self.members() {
            if let Some(digest) = member.digest {
                checks.push(Check::Whole(member, digest));
            }
        }
        for part in self.parts() {
            let find = |name: String| by_name.get(name.as_str()).copied().ok_or_else(|| self.source.altered(name));
            let (member, sums) = (find(names::pages(&part.name))?, find(names::sums(&part.name))?);
            let sums = metadata.sound(sums)?;
            for (i, digest) in (0u64..).zip(sums.chunks_exact(32).filter_map(|sum| <[u8; 32]>::try_from(sum).ok())) {
                let from = i * self.chunk;
                let len = self.chunk.min(part.len.saturating_sub(from)) as usize;
                checks.push(Check::Chunk { member, offset: part.data_offset + from, len, digest: Digest(digest) });
            }
        }
        Ok(checks)
    }

    fn check(&self, check: &Check<'_>, buf: &mut [u8], crew: &Crew<'_>) -> Result<()> {
        let (member, same) = match check {
            Check::Whole(member, digest) => {
                let mut hasher = blake3::Hasher::new();
                let mut at = 0;
                while at < member.size {
                    crew.go_on()?;
                    let len = (member.size - at).min(buf.len() as u64) as usize;
                    let piece = buf.get_mut(..len).unwrap_or_default();
                    self.source.read(piece, member.offset + at)?;
                    hasher.update(piece);
                    at += len as u64;
                }
                (member, Digest::from(hasher.finalize()) == *digest)
            }
            Check::Chunk { member, offset, len, digest } => {
                let piece = buf.get_mut(..*len).unwrap_or_default();
                self.source.read(piece, *offset)?;
                (member, Digest::of(piece) == *digest)
            }
        };
        if same { Ok(()) } else { Err(Error::Altered { image: self.source.name.clone(), member: member.name.clone() }) }
    }
}
