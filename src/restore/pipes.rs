//! Pipes and FIFOs, with what is in them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::image::Image;
use crate::model::Name;
use crate::model::pipes::PipeEnd;
use crate::sys::fds;

use super::Error;
use super::fd::reopen;
use super::files::own_link;

const O_LARGEFILE: u32 = 0o100_000;

/// Pipes made so far: a description of each, through which every end is opened. Dropped when all ends are, so that
/// those whose other side was closed see it closed.
#[derive(Debug, Default)]
pub struct Pipes {
    made: HashMap<u32, Pipe>,
}

/// One pipe while its ends are handed out.
#[derive(Debug)]
struct Pipe {
    /// Open for reading and writing at once.
    both: File,
    /// The ends as pipe(2) makes them, until they are handed out: any other description has O_LARGEFILE.
    read: Option<OwnedFd>,
    write: Option<OwnedFd>,
}

impl Pipes {
    /// An end of a pipe, with the program's flags.
    pub fn open(&mut self, image: &Image, end: &PipeEnd, flags: u32) -> Result<OwnedFd, Error> {
        let name = end.fifo.clone().unwrap_or_else(|| Name::from("pipe"));
        let fail = |e| Error::file("making", &name, e);
        let pipe = match self.made.entry(end.pipe) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => place.insert(make(image, end).map_err(fail)?),
        };
        // Through /proc, an own description of the same pipe, as the program's was. Opening does not wait: this
        // process holds both sides.
        let original = match flags as i32 & libc::O_ACCMODE {
            _ if flags & O_LARGEFILE != 0 => None,
            libc::O_RDONLY => pipe.read.take(),
            libc::O_WRONLY => pipe.write.take(),
            _ => None,
        };
        match original {
            Some(fd) => {
                fds::fcntl(fd.as_fd(), libc::F_SETFL, i64::from(flags)).map_err(fail)?;
                Ok(fd)
            }
            None => reopen(&own_link(&pipe.both), flags).map(OwnedFd::from).map_err(fail),
        }
    }
}

/// A description open for reading and writing at once, with the pipe's capacity and content.
fn make(image: &Image, end: &PipeEnd) -> io::Result<Pipe> {
    let both = |path: &std::path::Path| {
        std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
    };
    let (mut pipe, read, write) = match &end.fifo {
        Some(path) => (both(path.as_path())?, None, None),
        None => {
            let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
            (both(&own_link(&read))?, Some(read), Some(write))
        }
    };
    if let Ok(capacity) = i64::try_from(end.capacity) {
        if fds::fcntl(pipe.as_fd(), libc::F_GETPIPE_SZ, 0)? != capacity && capacity > 0 {
            fds::fcntl(pipe.as_fd(), libc::F_SETPIPE_SZ, capacity)?;
        }
    }
    if let Some(content) = &end.content {
        let (mut at, size) = image.blob(content.id).ok_or_else(|| io::Error::other("its content is missing"))?;
        let mut left = size.min(content.size);
        let mut buf = vec![0u8; 64 * 1024];
        while left > 0 {
            let piece = &mut buf[..left.min(64 * 1024) as usize];
            image.file().read_exact_at(piece, at)?;
            pipe.write_all(piece)?;
            at += piece.len() as u64;
            left -= piece.len() as u64;
        }
    }
    Ok(Pipe { both: pipe, read, write })
}
