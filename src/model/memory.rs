//! An address space, and the memory and files that several of them share.

use serde::{Deserialize, Serialize};

use super::mempolicy::Placement;
use super::process::MmFields;
use super::{Addr, Hex, Name, Pid};

/// The address space of one process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Kernel's book-keeping addresses.
    pub fields: MmFields,
    /// Mappings in ascending order, without the kernel's own (`[vvar]`, `[vdso]`, `[vsyscall]`).
    pub vmas: Vec<Vma>,
    /// The kernel's own mappings.
    pub vdso: Option<Vdso>,
    /// Guard pages (MADV_GUARD_INSTALL), in ascending order, each range inside one mapping.
    #[serde(default)]
    pub guards: Vec<Span>,
    /// Mappings with a memory policy of their own, in ascending order.
    #[serde(default)]
    pub policies: Vec<Placement>,
    /// Set: mlockall(MCL_FUTURE); the value says whether only on fault.
    #[serde(default)]
    pub lock_future: Option<bool>,
    /// Contexts of io_setup(2), each with its ring among the mappings.
    #[serde(default)]
    pub aio: Vec<super::aio::Context>,
    /// Pages that are in the image once, as those of another process.
    #[serde(default)]
    pub inherits: Option<Inherits>,
    /// Protection keys that are allocated (pkey_alloc), in ascending order, each one of [`KEYS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<u32>,
}

/// Protection keys there may be on x86-64 beside 0, which all memory has.
pub const KEYS: std::ops::RangeInclusive<u32> = 1..=15;

/// Private pages that are the same as another process's at the same addresses: shared since a fork.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inherits {
    /// Whose; it is described before this one. It may have inherited them in its turn.
    pub from: Pid,
    /// In ascending order, each inside one private mapping.
    pub pages: Vec<Span>,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub start: Addr,
    /// One past the last.
    pub end: Addr,
}

/// One mapping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vma {
    /// First byte.
    pub start: Addr,
    /// One past the last.
    pub end: Addr,
    /// PROT_READ 1, PROT_WRITE 2, PROT_EXEC 4.
    pub prot: u32,
    /// What is behind it.
    pub backing: Backing,
    /// Set: it grows down when touched below (stacks).
    pub grows_down: bool,
    /// MAP_NORESERVE.
    pub no_reserve: bool,
    /// Set: mlock2; the value says whether only on fault (`lf`).
    pub locked: Option<bool>,
    /// mseal(2).
    pub sealed: bool,
    /// madvise(2) advice to give again, by number (MADV_DONTFORK 10, MADV_HUGEPAGE 14, …).
    pub advice: Vec<i32>,
    /// Bytes of its pages, if they are huge ones of hugetlbfs.
    #[serde(default)]
    pub huge: Option<u64>,
    /// Protection key; 0: none. One that is not allocated is the kernel's, of memory that may only be executed.
    pub pkey: u32,
    /// PR_SET_VMA_ANON_NAME.
    pub anon_name: Option<Name>,
}

/// What is behind a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backing {
    /// Private and anonymous.
    Anon,
    /// A file; pages that the program changed (private) are in the image.
    File {
        /// Index into [`SharedObjects::mapped`].
        file: u32,
        /// Bytes into it.
        offset: u64,
        /// MAP_SHARED.
        shared: bool,
        /// Shared and may be made writable: the file was open for writing when it was mapped.
        may_write: bool,
    },
    /// Shared and anonymous.
    SharedAnon {
        /// Index into [`SharedObjects::anon`].
        object: u32,
        /// Bytes into it.
        offset: u64,
        /// It can't be made writable: a System V segment attached with SHM_RDONLY.
        #[serde(default)]
        read_only: bool,
    },
    /// The ring of a context of io_setup(2).
    Aio,
    /// Memory that an io_uring shares with the program.
    Ring {
        /// Index of the ring in [`super::Checkpoint::files`].
        file: u32,
        /// One of [`super::uring::OFFSETS`].
        offset: u64,
    },
}

/// `[vdso]` with its `[vvar]` pages, which only move as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vdso {
    /// First byte of the vvar pages.
    pub vvar_start: Addr,
    /// First byte of the code, right after them.
    pub start: Addr,
    /// One past its last byte.
    pub end: Addr,
    /// The code itself: compared at resume, and kept where the kernel's is another.
    pub code: Hex,
}

/// Memory and files that descriptors and mappings of several processes refer to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SharedObjects {
    /// Shared anonymous memory, and that of System V segments.
    pub anon: Vec<SharedAnon>,
    /// Files that memory is mapped from or that are executed.
    pub mapped: Vec<MappedFile>,
    /// Which of the contents are those of memory files.
    pub memfds: Vec<super::memfd::Memfd>,
    /// Deleted directories and symbolic links.
    #[serde(default)]
    pub nameless: Vec<super::nameless::Nameless>,
    /// Which of the contents are without the holes of their files.
    #[serde(default)]
    pub sparse: Vec<super::sparse::Sparse>,
    /// POSIX message queues that processes have open.
    #[serde(default)]
    pub mqueues: Vec<super::mqueue::Queue>,
    /// Pseudo-terminals whose master is in the tree, or closed.
    #[serde(default)]
    pub ptys: Vec<super::pty::Pty>,
    /// System V objects.
    #[serde(default)]
    pub ipc: super::ipc::Ipc,
}

/// A piece of shared anonymous memory (`mmap(MAP_SHARED|MAP_ANONYMOUS)`), or the content of a System V segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedAnon {
    /// Bytes, page-aligned: the furthest byte that any process maps; of a segment all of it.
    pub size: u64,
}

/// A file that memory is mapped from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MappedFile {
    /// Where it was.
    pub path: Name,
    /// What it was like.
    pub stamp: FileStamp,
    /// Set for a deleted file: its content is in the image under this file id ([`super::files::Content`]).
    pub content: Option<super::files::Content>,
    /// Set for a shared mapping of a file that still had its name if its content was asked for.
    #[serde(default)]
    pub saved: Option<super::files::Saved>,
    /// Set for a file that still had its name, that is executed or mapped and not written to, if it was to be embedded:
    /// where the resuming host's is missing or another, memory is mapped from this one.
    #[serde(default)]
    pub embedded: Option<super::files::Content>,
}

/// What a file was like when it was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// Bytes.
    pub size: u64,
    /// Last change of its content, nanoseconds since 1970.
    pub mtime: i64,
    /// GNU build id, of ELF files that have one.
    pub build_id: Option<Hex>,
}

impl Vma {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// Whether it covers nothing, as only a damaged image has it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
