//! Where everything goes: known before a byte is written, from sizes alone.

use super::blobs::Blob;
use super::digest::Digest;
use super::end::{self, End, Listed};
use super::error::{Error, Result};
use super::header::{BLOCK, Start, padded};
use super::pages::{self, Part};
use super::{CHUNK, names, schema};
use crate::model::Checkpoint;
use crate::model::Nanos;

/// Bytes at hand of at least so many are not copied to be written together with their headers.
const WORTH_A_STEP: usize = 64 << 10;

/// One piece of an image that is written in one go.
#[derive(Debug)]
pub(super) struct Step {
    /// Position in the image.
    pub(super) offset: u64,
    pub(super) what: What,
}

/// What a piece is.
#[derive(Debug)]
pub(super) enum What {
    /// Headers, metadata, padding.
    Bytes(Vec<u8>),
    /// The content of the blob with this index; `listed` gets its digest.
    Blob { blob: usize, listed: usize },
    /// The same of one whose bytes are here.
    InHand { blob: usize, listed: usize },
    /// Chunk `index` of the part with this index.
    Chunk { part: usize, index: u64, len: usize },
}

/// Everything before the chunk digests and the end mark.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) steps: Vec<Step>,
    /// For each part the bytes before each run.
    pub(super) before: Vec<Vec<u64>>,
    /// Bytes of pages and blobs.
    pub(super) payload: u64,
    /// Bytes of pages.
    pages: u64,
    listed: Vec<Listed>,
    /// Where the rest goes.
    end: u64,
    mtime: u64,
    image: String,
}

/// Lays members out one after the other.
struct Builder {
    at: u64,
    pending: Vec<u8>,
    steps: Vec<Step>,
    listed: Vec<Listed>,
    mtime: u64,
    image: String,
}

impl Builder {
    fn new(at: u64, listed: Vec<Listed>, mtime: u64, image: String) -> Builder {
        Builder { at, pending: Vec::new(), steps: Vec::new(), listed, mtime, image }
    }

    fn too_large(&self, what: &str) -> Error {
        Error::TooLarge { image: self.image.clone(), what: what.to_owned() }
    }

    fn start(&mut self, name: &str, size: u64, aligned: bool, digest: Option<Digest>) -> Result<()> {
        let at = self.at + self.pending.len() as u64;
        let bytes = Start { name, size, mtime: self.mtime, aligned }
            .encode(at)
            .map_err(|e| Error::Inconsistent { image: self.image.clone(), what: format!("member {name}: {e}") })?;
        self.pending.extend(bytes);
        self.listed.push(Listed { name: name.to_owned(), size, digest });
        Ok(())
    }

    /// A member whose bytes are at hand.
    fn member(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.start(name, bytes.len() as u64, false, Some(Digest::of(bytes)))?;
        self.pending.extend(bytes);
        self.pad(bytes.len() as u64)
    }

    fn json(&mut self, name: &str, json: serde_json::Result<Vec<u8>>) -> Result<()> {
        let bytes =
            json.map_err(|e| Error::Inconsistent { image: self.image.clone(), what: format!("{name}: {e}") })?;
        self.member(name, &bytes)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let zeros = padded(size).ok_or_else(|| self.too_large("size of a member"))? - size;
        self.pending.resize(self.pending.len() + zeros as usize, 0);
        Ok(())
    }

    /// Turns what is pending into a step.
    fn flush(&mut self) {
        if !self.pending.is_empty() {
            let bytes = std::mem::take(&mut self.pending);
            let len = bytes.len() as u64;
            self.steps.push(Step { offset: self.at, what: What::Bytes(bytes) });
            self.at += len;
        }
    }

    fn advance(&mut self, bytes: u64) -> Result<()> {
        // An offset in a file is signed; leave room for headers too.
        const MAX: u64 = 1 << 62;
        self.at = self.at.checked_add(bytes).filter(|&at| at < MAX).ok_or_else(|| self.too_large("size"))?;
        Ok(())
    }

    fn blob(&mut self, index: usize, blob: &Blob) -> Result<()> {
        if let Some(bytes) = blob.source.in_hand() {
            if bytes.len() as u64 != blob.size {
                let source = std::io::Error::other(format!("{} bytes instead of {}", bytes.len(), blob.size));
                return Err(Error::Blob { id: blob.id, source });
            }
            if bytes.len() < WORTH_A_STEP {
                return self.member(&names::blob(blob.id), bytes);
            }
        }
        self.start(&names::blob(blob.id), blob.size, false, None)?;
        self.flush();
        let listed = self.listed.len() - 1;
        let what = match blob.source.in_hand() {
            Some(_) => What::InHand { blob: index, listed },
            None => What::Blob { blob: index, listed },
        };
        self.steps.push(Step { offset: self.at, what });
        self.advance(blob.size)?;
        self.pad(blob.size)
    }

