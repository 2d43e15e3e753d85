//! io_uring(7).

use serde::{Deserialize, Serialize};

use super::files::Content;

use super::thread::Sched;
use super::{Addr, Hex, Pid};

/// A ring with nothing under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uring {
    /// IORING_SETUP_* bits that decide how it works: [`KNOWN`].
    pub flags: u32,
    /// The only thread that may use it, with SINGLE_ISSUER.
    #[serde(default)]
    pub issuer: Option<Pid>,
    /// Who takes its requests, with SQPOLL.
    #[serde(default)]
    pub poller: Option<Poller>,
    /// Registered files, by their places: indices into [`super::Checkpoint::files`]; none: the place is free.
    #[serde(default)]
    pub files: Vec<Option<u32>>,
    /// Registered buffers of the first process that has it, by their places: address and length; none: the place is free.
    #[serde(default)]
    pub buffers: Vec<Option<(Addr, u32)>>,
    /// Numbers under which credentials are registered (IORING_REGISTER_PERSONALITY), ascending: those of the threads that
    /// have the ring.
    #[serde(default)]
    pub credentials: Vec<u16>,
    /// The eventfd that counts completions (IORING_REGISTER_EVENTFD): index into [`super::Checkpoint::files`].
    #[serde(default)]
    pub eventfd: Option<u32>,
    /// How it waits for the network, if it does so busily.
    #[serde(default)]
    pub napi: Option<Napi>,
    /// Places for requests, a power of two.
    pub sq_entries: u32,
    /// Places for completions, a power of two, no less than those for requests.
    pub cq_entries: u32,
    /// Requests that the kernel has taken so far, modulo 2^32.
    pub sq_head: u32,
    /// Completions that it has reported so far, modulo 2^32.
    pub cq_tail: u32,
    /// The memory that it shares with the program: [`Uring::ring_len`] bytes of the ring, then [`Uring::sqes_len`].
    pub content: Content,
}

/// Busy polling of the network (IORING_REGISTER_NAPI), with devices found by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Napi {
    /// For how many microseconds.
    pub timeout: u32,
    /// Whether interrupts are put off for it.
    pub prefer: bool,
}

/// A thread of the kernel in a process of the program that takes requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poller {
    /// Rings with the same number have the same thread (IORING_SETUP_ATTACH_WQ).
    pub number: u32,
    /// A thread of that process that has its credentials.
    pub like: Pid,
    /// The processors that it may run on, as sched_getaffinity(2) tells; one only with IORING_SETUP_SQ_AFF.
    pub affinity: Hex,
    /// How it is scheduled.
    pub sched: Sched,
    /// Milliseconds without requests until it sleeps; 0: as the kernel chooses (`sq_thread_idle`).
    pub idle: u32,
}

/// IORING_SETUP_IOPOLL.
pub const IOPOLL: u32 = 1;
/// IORING_SETUP_SQPOLL.
pub const SQPOLL: u32 = 1 << 1;
/// IORING_SETUP_R_DISABLED: nothing has been asked of it yet.
pub const DISABLED: u32 = 1 << 6;
/// IORING_SETUP_SQE128: requests have twice the size.
pub const WIDE_REQUESTS: u32 = 1 << 10;
/// IORING_SETUP_CQE32: completions have twice the size.
pub const WIDE_COMPLETIONS: u32 = 1 << 11;
/// IORING_SETUP_SINGLE_ISSUER.
pub const SINGLE_ISSUER: u32 = 1 << 12;
/// IORING_SETUP_DEFER_TASKRUN, of rings with a single issuer.
pub const DEFER_TASKRUN: u32 = 1 << 13;
/// IORING_SETUP_NO_SQARRAY.
pub const NO_SQARRAY: u32 = 1 << 16;
/// All that there may be.
pub const KNOWN: u32 =
    IOPOLL | SQPOLL | DISABLED | WIDE_REQUESTS | WIDE_COMPLETIONS | SINGLE_ISSUER | DEFER_TASKRUN | NO_SQARRAY;
/// Where mappings of a ring begin: the ring, the same again, its requests (include/uapi/linux/io_uring.h).
pub const OFFSETS: [u64; 3] = [0, 0x800_0000, 0x1000_0000];
/// Rings that a thread can register (IO_RINGFD_REG_MAX).
pub const MOST_RINGS: u32 = 16;
/// Places that there may be at most for registered files and buffers: less than the kernel gives, but one call of a resume
/// registers all of them.
pub const MOST_REGISTERED: (usize, usize) = (1 << 15, 1 << 13);
/// What the kernel gives at most (IORING_MAX_ENTRIES, IORING_MAX_CQ_ENTRIES).
pub const MOST: (u32, u32) = (32768, 65536);

/// The 32-bit words that a ring begins with (struct io_rings in include/linux/io_uring_types.h). All kernels have them
/// in these places; those that make a ring tell, and a resume looks.
pub mod word {
    /// Requests taken by the kernel.
    pub const SQ_HEAD: usize = 0;
    /// Requests made by the program.
    pub const SQ_TAIL: usize = 1;
    /// Completions taken by the program.
    pub const CQ_HEAD: usize = 2;
    /// Completions reported by the kernel.
    pub const CQ_TAIL: usize = 3;
    /// Places for requests, less 1.
    pub const SQ_MASK: usize = 4;
    /// Places for completions, less 1.
    pub const CQ_MASK: usize = 5;
    /// Places for requests.
    pub const SQ_ENTRIES: usize = 6;
    /// Places for completions.
    pub const CQ_ENTRIES: usize = 7;
    /// Requests passed over because their index could not be.
    pub const SQ_DROPPED: usize = 8;
    /// The kernel's flags for the program.
    pub const SQ_FLAGS: usize = 9;
    /// The program's flags for the kernel.
    pub const CQ_FLAGS: usize = 10;
    /// In the kernel's flags (IORING_SQ_NEED_WAKEUP): the thread that takes requests sleeps.
    pub const ASLEEP: u32 = 1;
    /// Completions lost.
    pub const CQ_OVERFLOW: usize = 11;
    /// The first completion.
    pub const CQES: usize = 16;
}

const CQE: u64 = 16;
const SQE: u64 = 64;

impl Uring {
    /// Byte at which the indices of requests begin, if it has them.
    pub fn array(cq_entries: u32, flags: u32) -> u64 {
        let ordinary = word::CQES as u64 * 4 + u64::from(cq_entries) * CQE;
        // The kernel doubles what comes before the completions as well (io_uring/io_uring.c, `rings_size`).
        let bytes = if flags & WIDE_COMPLETIONS != 0 { ordinary * 2 } else { ordinary };
        bytes.next_multiple_of(64)
    }

    /// Bytes of the ring.
    pub fn ring_len(&self) -> u64 {
        let array = Uring::array(self.cq_entries, self.flags);
        if self.flags & NO_SQARRAY != 0 { array } else { array + u64::from(self.sq_entries) * 4 }
    }

    /// Bytes of its requests.
    pub fn sqes_len(&self) -> u64 {
        u64::from(self.sq_entries) * self.sqe_len()
    }

    /// Bytes of each request.
    pub fn sqe_len(&self) -> u64 {
        if self.flags & WIDE_REQUESTS != 0 { SQE * 2 } else { SQE }
    }

    /// Whether entries have twice the size ([`super::manifest::WIDE_RINGS`]).
    pub fn is_wide(&self) -> bool {
        self.flags & (WIDE_REQUESTS | WIDE_COMPLETIONS) != 0
    }
}
