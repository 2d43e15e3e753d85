//! Memory files (memfd_create).

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::model::Name;
use crate::model::memfd::Memfd;
use crate::sys::fds;

use super::hugetlb;

const F_SEAL_EXEC: u32 = 0x20;
const MFD_NOEXEC_SEAL: u32 = 8;
const MFD_EXEC: u32 = 0x10;

/// A new one, open to seals. `path` is the kernel's name for it.
pub fn make(memfd: &Memfd, path: &Name) -> io::Result<File> {
    let name = path.0.strip_prefix(b"/memfd:").unwrap_or(&path.0);
    let name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let wanted = if memfd.seals & F_SEAL_EXEC != 0 { MFD_NOEXEC_SEAL } else { MFD_EXEC };
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let flags = flags | MFdFlags::from_bits_retain(memfd.huge.map_or(0, hugetlb::memfd_flags));
    let made = match memfd_create(name.as_c_str(), flags | MFdFlags::from_bits_retain(wanted)) {
        // Before Linux 6.3 there was nothing to say.
        Err(nix::Error::EINVAL) => memfd_create(name.as_c_str(), flags),
        made => made,
    };
    Ok(made?.into())
}

/// Sets its seals, the one against more seals among them.
pub fn seal(file: &File, seals: u32) -> io::Result<()> {
    fds::fcntl(file.as_fd(), libc::F_ADD_SEALS, i64::from(seals)).map(drop)
}
