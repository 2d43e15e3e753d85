//! Starting to write a file's dirty pages to its device before anybody waits for them.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::check;

/// Begins to write the dirty pages among `len` bytes from `offset` on (sync_file_range(2)); 0 means to the end. Waits
/// for none of them, but may block where the device's queue is full.
///
/// # Errors
/// EINVAL for a range beyond 2^63, ESPIPE for what is no file, EIO, ENOSPC.
pub fn start(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let (offset, len) = (offset.try_into().map_err(invalid)?, len.try_into().map_err(invalid)?);
    // SAFETY: no pointers, and the descriptor stays open as long as `file` is borrowed.
    let ret = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    check(ret.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_can_and_pipes_cannot() {
        let file = tempfile::tempfile().unwrap();
        start(&file, 0, 4096).unwrap();
        assert_eq!(start(&file, u64::MAX, 1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let (_reader, writer) = io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(writer));
        assert_eq!(start(&pipe, 0, 4096).unwrap_err().raw_os_error(), Some(libc::ESPIPE));
    }
}
