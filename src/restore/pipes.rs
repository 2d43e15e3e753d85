//! Pipes and FIFOs, with what is in them.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::image::Image;
use crate::model::Name;
use crate::model::fd::Kind;
use crate::model::pipes::{Fifo, Piece, PipeEnd};
use crate::sys::fds;

use super::Error;
use super::fd::reopen;
use super::files::{own_link, without_name};
use super::view::View;

const O_LARGEFILE: u32 = 0o100_000;
const O_NONBLOCK: u32 = libc::O_NONBLOCK as u32;

/// All ends of all pipes of an image, by index of their open file.
pub fn open_all(image: &Image, view: &View) -> Result<HashMap<usize, OwnedFd>, Error> {
    let mut pipes: BTreeMap<u32, Vec<(usize, &PipeEnd, u32)>> = BTreeMap::new();
    for (index, file) in image.checkpoint().files.iter().enumerate() {
        if let Kind::Pipe(end) = &file.kind {
            pipes.entry(end.pipe).or_default().push((index, end, file.flags));
        }
    }
    let mut pipes: Vec<_> = pipes.into_values().collect();
    // Large ones can only be had while the user holds few: the small ones beyond a user's limit came last.
    pipes.sort_by_key(|ends| std::cmp::Reverse(ends.first().map(|(_, end, _)| end.capacity)));
    let mut out = HashMap::new();
    for ends in pipes {
        let Some((_, end, _)) = ends.first() else { continue };
        open_ends(image, view, &ends, &mut out).map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM | libc::ENFILE) => Error::NotPermitted {
                what: format!("pipes of {} bytes and more: {source}", end.capacity),
                hint: "this user has too many pipes: raise /proc/sys/fs/pipe-max-size, pipe-user-pages-soft or \
                       pipe-user-pages-hard, or end other programs"
                    .to_owned(),
            },
            _ => Error::file("making", end.fifo.as_ref().map_or(&Name::from("pipe"), |f| &f.path), source),
        })?;
    }
    Ok(out)
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

/// Makes a pipe and opens its ends. Nothing else of it stays open, so that the other side is closed where it was.
fn open_ends(
    image: &Image,
    view: &View,
    ends: &[(usize, &PipeEnd, u32)],
    out: &mut HashMap<usize, OwnedFd>,
) -> io::Result<()> {
    let Some((_, any, _)) = ends.first() else { return Ok(()) };
    let mut pipe = make(image, view, any)?;
    for (index, _, flags) in ends.iter().filter(|(_, end, _)| !end.quiet) {
        out.insert(*index, pipe.open(*flags)?);
    }
    // A reader that comes when there is no writer sees no hang-up until there was one.
    let keeper = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(own_link(&pipe.both))?;
    drop(pipe);
    for (index, _, flags) in ends.iter().filter(|(_, end, _)| end.quiet) {
        let end = reopen(&own_link(&keeper), flags & !(libc::O_DIRECT as u32) | O_NONBLOCK)?;
        fds::fcntl(end.as_fd(), libc::F_SETFL, i64::from(*flags))?;
        out.insert(*index, end.into());
    }
    Ok(())
}

impl Pipe {
    /// An end with the program's flags.
    fn open(&mut self, flags: u32) -> io::Result<OwnedFd> {
        // Through /proc, an own description of the same pipe, as the program's was. Opening does not wait: this
        // process holds both sides.
        let original = match flags as i32 & fds::ACCESS {
            _ if flags & O_LARGEFILE != 0 => None,
            libc::O_RDONLY => self.read.take(),
            libc::O_WRONLY => self.write.take(),
            _ => None,
        };
        let end = match original {
            Some(fd) => fd,
            // open(2) knows no packets.
            None => reopen(&own_link(&self.both), flags & !(libc::O_DIRECT as u32))?.into(),
        };
        fds::fcntl(end.as_fd(), libc::F_SETFL, i64::from(flags))?;
        Ok(end)
    }
}

/// A pipe with its capacity and content.
fn make(image: &Image, view: &View, end: &PipeEnd) -> io::Result<Pipe> {
    let pipe = match &end.fifo {
        Some(Fifo { path, deleted: None }) => {
            Pipe { both: open_both(&view.followed(path.as_path()))?, read: None, write: None }
        }
        Some(Fifo { path, deleted: Some(mode) }) => {
            let both = without_name(path.as_path(), view, |p| {
                nix::unistd::mkfifo(p, Mode::S_IRUSR | Mode::S_IWUSR)?;
                open_both(p)
            })?;
            nix::sys::stat::fchmod(&both, Mode::from_bits_truncate(*mode))?;
            Pipe { both, read: None, write: None }
        }
        None => {
            let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            Pipe { both: open_both(&own_link(&read))?, read: Some(read), write: Some(write) }
        }
    };
    // What comes by splice(2) may be in pieces larger than a page, and so more than the capacity.
    let capacity = end.capacity.max(end.content.map_or(0, |content| content.size));
    if let Ok(capacity) = i64::try_from(capacity) {
        if fds::fcntl(pipe.both.as_fd(), libc::F_GETPIPE_SZ, 0)? != capacity && capacity > 0 {
            fds::fcntl(pipe.both.as_fd(), libc::F_SETPIPE_SZ, capacity)?;
        }
    }
    if let Some(content) = &end.content {
        fill(image, &pipe.both, content.id, content.size, &end.pieces)?;
    }
    Ok(pipe)
}

fn open_both(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Writes the content, cut as it was.
fn fill(image: &Image, to: &File, id: u32, size: u64, pieces: &[Piece]) -> io::Result<()> {
    let (mut at, _) = image.blob(id).ok_or_else(|| io::Error::other("its content is missing"))?;
    if pieces.is_empty() {
        return copy(image, at, size, |bytes| { to }.write_all(bytes));
    }
    // By way of other pipes: a packet is lost among the bytes of a stream if it fits behind them in their page
    // (fs/pipe.c, pipe_write), but not behind what tee(2) has copied.
    let pipe = |flags| nix::unistd::pipe2(flags | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK);
    let (streams, packets) = (pipe(OFlag::empty())?, pipe(OFlag::O_DIRECT)?);
    for piece in pieces {
        let (read, write) = if piece.packet { &packets } else { &streams };
        copy(image, at, piece.len.into(), |bytes| {
            if nix::unistd::write(write, bytes)? != bytes.len()
                || fds::tee(read.as_fd(), to.as_fd(), bytes.len())? != bytes.len()
                || nix::unistd::read(read.as_fd(), &mut vec![0; bytes.len()])? != bytes.len()
            {
                return Err(io::Error::other("the content does not fit into the pipe"));
            }
            Ok(())
        })?;
        at += u64::from(piece.len);
    }
    Ok(())
}

/// Hands on the bytes of the image from `at` on, a page or less at a time.
fn copy(image: &Image, mut at: u64, size: u64, mut to: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut page = [0u8; 4096];
    let mut left = size;
    while left > 0 {
        let piece = &mut page[..left.min(4096) as usize];
        image.file().read_exact_at(piece, at)?;
        to(piece)?;
        at += piece.len() as u64;
        left -= piece.len() as u64;
    }
    Ok(())
}
