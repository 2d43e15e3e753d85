//! Writing an image.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use nix::sys::statfs::{EXT4_SUPER_MAGIC, FsType, TMPFS_MAGIC, fstatfs};

use super::blobs::Blob;
use super::crew::{Crew, threads_for};
use super::digest::{Digest, Hasher};
use super::error::{Error, Result};
use super::layout::{Layout, Step, What};
use super::pages::{PageSource, Part, Run};
use super::partial::Partial;
use super::stream::{self, Stream};
use super::{CHUNK, PAGE, check};
use crate::model::Checkpoint;
use crate::proc::many;
use crate::sys::window::Window;

/// Bytes that are read and written at a time. Threads that write longer pieces wait asleep for the file's lock, not
/// spinning; those of shorter ones take it too often.
const PIECE: usize = 256 * 1024;

/// Pages are made before there is something to write: not for fewer bytes, nor for more, of which the command would take a
/// third longer (1 GiB on tmpfs) and the hold no less.
const LEAST_AHEAD: usize = 16 << 20;
const MOST_AHEAD: usize = 256 << 20;
/// Bytes that a thread makes at a time.
const AHEAD_AT_ONCE: usize = 4 << 20;

/// Where an image goes.
#[derive(Debug)]
pub enum Sink {
    /// A file of this name, which appears when it is complete.
    File(PathBuf),
    /// A pipe, socket or the like, written in order.
    Stream(File),
}

/// Writes one image.
#[derive(Debug)]
pub struct Writer {
    output: Output,
    /// Where its first pages are already.
    window: Option<Window>,
    progress: Progress,
}

/// How far an image is.
#[derive(Debug)]
enum Progress {
    Nothing,
    /// Digests of the steps taken; the others are of bytes in hand.
    Begun(Layout, Vec<Option<Digest>>),
    /// Its length.
    Written(u64),
}

#[derive(Debug)]
enum Output {
    File(Partial),
    Stream(Stream),
}

impl Output {
    fn path(&self) -> &Path {
        match self {
            Output::File(partial) => partial.target(),
            Output::Stream(_) => Path::new(stream::NAME),
        }
    }

    fn takes_any_order(&self) -> bool {
        matches!(self, Output::File(_))
    }

    /// Writes at `offset`, which for a stream must be where it is.
    fn write(&self, bytes: &[u8], offset: u64, crew: &Crew<'_>) -> Result<()> {
        match self {
            Output::File(partial) => {
                let written = partial.file().write_all_at(bytes, offset);
                written.map_err(|e| Error::writing(self.path(), "write", e))
            }
            Output::Stream(stream) => stream.write(bytes, crew),
        }
    }
}

impl Writer {
    /// Begins an image. A file is written under a name ending in `.partial`, readable by its owner only; dropping the
    /// writer removes it.
    ///
    /// # Errors
    /// [`Error::Busy`] if another writer is at it, [`Error::NotAFile`], [`Error::NoSpace`], [`Error::Io`].
    pub fn create(sink: Sink) -> Result<Writer> {
        let output = match sink {
            Sink::File(path) => Output::File(Partial::create(&path)?),
            Sink::Stream(file) => Output::Stream(Stream::new(file)),
        };
        Ok(Writer { output, window: None, progress: Progress::Nothing })
    }

    /// Makes the pages of a file for `bytes` bytes, so that these are only to be copied later. Where that can't be, or does
    /// not pay, they are written all the same.
    pub fn make_room(&mut self, bytes: u64) {
        let Output::File(partial) = &self.output else { return };
        let len = bytes.checked_next_multiple_of(PAGE).and_then(|len| usize::try_from(len).ok()).unwrap_or(usize::MAX);
        if (LEAST_AHEAD..=MOST_AHEAD).contains(&len) && is_fast(partial.file()) {
            self.open_window(len);
        }
    }

    fn open_window(&mut self, len: usize) {
        let Output::File(partial) = &self.output else { return };
        let make = || {
            partial.file().set_len(len as u64)?;
            let window = Window::open(partial.file(), len)?;
            let pieces: Vec<usize> = (0..len).step_by(AHEAD_AT_ONCE).collect();
            many::each(&pieces, 1, |&from| window.populate(from, AHEAD_AT_ONCE))?;
            Ok::<_, io::Error>(window)
        };
        match make() {
            Ok(window) => self.window = Some(window),
            Err(error) => {
                tracing::debug!(%error, "no room ahead");
                let _ = partial.file().set_len(0);
            }
        }
    }

