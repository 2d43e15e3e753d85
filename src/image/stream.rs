//! A stream that an image is written to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};

use super::crew::Crew;
use super::error::{Error, Result};

/// Its name in messages.
pub(super) const NAME: &str = "the stream";

/// How long a full pipe is waited for before the cancel flag is looked at again, in milliseconds.
const LOOK_AGAIN: u8 = 50;

/// Written in order. One that nobody reads does not keep a save from being given up.
#[derive(Debug)]
pub(super) struct Stream(File);

impl Stream {
    /// A pipe is opened anew, so that only our own description of it becomes non-blocking; where that can't be (it is
    /// another user's), and for anything else, writing may block.
    pub(super) fn new(file: File) -> Stream {
        let anew = || {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
        };
        let pipe = file.metadata().is_ok_and(|meta| meta.file_type().is_fifo());
        match pipe.then(anew) {
            Some(Ok(own)) => Stream(own),
            _ => Stream(file),
        }
    }

    /// Writes all of it, unless the crew is to stop.
    pub(super) fn write(&self, mut bytes: &[u8], crew: &Crew<'_>) -> Result<()> {
        let fail = |e| Error::writing(Path::new(NAME), "write", e);
        while !bytes.is_empty() {
            match (&self.0).write(bytes) {
                Ok(0) => return Err(fail(io::ErrorKind::WriteZero.into())),
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => crew.go_on()?,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    crew.go_on()?;
                    // A failure to wait shows in the next write.
                    let _ = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)], LOOK_AGAIN);
                }
                Err(e) => return Err(fail(e)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_full_pipe_is_given_up_and_its_flags_are_left_alone() {
        let (mut reader, writer) = io::pipe().unwrap();
        let given = File::from(OwnedFd::from(writer));
        let stream = Stream::new(given.try_clone().unwrap());
        let flags = nix::fcntl::fcntl(&given, nix::fcntl::FcntlArg::F_GETFL).unwrap();
        assert!(!OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK));
        let cancel = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| stream.write(&[7; 1 << 20], &Crew::new(&cancel)));
            reader.read_exact(&mut [0; 100]).unwrap();
            cancel.store(true, Ordering::Relaxed);
            assert!(matches!(writing.join().unwrap(), Err(Error::Cancelled)));
        });
    }
}
