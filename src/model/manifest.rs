//! Who wrote an image, when, on what, and what a reader has to know.

use serde::{Deserialize, Serialize};

use super::{Nanos, Pid};

/// The image format this program writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// `requires` names that this program understands; an image that names another is refused, with that name.
pub const KNOWN_FEATURES: &[&str] = &[
    INHERITED_PAGES,
    SPARSE_FILES,
    UNIX_SOCKETS,
    HUGE_PAGES,
    DELETED_DIRECTORIES,
    URGENT_DATA,
    INOTIFY_EVENTS,
    EARLY_DATA,
    PACKET_SOCKETS,
    WIDE_RINGS,
    EARLY_MESSAGES,
    PROTECTION_KEYS,
];

/// In `requires` where a process has [`super::memory::Memory::inherits`].
pub const INHERITED_PAGES: &str = "inherited-pages";

/// In `requires` where a UNIX socket has more than a socketpair: a name, somebody outside, connections that wait, messages
/// with a sender's name or with descriptors.
pub const UNIX_SOCKETS: &str = "unix-sockets";

/// In `requires` where a mapping or a memory file has huge pages.
pub const HUGE_PAGES: &str = "huge-pages";

/// In `requires` where there is something in [`super::memory::SharedObjects::sparse`].
pub const SPARSE_FILES: &str = "sparse-files";

/// In `requires` where there is something in [`super::memory::SharedObjects::nameless`]: another directory may have the
/// name of a deleted one.
pub const DELETED_DIRECTORIES: &str = "deleted-directories";

/// In `requires` where a socket has [`super::tcp::TcpSocket::urgent`], [`super::unix::UnixSocket::urgent`] or
/// [`super::unix::UnixSocket::marks`].
pub const URGENT_DATA: &str = "urgent-data";

/// In `requires` where there is something in [`super::inotify::Inotify::events`].
pub const INOTIFY_EVENTS: &str = "inotify-events";

/// In `requires` where a TCP socket has [`super::tcp::TcpSocket::early`].
pub const EARLY_DATA: &str = "early-data";

/// In `requires` where a process has [`super::memory::Memory::keys`].
pub const PROTECTION_KEYS: &str = "protection-keys";

/// In `requires` where a UNIX socket has [`super::unix::UnixSocket::early`] or [`super::unix::Listening::gone`].
pub const EARLY_MESSAGES: &str = "early-messages";

/// In `requires` where there is a socket of [`super::sockets::Family::Packet`].
pub const PACKET_SOCKETS: &str = "packet-sockets";

/// In `requires` where a ring of io_uring has entries of twice the size ([`super::uring::Uring::is_wide`]).
pub const WIDE_RINGS: &str = "wide-rings";

/// First member of an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `ckpt.image/1`.
    pub schema: String,
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// Name and version of the program that wrote it.
    pub writer: String,
    /// Features a reader must know to resume from this image.
    pub requires: Vec<String>,
    /// When it was taken (RFC 3339, UTC).
    pub created: String,
    /// Name of the job, or of the program's command.
    pub name: String,
    /// The root of the saved tree.
    pub root: Pid,
    /// The machine it was taken on.
    pub host: Host,
    /// Its processor.
    pub cpu: Cpu,
    /// Its clocks at the moment the tree stood still.
    pub clocks: Clocks,
    /// Bytes in a page; 4096.
    pub page_size: u64,
}

/// The machine an image was taken on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Node name.
    pub name: String,
    /// Kernel release.
    pub kernel: String,
    /// `x86_64`.
    pub machine: String,
}

/// What of the processor a program may have come to rely on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Model name, for people.
    pub model: String,
    /// `flags` of /proc/cpuinfo.
    pub flags: Vec<String>,
    /// XCR0: the state components an xsave area of this host may hold.
    pub xfeatures: u64,
}

/// Clocks as the program saw them (in its own time namespace) when the tree stood still.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Clocks {
    /// `CLOCK_REALTIME`.
    pub realtime: Nanos,
    /// `CLOCK_MONOTONIC`.
    pub monotonic: Nanos,
    /// `CLOCK_BOOTTIME`.
    pub boottime: Nanos,
}