    /// Writes everything, once; nothing is synced.
    ///
    /// # Errors
    /// As [`Writer::begin`] and [`Writer::finish`].
    #[cfg(test)]
    pub(super) fn write(
        &mut self,
        checkpoint: &Checkpoint,
        parts: &[Part],
        source: &dyn PageSource,
        blobs: &[Blob],
        cancel: &AtomicBool,
    ) -> Result<()> {
        self.begin(checkpoint, parts, source, blobs, cancel)?;
        self.finish(parts, blobs, cancel)
    }

    /// Writes, once, all that comes from elsewhere: when it returns the page source is no longer needed, nor is what
    /// blobs are read from. A stream gets the bytes in hand, too, as it is written in order.
    ///
    /// # Errors
    /// [`Error::Inconsistent`] for what a reader would refuse, [`Error::Page`], [`Error::Blob`], [`Error::NoSpace`],
    /// [`Error::Io`]; [`Error::Cancelled`] soon after `cancel` was raised.
    pub fn begin(
        &mut self,
        checkpoint: &Checkpoint,
        parts: &[Part],
        source: &dyn PageSource,
        blobs: &[Blob],
        cancel: &AtomicBool,
    ) -> Result<()> {
        let contradiction = |what| Error::Inconsistent { image: self.output.path().display().to_string(), what };
        let runs: HashMap<&str, &[Run]> = parts.iter().map(|p| (p.name.as_str(), p.runs.as_slice())).collect();
        let sizes: HashMap<u32, u64> = blobs.iter().map(|b| (b.id, b.size)).collect();
        if runs.len() != parts.len() || sizes.len() != blobs.len() {
            return Err(contradiction("two parts of one name or two contents of one id".to_owned()));
        }
        check::check(checkpoint, &runs, &sizes).map_err(contradiction)?;
        self.begin_unchecked(checkpoint, parts, source, blobs, cancel)
    }

    /// As [`Writer::begin`], for a checkpoint that need not make sense.
    pub(super) fn begin_unchecked(
        &mut self,
        checkpoint: &Checkpoint,
        parts: &[Part],
        source: &dyn PageSource,
        blobs: &[Blob],
        cancel: &AtomicBool,
    ) -> Result<()> {
        if !matches!(self.progress, Progress::Nothing) {
            return Err(self.misuse("it is written already"));
        }
        let layout = Layout::new(&self.output.path().display().to_string(), checkpoint, parts, blobs)?;
        let crew = Crew::new(cancel);
        let (output, window) = (&self.output, self.window.as_ref());
        let digests = Job { layout: &layout, output, window, parts, source, blobs, crew: &crew }.run()?;
        self.progress = Progress::Begun(layout, digests);
        Ok(())
    }

    /// Writes the bytes in hand and the end of the image, with the parts and blobs that it was begun with.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`], also if it was not begun; [`Error::Cancelled`] soon after `cancel` was raised.
    pub fn finish(&mut self, parts: &[Part], blobs: &[Blob], cancel: &AtomicBool) -> Result<()> {
        let Progress::Begun(layout, digests) = &mut self.progress else {
            return Err(self.misuse("it is not begun, or complete"));
        };
        let crew = Crew::new(cancel);
        if let Output::File(_) = &self.output {
            for (step, digest) in layout.steps.iter().zip(&mut *digests) {
                if let What::Bytes(_) | What::InHand { .. } = step.what {
                    *digest = in_hand(&step.what, blobs, step.offset, &self.output, &crew)?;
                }
            }
        }
        let Step { offset, what } = layout.finish(parts, digests)?;
        if let What::Bytes(tail) = what {
            self.output.write(&tail, offset, &crew)?;
            if let (Some(_), Output::File(partial)) = (self.window.take(), &self.output) {
                let cut = partial.file().set_len(offset + tail.len() as u64);
                cut.map_err(|e| Error::writing(self.output.path(), "truncate", e))?;
            }
            self.progress = Progress::Written(offset + tail.len() as u64);
        }
        Ok(())
    }

    /// Makes the image durable and gives it its name; of a stream nothing but the length is left to say. Returns its
    /// length in bytes.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`], also if nothing was written. The partial file is then removed.
    pub fn commit(self) -> Result<u64> {
        let Progress::Written(bytes) = self.progress else { return Err(self.misuse("it is not complete")) };
        if let Output::File(partial) = self.output {
            partial.commit()?;
        }
        Ok(bytes)
    }

