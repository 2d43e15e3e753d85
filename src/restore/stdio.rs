//! Standard streams: what stands in for them.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};

use crate::model::Checkpoint;
use crate::model::fd::Kind;

use super::{Error, Options, Stdio};

/// The descriptions that a wish on the command line replaces, though the image has them, and the role of each.
pub fn overrides(checkpoint: &Checkpoint, options: &Options) -> HashMap<u32, i32> {
    let root = checkpoint.processes.iter().find(|p| p.pid == checkpoint.tree.root);
    let mut out = HashMap::new();
    for d in root.map_or(&[][..], |p| &p.fds) {
        let wished = usize::try_from(d.fd).ok().and_then(|fd| options.stdio.get(fd));
        let from_image = checkpoint.files.get(d.file as usize).is_some_and(|f| !matches!(f.kind, Kind::Stdio(_)));
        if from_image && wished.is_some_and(|w| *w != Stdio::Image) {
            // The lowest number counts for a description that serves as two streams.
            out.entry(d.file).or_insert(d.fd);
        }
    }
    out
}

/// The stream that stands in for `role` (0, 1 or 2).
pub fn open(role: i32, wishes: &[Stdio; 3], flags: u32) -> Result<OwnedFd, Error> {
    let wish = usize::try_from(role).ok().and_then(|r| wishes.get(r));
    if let Some(Stdio::File(path)) = wish {
        let access = flags as i32 & libc::O_ACCMODE;
        let mut options = OpenOptions::new();
        match role {
            0 => options.read(true).write(access == libc::O_RDWR),
            _ => options.append(true).create(true).read(access == libc::O_RDWR),
        };
        return options.open(path).map(OwnedFd::from).map_err(|e| Error::file("opening", &path.as_path().into(), e));
    }
    let clone = match role {
        0 => std::io::stdin().as_fd().try_clone_to_owned(),
        1 => std::io::stdout().as_fd().try_clone_to_owned(),
        _ => std::io::stderr().as_fd().try_clone_to_owned(),
    };
    // A stream we were started without is /dev/null for the program.
    clone
        .or_else(|_| OpenOptions::new().read(true).write(true).open("/dev/null").map(OwnedFd::from))
        .map_err(|e| Error::step("sharing a standard stream", 0, e))
}