    fn pages(&mut self, index: usize, part: &Part, size: u64) -> Result<()> {
        self.start(&names::pages(&part.name), size, true, None)?;
        self.flush();
        let (from, chunk) = (self.at, CHUNK as u64);
        self.advance(size)?;
        for i in 0..size.div_ceil(chunk) {
            let len = chunk.min(size - i * chunk) as usize;
            self.steps.push(Step { offset: from + i * chunk, what: What::Chunk { part: index, index: i, len } });
        }
        Ok(())
    }
}

impl Layout {
    /// Lays out the image called `image`.
    pub(super) fn new(image: &str, checkpoint: &Checkpoint, parts: &[Part], blobs: &[Blob]) -> Result<Layout> {
        let mtime = u64::try_from(checkpoint.manifest.clocks.realtime.0 / Nanos::PER_SECOND).unwrap_or(0);
        let mut b = Builder::new(0, Vec::new(), mtime, image.to_owned());
        b.json(names::MANIFEST, schema::line(&checkpoint.manifest))?;
        b.json(names::TREE, schema::tagged(schema::TREE, &checkpoint.tree))?;
        for process in &checkpoint.processes {
            b.json(&names::process(process.pid), schema::tagged(schema::PROCESS, process))?;
        }
        let files = schema::FilesRef { files: &checkpoint.files };
        b.json(names::FILES, schema::tagged(schema::FILES, &files))?;
        b.json(names::SHARED, schema::tagged(schema::SHARED, &checkpoint.shared))?;
        for part in parts {
            b.member(&names::runs(&part.name), &pages::encode(&part.runs))?;
        }
        let mut payload = 0u64;
        for (index, blob) in blobs.iter().enumerate() {
            b.blob(index, blob)?;
            payload += blob.size;
        }
        let mut before = Vec::with_capacity(parts.len());
        let mut pages = 0u64;
        for (index, part) in parts.iter().enumerate() {
            let (starts, size) = pages::bytes_before(&part.runs).ok_or_else(|| b.too_large("memory"))?;
            b.pages(index, part, size)?;
            before.push(starts);
            pages += size;
        }
        b.flush();
        let payload = payload + pages;
        Ok(Layout { steps: b.steps, before, payload, pages, listed: b.listed, end: b.at, mtime, image: b.image })
    }

    /// Bytes of the largest buffer a step needs.
    pub(super) fn buffer(&self) -> usize {
        let need = |step: &Step| match step.what {
            What::Bytes(_) | What::InHand { .. } => 0,
            What::Blob { .. } => CHUNK,
            What::Chunk { len, .. } => len,
        };
        self.steps.iter().map(need).max().unwrap_or(0)
    }

    /// The last piece, chunk digests and end mark, from what each step gave.
    pub(super) fn finish(&self, parts: &[Part], digests: &[Option<Digest>]) -> Result<Step> {
        let mut listed = self.listed.clone();
        let mut sums = vec![Vec::new(); parts.len()];
        for (step, digest) in self.steps.iter().zip(digests) {
            match (&step.what, *digest) {
                (&(What::Blob { listed: at, .. } | What::InHand { listed: at, .. }), digest) => {
                    if let Some(entry) = listed.get_mut(at) {
                        entry.digest = digest;
                    }
                }
                // Chunks of a part are in order among the steps.
                (&What::Chunk { part, .. }, Some(digest)) => {
                    if let Some(sums) = sums.get_mut(part) {
                        sums.extend(digest.0);
                    }
                }
                _ => {}
            }
        }
        let mut b = Builder::new(self.end, listed, self.mtime, self.image.clone());
        for (part, sums) in parts.iter().zip(&sums) {
            b.member(&names::sums(&part.name), sums)?;
        }
        let members = std::mem::take(&mut b.listed);
        let end = End { schema: schema::END.to_owned(), chunk: CHUNK as u64, pages: self.pages, members };
        b.json(names::END, end::encode(&end))?;
        b.pending.resize(b.pending.len() + 2 * BLOCK as usize, 0);
        Ok(Step { offset: b.at, what: What::Bytes(b.pending) })
    }
}