    fn misuse(&self, what: &'static str) -> Error {
        Error::io("write", self.output.path().display().to_string())(io::Error::other(what))
    }
}

/// What a worker needs to do any step.
struct Job<'a> {
    layout: &'a Layout,
    output: &'a Output,
    window: Option<&'a Window>,
    parts: &'a [Part],
    source: &'a dyn PageSource,
    blobs: &'a [Blob],
    crew: &'a Crew<'a>,
}

impl Job<'_> {
    /// Does all steps but those of bytes in hand, which can wait; their digests. Each
    /// thread reads and writes: what it writes is in its own cache still, and the others read meanwhile. A stream is
    /// written in order, and all of it.
    fn run(&self) -> Result<Vec<Option<Digest>>> {
        let steps = &self.layout.steps;
        let threads = if self.output.takes_any_order() { threads_for(self.layout.payload) } else { 1 };
        let mut digests = vec![None; steps.len()];
        let done = self.crew.run(threads, steps.len(), PIECE.min(self.layout.buffer()), |step, buf| {
            match steps.get(step) {
                Some(step) => self.step(step, buf),
                None => Ok(None),
            }
        })?;
        for (step, digest) in done {
            if let Some(known) = digests.get_mut(step) {
                *known = digest;
            }
        }
        Ok(digests)
    }

    fn step(&self, Step { offset, what }: &Step, buf: &mut [u8]) -> Result<Option<Digest>> {
        match *what {
            What::Bytes(_) | What::InHand { .. } => match self.output {
                Output::Stream(_) => in_hand(what, self.blobs, *offset, self.output, self.crew),
                Output::File(_) => Ok(None),
            },
            What::Blob { blob, .. } => {
                let Some(Blob { id, size, source }) = self.blobs.get(blob) else { return Ok(None) };
                let failed = |source| Error::Blob { id: *id, source };
                let read = |at, piece: &mut [u8]| source.read(piece, at).map_err(failed);
                self.copy(*offset, *size, &read, buf)
            }
            What::Chunk { part, index, len } => {
                let read = |at, piece: &mut [u8]| self.fill(part, index * CHUNK as u64 + at, piece);
                self.copy(*offset, len as u64, &read, buf)
            }
        }
    }

    /// Writes `len` bytes at `offset`, as `read` gives them; their digest. That is of what came, not of what a file gives
    /// back, and of bytes that are in a cache near by.
    fn copy(
        &self,
        offset: u64,
        len: u64,
        read: &dyn Fn(u64, &mut [u8]) -> Result<()>,
        buf: &mut [u8],
    ) -> Result<Option<Digest>> {
        let mut hasher = Hasher::default();
        let mut at = 0;
        while at < len {
            self.crew.go_on()?;
            let now = (len - at).min(buf.len() as u64) as usize;
            if let Some(mut piece) = self.window.and_then(|window| window.take(offset + at, now)) {
                read(at, &mut piece)?;
                hasher.update(&piece);
                at += now as u64;
                continue;
            }
            let piece = buf.get_mut(..now).unwrap_or_default();
            read(at, piece)?;
            hasher.update(piece);
            self.output.write(piece, offset + at, self.crew)?;
            at += now as u64;
        }
        Ok(Some(hasher.finish()))
    }

    /// Fills `buf` with what is at byte `from` of a part's pages.
    fn fill(&self, part: usize, mut from: u64, mut buf: &mut [u8]) -> Result<()> {
        let (Some(runs), Some(before)) = (self.parts.get(part), self.layout.before.get(part)) else { return Ok(()) };
        let first = before.partition_point(|&b| b <= from).saturating_sub(1);
        for (run, before) in runs.runs.iter().zip(before).skip(first) {
            if buf.is_empty() {
                break;
            }
            let skip = from - before;
            let (piece, rest) = buf.split_at_mut((run.len - skip).min(buf.len() as u64) as usize);
            let addr = run.start + skip;
            self.source.fill(part, addr, piece).map_err(|source| Error::Page {
                part: runs.name.clone(),
                addr,
                source,
            })?;
            from += piece.len() as u64;
            buf = rest;
        }
        Ok(())
    }
}

/// Whether a file is on a file system that makes pages of a mapping as fast as by write(2), and takes shared ones.
fn is_fast(file: &File) -> bool {
    const XFS: FsType = FsType(0x5846_5342);
    fstatfs(file).is_ok_and(|found| [TMPFS_MAGIC, EXT4_SUPER_MAGIC, XFS].contains(&found.filesystem_type()))
}

