//! Copying an image with another description.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::blobs::{Blob, BlobSource};
use super::error::{Error, Result};
use super::pages::{PageSource, Part};
use super::reader::Image;
use super::writer::{Sink, Writer};
use crate::model::Checkpoint;

/// Copies an image, with all of its memory and file contents, after `edit` has changed what it says. The source is
/// verified first, so that damage never gets a fresh digest. Whether the result makes sense is not checked: whoever
/// opens it will.
///
/// # Errors
/// As [`Image::verify`], [`Writer::create`], [`Writer::begin`], [`Writer::finish`] and [`Writer::commit`].
pub fn rewrite(src: &Image, out: &Path, edit: impl FnOnce(&mut Checkpoint)) -> Result<()> {
    let never = AtomicBool::new(false);
    src.verify(0, &never)?;
    let mut checkpoint = src.checkpoint().clone();
    edit(&mut checkpoint);
    let parts: Vec<_> = src.parts().iter().map(|p| Part { name: p.name.clone(), runs: p.runs.clone() }).collect();
    let mut blobs = Vec::new();
    for id in src.blob_ids() {
        if let Some((offset, size)) = src.blob(id) {
            let file = src.file().try_clone().map_err(Error::io("open again", src.name()))?;
            blobs.push(Blob { id, size, source: BlobSource::Range(file, offset) });
        }
    }
    let mut writer = Writer::create(Sink::File(out.to_owned()))?;
    writer.begin_unchecked(&checkpoint, &parts, &Pages(src), &blobs, &never)?;
    writer.finish(&parts, &blobs, &never)?;
    writer.commit().map(drop)
}

/// The pages of an image.
struct Pages<'a>(&'a Image);

impl PageSource for Pages<'_> {
    fn fill(&self, part: usize, addr: u64, buf: &mut [u8]) -> io::Result<()> {
        let part = self.0.parts().get(part).ok_or(io::ErrorKind::NotFound)?;
        let (offset, left) = part.find(addr).ok_or(io::ErrorKind::NotFound)?;
        if left < buf.len() as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.file().read_exact_at(buf, offset)
    }
}
