//! Content of memory, from the image: a process reads its own, and a thread of ours helps with much of it. That thread
//! checks the image, too: what it brings to its place it need not read twice.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::channel::{Receiver, Sender, TryRecvError, unbounded};

use crate::image::{self, Image, PartLocation, Run, Verifier};
use crate::model::Addr;
use crate::sys::mem;

use super::Error;
use super::fd::Sources;
use super::stub::{Expect, Puppet};

/// What is worth help.
const MUCH: u64 = 2 << 20;
/// To check less takes no longer than to begin a thread for it.
const ENOUGH: u64 = 512 << 10;
/// Chunks that a process reads at a time while it has help: few enough that both end together.
const AT_A_TIME: usize = 16;

/// Fills memory.
#[derive(Debug)]
pub struct Filler<'a> {
    image: &'a Image,
    by_name: HashMap<&'a str, usize>,
    helper: Option<Sender<Request>>,
}

/// Pages of one part to be brought to their places.
#[derive(Debug)]
struct Request {
    host: i32,
    /// The part, by its place in the image.
    part: usize,
    /// How far its addresses in the image are from where they go.
    shift: u64,
    left: Arc<Left>,
    /// Told once nothing is left, and what was begun is done.
    done: Sender<io::Result<()>>,
}

/// Chunks that nobody has begun. The process takes the first, its helper the last.
#[derive(Debug)]
struct Left(Mutex<Range<u64>>);

impl Left {
    fn first(&self) -> Option<Range<u64>> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = (left.end - left.start).div_ceil(4).min(AT_A_TIME as u64);
        let taken = left.start..left.start + count;
        left.start = taken.end;
        (count > 0).then_some(taken)
    }

    fn last(&self) -> Option<u64> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if left.is_empty() {
            return None;
        }
        left.end -= 1;
        Some(left.end)
    }
}

/// The thread that helps.
#[derive(Debug)]
pub struct Helper {
    requests: Receiver<Request>,
}

impl<'a> Filler<'a> {
    /// A filler, and its helper if there is much to fill, or enough to `check`. Who helps is at work while [`Helper::work`] runs.
    pub fn new(image: &'a Image, check: bool) -> (Filler<'a>, Option<Helper>) {
        let by_name = image.parts().iter().zip(0..).map(|(part, index)| (part.name.as_str(), index)).collect();
        let (ask, requests) = unbounded();
        let all: u64 = image.parts().iter().map(|part| part.len).sum();
        let helper = check && all >= ENOUGH || image.parts().iter().any(|part| part.len >= MUCH);
        let (ask, helper) = if helper { (Some(ask), Some(Helper { requests })) } else { (None, None) };
        (Filler { image, by_name, helper: ask }, helper)
    }

    /// Fills memory with the parts of these names, each so many bytes above where it was.
    ///
    /// # Errors
    /// If it can't be read or written.
    pub fn parts(
        &self,
        puppet: &mut Puppet,
        sources: &Sources,
        names: impl Iterator<Item = (String, u64)>,
    ) -> Result<(), Error> {
        let mut small = Vec::new();
        for (name, shift) in names {
            let Some(&index) = self.by_name.get(name.as_str()) else { continue };
            let Some(part) = self.image.parts().get(index) else { continue };
            match self.helper.as_ref().filter(|_| part.len >= MUCH) {
                Some(helper) => self.together(puppet, sources, (index, part), shift, helper)?,
                None => small.extend(part.located().map(shifted(shift))),
            }
        }
        read(puppet, sources, small.into_iter())
    }

    fn together(
        &self,
        puppet: &mut Puppet,
        sources: &Sources,
        (index, part): (usize, &PartLocation),
        shift: u64,
        helper: &Sender<Request>,
    ) -> Result<(), Error> {
        let chunk = self.image.chunk();
        let left = Arc::new(Left(Mutex::new(0..part.len.div_ceil(chunk))));
        let (done, is_done) = unbounded();
        let host = puppet.host();
        // Somebody who has ended because the image is damaged does nothing, and the resume fails with that.
        let asked = helper.send(Request { host, part: index, shift, left: left.clone(), done });
        while let Some(chunks) = left.first() {
            let pieces = part.located_between(chunks.start * chunk, (chunks.end * chunk).min(part.len));
            read(puppet, sources, pieces.map(shifted(shift)))?;
        }
        match asked.map(|()| is_done.recv()) {
            Ok(Ok(result)) => result.map_err(|e| Error::step("filling memory", host, e)),
            _ => Ok(()),
        }
    }
}