/// Writes a step whose bytes are here.
fn in_hand(what: &What, blobs: &[Blob], at: u64, output: &Output, crew: &Crew<'_>) -> Result<Option<Digest>> {
    let blob = match what {
        What::Bytes(bytes) => return output.write(bytes, at, crew).map(|()| None),
        What::InHand { blob, .. } => blobs.get(*blob).and_then(|blob| blob.source.in_hand()),
        What::Blob { .. } | What::Chunk { .. } => None,
    };
    let Some(bytes) = blob else { return Ok(None) };
    let mut hasher = Hasher::default();
    for (piece, at) in bytes.chunks(CHUNK).zip((at..).step_by(CHUNK)) {
        crew.go_on()?;
        hasher.update(piece);
        output.write(piece, at, crew)?;
    }
    Ok(Some(hasher.finish()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::Ordering;

    use super::super::sample::{BASE, NEVER, Pattern, blobs, byte, checkpoint, parts, write};
    use super::super::{BlobSource, Image, PAGE};
    use super::*;

    /// Enough pages for several threads and chunks, in runs that cross the chunks' borders.
    fn many() -> Vec<Part> {
        let mut all = parts();
        all[0].runs.extend((0..40).map(|i| Run { start: BASE + (1 << 32) + i * 60 * PAGE, len: (20 + i) * PAGE }));
        all
    }

    fn assert_pages(image: &Image, parts: &[Part]) {
        for (index, part) in parts.iter().enumerate() {
            let found = image.part(&part.name).unwrap();
            assert_eq!(found.runs, part.runs);
            assert_eq!(found.data_offset % PAGE, 0);
            for (run, offset) in found.located() {
                let mut bytes = vec![0; run.len as usize];
                image.file().read_exact_at(&mut bytes, offset).unwrap();
                assert!(bytes.iter().zip(run.start..).all(|(&b, addr)| b == byte(index, addr)), "{run:?}");
                assert_eq!(found.find(run.start + 1), Some((offset + 1, run.len - 1)));
            }
            let bytes = |(run, at): (Run, u64)| (run.start..run.start + run.len).zip(at..).collect::<Vec<_>>();
            let all: Vec<_> = found.located().flat_map(bytes).collect();
            let between = |from: usize| found.located_between(from as u64, (from as u64 + 5000).min(found.len));
            assert!(all.chunks(5000).enumerate().all(|(i, some)| between(i * 5000).flat_map(bytes).eq(some.to_vec())));
            assert_eq!(found.find(0), None);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        for parts in [parts(), many()] {
            let bytes = write(&path, &parts).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
            let image = Image::open(&path).unwrap();
            assert_eq!(image.checkpoint(), &checkpoint());
            assert_pages(&image, &parts);
            let (offset, size) = image.blob(0).unwrap();
            let mut content = vec![0; size as usize];
            image.file().read_exact_at(&mut content, offset).unwrap();
            assert_eq!(content, b"hello");
            image.verify(0, &NEVER).unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn room_ahead_makes_no_difference() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let plain = write(&path, &many()).unwrap();
        let plain = (plain, std::fs::read(&path).unwrap());
        // Room that ends among the pages, and for more than there is.
        for room in [1 << 20, LEAST_AHEAD] {
            let mut writer = Writer::create(Sink::File(path.clone())).unwrap();
            writer.open_window(room);
            assert!(writer.window.is_some());
            writer.write(&checkpoint(), &many(), &Pattern, &blobs(), &NEVER).unwrap();
            let bytes = writer.commit().unwrap();
            assert!((bytes, std::fs::read(&path).unwrap()) == plain, "{room}");
        }
    }

    #[test]
    fn a_stream_gets_the_same_bytes_as_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let blobs = || {
            let bytes: Vec<u8> = (0..2_000_000u32).map(|i| (i % 241) as u8).collect();
            let mut all = blobs();
            all.push(Blob { id: 8, size: bytes.len() as u64, source: BlobSource::Bytes(bytes.into()) });
            all
        };
        let mut writer = Writer::create(Sink::File(path.clone())).unwrap();
        writer.write(&checkpoint(), &many(), &Pattern, &blobs(), &NEVER).unwrap();
        writer.commit().unwrap();
        let (mut reader, pipe) = io::pipe().unwrap();
        let streamed = std::thread::scope(|scope| {
            let writing = scope.spawn(move || {
                let mut writer = Writer::create(Sink::Stream(File::from(std::os::fd::OwnedFd::from(pipe)))).unwrap();
                writer.write(&checkpoint(), &many(), &Pattern, &blobs(), &NEVER).unwrap();
                writer.commit().unwrap()
            });
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            assert_eq!(writing.join().unwrap(), bytes.len() as u64);
            bytes
        });
        assert!(streamed == std::fs::read(&path).unwrap());
        let image = Image::spool(&streamed[..], "stdin").unwrap();
        assert_eq!(image.checkpoint(), &checkpoint());
        image.verify(2, &NEVER).unwrap();
    }

    #[test]
    fn blobs_come_from_files_by_position() {
        let dir = tempfile::tempdir().unwrap();
        let (path, data) = (dir.path().join("image"), dir.path().join("data"));
        let content: Vec<u8> = (0..3_000_001u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&data, &content).unwrap();
        let size = content.len() as u64;
        let mut file = File::open(&data).unwrap();
        io::Seek::seek(&mut file, io::SeekFrom::Start(99)).unwrap();
        let more = |size| {
            let mut all = blobs();
            let file = file.try_clone().unwrap();
            all.push(Blob { id: 8, size, source: BlobSource::File(file) });
            all
        };
        let mut writer = Writer::create(Sink::File(path.clone())).unwrap();
        writer.write(&checkpoint(), &many(), &Pattern, &more(size), &NEVER).unwrap();
        writer.commit().unwrap();
        assert_eq!(io::Seek::stream_position(&mut &file).unwrap(), 99);
        let image = Image::open(&path).unwrap();
        image.verify(2, &NEVER).unwrap();
        let (offset, len) = image.blob(8).unwrap();
        let mut found = vec![0; len as usize];
        image.file().read_exact_at(&mut found, offset).unwrap();
        assert!(found == content);

        let mut writer = Writer::create(Sink::File(path)).unwrap();
        let short = writer.write(&checkpoint(), &many(), &Pattern, &more(size + 1), &NEVER);
        assert!(matches!(short, Err(Error::Blob { id: 8, .. })), "{short:?}");
    }

    /// Fails, or raises a flag, at the last address of the sample.
    struct Trouble<'a>(Option<&'a AtomicBool>);

    impl PageSource for Trouble<'_> {
        fn fill(&self, _: usize, addr: u64, _: &mut [u8]) -> io::Result<()> {
            match self.0 {
                Some(flag) => flag.store(true, Ordering::Relaxed),
                None if addr > BASE + (1 << 32) + 20 * PAGE => return Err(io::ErrorKind::NotFound.into()),
                None => {}
            }
            Ok(())
        }
    }

    #[test]
    fn trouble_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let mut writer = Writer::create(Sink::File(path.clone())).unwrap();
        let failed = writer.write(&checkpoint(), &many(), &Trouble(None), &blobs(), &NEVER);
        assert!(matches!(failed, Err(Error::Page { .. })), "{failed:?}");
        assert!(matches!(writer.commit(), Err(Error::Io { .. })));

        let flag = AtomicBool::new(false);
        let mut writer = Writer::create(Sink::File(path)).unwrap();
        let cancelled = writer.write(&checkpoint(), &many(), &Trouble(Some(&flag)), &blobs(), &flag);
        assert!(matches!(cancelled, Err(Error::Cancelled)), "{cancelled:?}");
        drop(writer);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_full_device_is_told_apart() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut writer = Writer::create(Sink::Stream(full)).unwrap();
        let result = writer.write(&checkpoint(), &parts(), &Pattern, &blobs(), &NEVER);
        assert!(matches!(result, Err(Error::NoSpace { .. })), "{result:?}");
    }

    #[test]
    fn what_no_reader_would_take_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(Sink::File(dir.path().join("image"))).unwrap();
        let mut outside = parts();
        outside[0].runs.push(Run { start: BASE + 100 * PAGE, len: PAGE });
        let mut twice = parts();
        twice.push(twice[0].clone());
        for wrong in [outside, twice, parts()[1..].to_vec()] {
            let result = writer.write(&checkpoint(), &wrong, &Pattern, &blobs(), &NEVER);
            assert!(matches!(result, Err(Error::Inconsistent { .. })), "{result:?}");
        }
    }
}
