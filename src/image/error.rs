//! What can go wrong with an image.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Short for results of this room.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong with an image, reading or writing it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused something.
    #[error("cannot {step} {object}: {source}")]
    Io {
        /// What was tried: `open`, `read`, `write`, …
        step: &'static str,
        /// The file.
        object: String,
        /// The system's answer.
        source: io::Error,
    },
    /// ENOSPC, EDQUOT or EFBIG.
    #[error("no room to write {}: {source}", path.display())]
    NoSpace {
        /// The image that was being written.
        path: PathBuf,
        /// Which of the three.
        source: io::Error,
    },
    /// The same of the copy of an image that can't be read by position.
    #[error("no room for a copy of the image in {}: {source}", dir.display())]
    NoRoomToCopy {
        /// The directory for temporary files.
        dir: PathBuf,
        /// Which of the three.
        source: io::Error,
    },
    /// The partial file beside the target belongs to another writer, or nothing tells that it doesn't.
    #[error("{} is being written by another save", path.display())]
    Busy {
        /// The partial file.
        path: PathBuf,
    },
    /// The target of a save exists and is a directory, a device or the like.
    #[error("{} exists and is not a regular file", path.display())]
    NotAFile {
        /// The target.
        path: PathBuf,
    },
    /// The page source failed.
    #[error("cannot read memory at {addr:#x} of {part}: {source}")]
    Page {
        /// Name of the part.
        part: String,
        /// Address or offset of the first byte asked for.
        addr: u64,
        /// The source's answer.
        source: io::Error,
    },
    /// The content of a file or pipe could not be read.
    #[error("cannot read the content of saved file {id}: {source}")]
    Blob {
        /// Its number.
        id: u32,
        /// The system's answer; `UnexpectedEof`: it is shorter than it was said to be.
        source: io::Error,
    },
    /// The cancel flag was raised.
    #[error("cancelled")]
    Cancelled,
    /// The file ends too early.
    #[error("{image} is truncated: {what}")]
    Truncated {
        /// The image.
        image: String,
        /// Where it breaks off.
        what: String,
    },
    /// Something else altogether.
    #[error("{image} is not a checkpoint image: {what}")]
    NotAnImage {
        /// The file.
        image: String,
        /// Why we think so.
        what: String,
    },
    /// Bytes are not what the writer wrote.
    #[error("{image} is damaged or was altered: {member}")]
    Altered {
        /// The image.
        image: String,
        /// The member, or where in the file.
        member: String,
    },
    /// Of a format that is not ours yet.
    #[error("{image} has image format {found}, this program knows formats up to {known}")]
    Newer {
        /// The image.
        image: String,
        /// Its format.
        found: u64,
        /// [`crate::model::manifest::FORMAT`].
        known: u32,
    },
    /// It requires features that are not in [`crate::model::manifest::KNOWN_FEATURES`].
    #[error("{image} needs what this program does not know: {}", names.join(", "))]
    UnknownFeatures {
        /// The image.
        image: String,
        /// Names of the features.
        names: Vec<String>,
    },
    /// Undamaged, and yet what it says cannot be.
    #[error("{image} contradicts itself: {what}")]
    Inconsistent {
        /// The image.
        image: String,
        /// The contradiction.
        what: String,
    },
    /// More members or metadata than we are willing to read.
    #[error("{image} is beyond the limits of an image: {what}")]
    TooLarge {
        /// The image.
        image: String,
        /// Which limit.
        what: String,
    },
}

impl Error {
    pub(super) fn io(step: &'static str, object: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let object = object.into();
        move |source| Error::Io { step, object, source }
    }

    /// A failed write to `path`, with the lack of room told apart.
    pub(super) fn writing(path: &Path, step: &'static str, source: io::Error) -> Error {
        const NO_ROOM: [i32; 3] = [Errno::ENOSPC as i32, Errno::EDQUOT as i32, Errno::EFBIG as i32];
        match source.raw_os_error() {
            Some(errno) if NO_ROOM.contains(&errno) => Error::NoSpace { path: path.to_owned(), source },
            _ => Error::Io { step, object: path.display().to_string(), source },
        }
    }

    /// The same failure, where it is a copy that was being written.
    pub(super) fn into_copy(self) -> Error {
        match self {
            Error::NoSpace { path, source } => Error::NoRoomToCopy { dir: path, source },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lack_of_room_is_told_apart() {
        for errno in [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG] {
            let e = Error::writing(Path::new("/x"), "write", io::Error::from(errno));
            assert!(matches!(e, Error::NoSpace { .. }), "{e}");
        }
        let e = Error::writing(Path::new("/x"), "write", io::Error::from(Errno::EIO));
        assert!(matches!(e, Error::Io { step: "write", .. }), "{e}");
    }
}