fn shifted(shift: u64) -> impl Fn((Run, u64)) -> (Run, u64) {
    move |(run, at)| (Run { start: run.start + shift, ..run }, at)
}

impl Helper {
    /// Helps whoever asks, until the filler is gone, and checks what it can between. Without a verifier it only helps.
    ///
    /// # Errors
    /// That of the check, or of reading the image.
    pub fn work(self, image: &Image, verifier: Option<&Verifier<'_>>) -> image::Result<()> {
        let mut buf = vec![0; image.buffer()];
        loop {
            let request = match self.requests.try_recv() {
                Ok(request) => request,
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {
                    if verifier.map_or(Ok(false), |verifier| verifier.next(&mut buf))? {
                        continue;
                    }
                    let Ok(request) = self.requests.recv() else { return Ok(()) };
                    request
                }
            };
            help(image, verifier, request, &mut buf)?;
        }
    }
}

fn help(image: &Image, verifier: Option<&Verifier<'_>>, request: Request, buf: &mut [u8]) -> image::Result<()> {
    let Some(part) = image.parts().get(request.part) else { return Ok(()) };
    let mut result = Ok(());
    while let Some(index) = request.left.last() {
        let bytes = image.read_chunk(part, index, buf)?;
        if let Some(verifier) = verifier {
            verifier.chunk(request.part, index, bytes)?;
        }
        let from = index * image.chunk();
        let mut rest = bytes;
        for (run, _) in part.located_between(from, from + bytes.len() as u64) {
            let Some((piece, after)) = rest.split_at_checked(run.len as usize) else { break };
            rest = after;
            if let (Err(e), Ok(())) = (write_all(request.host, run.start + request.shift, piece), &result) {
                result = Err(e);
            }
        }
    }
    // Whoever asked may have failed himself.
    let _ = request.done.send(result);
    Ok(())
}

fn write_all(host: i32, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = mem::write(host, Addr(at), bytes)?;
        at += written as u64;
        bytes = bytes.get(written..).unwrap_or_default();
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

/// Has the process read pages straight from the image to where they belong: one copy, none of it ours.
/// `runs` come with their offsets in the file.
pub fn read(puppet: &mut Puppet, sources: &Sources, runs: impl Iterator<Item = (Run, u64)>) -> Result<(), Error> {
    /// The kernel's UIO_MAXIOV.
    const MAX_PIECES: usize = 1024;
    /// Below the 2 GiB that one read may return.
    const MAX_BYTES: u64 = 1 << 30;
    let mut batch = puppet.batch();
    let mut offset = 0;
    let mut pieces: Vec<u8> = Vec::new();
    let mut bytes = 0;
    let mut send = |puppet: &mut Puppet, pieces: &mut Vec<u8>, bytes: &mut u64, offset: &mut u64| {
        if *bytes == 0 {
            return Ok(());
        }
        puppet.flush_for(&mut batch, 1, pieces.len() + 16)?;
        let at = batch.data(pieces);
        let args = [sources.image as u64, at.0, (pieces.len() / 16) as u64, *offset, 0];
        batch.call_expecting(Expect::Exactly(*bytes), "preadv", libc::SYS_preadv, &args);
        *offset += *bytes;
        *bytes = 0;
        pieces.clear();
        Ok::<(), Error>(())
    };
    for (run, at) in runs {
        if at != offset + bytes {
            send(puppet, &mut pieces, &mut bytes, &mut offset)?;
            offset = at;
        }
        let (mut start, mut left) = (run.start, run.len);
        while left > 0 {
            let now = left.min(MAX_BYTES - bytes);
            pieces.extend(start.to_le_bytes());
            pieces.extend(now.to_le_bytes());
            (start, left, bytes) = (start + now, left - now, bytes + now);
            if bytes == MAX_BYTES || pieces.len() == MAX_PIECES * 16 {
                send(puppet, &mut pieces, &mut bytes, &mut offset)?;
            }
        }
    }
    send(puppet, &mut pieces, &mut bytes, &mut offset)?;
    puppet.run(batch).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chunk_is_taken_once() {
        let left = Left(Mutex::new(0..100));
        let mut taken = Vec::new();
        while let Some(first) = left.first() {
            taken.extend(first);
            taken.extend(left.last());
        }
        assert_eq!(left.last(), None);
        taken.sort_unstable();
        assert_eq!(taken, (0..100).collect::<Vec<_>>());
    }
}
