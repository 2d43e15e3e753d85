//! A small checkpoint with something of every kind in it, for the tests of this room.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::model::credentials::Credentials;
use crate::model::fd::{Descriptor, Kind, OpenFile};
use crate::model::files::{Content, Regular};
use crate::model::ipc::Ipc;
use crate::model::manifest::{Clocks, Cpu, FORMAT, Host, Manifest};
use crate::model::memory::{Backing, FileStamp, MappedFile, Memory, SharedAnon, SharedObjects, Vma};
use crate::model::pipes::{Piece, PipeEnd};
use crate::model::process::{Exe, MmFields, Process};
use crate::model::switches::{ProcessSwitches, ThreadSwitches};
use crate::model::thread::{AltStack, Regs, Sched, Thread};
use crate::model::timers::IntervalTimer;
use crate::model::tree::{Member as Relative, Shares, State, Tree};
use crate::model::{Addr, Area, Checkpoint, Hex, Name, Nanos, Pid};

pub(super) const BASE: u64 = 0x5555_0000_0000;
pub(super) static NEVER: AtomicBool = AtomicBool::new(false);

/// A root with one living and one dead child; a deleted file with content, a pipe with content, shared memory.
pub fn checkpoint() -> Checkpoint {
    let stamp = FileStamp { size: 10, mtime: 5, build_id: Some(Hex(vec![1, 2, 3])) };
    let odd = Name(b"/tmp/\xff\xfe\n x (deleted)".to_vec());
    let member = |pid, ppid, state| Relative {
        pid: Pid(pid),
        ppid: Pid(ppid),
        pgid: Pid(100),
        sid: Pid(50),
        comm: Name(b"a\xc3".to_vec()),
        state,
        exit_signal: 17,
        shares: Shares::default(),
    };
    let regular = Regular {
        path: odd.clone(),
        offset: 3,
        stamp: stamp.clone(),
        mode: 0o644,
        content: Some(Content { id: 0, size: 5 }),
        saved: None,
        temporary: false,
    };
    let pipe = PipeEnd {
        pipe: 0,
        fifo: None,
        capacity: 65536,
        content: Some(Content { id: 7, size: 3 }),
        pieces: vec![Piece { len: 1, packet: false }, Piece { len: 2, packet: true }],
        quiet: false,
        outside: false,
    };
    Checkpoint {
        manifest: Manifest {
            schema: "ckpt.image/1".into(),
            format: FORMAT,
            writer: "ckpt test".into(),
            requires: vec![],
            created: "2026-01-01T00:00:00Z".into(),
            name: "sample".into(),
            root: Pid(100),
            host: Host { name: "host".into(), kernel: "6.18".into(), machine: "x86_64".into() },
            cpu: Cpu { model: "cpu".into(), flags: vec!["sse2".into()], xfeatures: 7 },
            clocks: Clocks { realtime: Nanos(1_767_225_600_000_000_000), monotonic: Nanos(1), boottime: Nanos(2) },
            page_size: 4096,
        },
        tree: Tree {
            root: Pid(100),
            members: vec![
                member(100, 50, State::Alive),
                member(101, 100, State::Stopped { signal: 19, told: true }),
                member(102, 100, State::Zombie { status: 0 }),
            ],
            reaper: Pid(1),
            outside: vec![Pid(50)],
            login_uid: Some(1000),
        },
        processes: vec![process(100, &odd), process(101, &odd)],
        files: vec![
            OpenFile { flags: 2, owner: None, kind: Kind::Regular(regular) },
            OpenFile { flags: 0, owner: None, kind: Kind::Pipe(pipe) },
        ],
        shared: SharedObjects {
            anon: vec![SharedAnon { size: 0x4000 }],
            mapped: vec![MappedFile { path: odd, stamp, content: None, saved: None, embedded: None }],
            memfds: vec![],
            nameless: vec![],
            sparse: vec![],
            mqueues: vec![],
            ptys: vec![],
            ipc: Ipc::default(),
        },
    }
}

fn process(pid: i32, cwd: &Name) -> Process {
    let vma = |start: u64, pages: u64, backing| Vma {
        start: Addr(start),
        end: Addr(start + pages * PAGE),
        prot: 3,
        backing,
        grows_down: false,
        no_reserve: false,
        locked: None,
        sealed: false,
        advice: vec![],
        huge: None,
        pkey: 0,
        anon_name: None,
    };
    let file = Backing::File { file: 0, offset: 0, shared: false, may_write: false };
    Process {
        pid: Pid(pid),
        exe: Exe { path: "/bin/true".into(), file: 0 },
        cwd: cwd.clone(),
        root: "/".into(),
        deleted: crate::model::nameless::Directories::default(),
        umask: 0o22,
        limits: vec![],
        dumpable: 1,
        switches: ProcessSwitches::default(),
        cgroup: "0::/\n".into(),
        personality: 0,
        oom_score_adj: 0,
        coredump_filter: 0x33,
        filters: vec![],
        ended_leader: None,
        memory: Memory {
            fields: MmFields {
                start_code: Addr(1),
                end_code: Addr(2),
                start_data: Addr(3),
                end_data: Addr(4),
                start_brk: Addr(5),
                brk: Addr(6),
                start_stack: Addr(7),
                arg_start: Addr(8),
                arg_end: Addr(9),
                env_start: Addr(10),
                env_end: Addr(11),
                auxv: Hex(vec![0; 32]),
            },
            vmas: vec![
                vma(BASE, 8, file),
                vma(BASE + 8 * PAGE, 8, Backing::Anon),
                vma(BASE + 32 * PAGE, 4, Backing::SharedAnon { object: 0, offset: 0, read_only: false }),
                vma(BASE + (1 << 32), 1 << 16, Backing::Anon),
            ],
            vdso: None,
            guards: vec![],
            keys: vec![],
            policies: vec![],
            lock_future: None,
            aio: vec![],
            inherits: None,
        },
        actions: vec![],
        pending: vec![],
        itimers: [IntervalTimer::default(); 3],
        timers: vec![],
        fds: vec![Descriptor { fd: 3, cloexec: true, file: 0 }, Descriptor { fd: 4, cloexec: false, file: 1 }],
        locks: vec![],
        undo: vec![],
        threads: vec![Thread {
            tid: Pid(pid),
            comm: "a".into(),
            regs: Regs { rip: u64::MAX, ..Regs::default() },
            xstate: Area(vec![0xab; 64]),
            sigmask: 0,
            pending: vec![],
            altstack: AltStack::default(),
            robust_list: (Addr(0), 0),
            clear_child_tid: Addr(0),
            rseq: None,
            sched: Sched { policy: 0, flags: 0, nice: 0, priority: 0, deadline: None, slice: None, clamps: None },
            affinity: Hex(vec![3]),
            io_priority: 0,
            left: Some(Nanos(5_000_000_000)),
            timer_slack: 50000,
            credentials: Credentials {
                uid: [0; 4],
                gid: [0; 4],
                groups: vec![],
                caps: [0; 5],
                securebits: 0,
                no_new_privs: false,
            },
            pdeath_signal: 0,
            directories: None,
            table: None,
            rings: vec![],
            mempolicy: None,
            switches: ThreadSwitches::default(),
            seccomp: None,
        }],
    }
}

/// Some pages of each part.
pub(super) fn parts() -> Vec<Part> {
    vec![
        Part {
            name: "100".into(),
            runs: vec![
                Run { start: BASE + PAGE, len: PAGE },
                Run { start: BASE + 3 * PAGE, len: 2 * PAGE },
                Run { start: BASE + 8 * PAGE, len: PAGE },
            ],
        },
        Part { name: "101".into(), runs: vec![] },
        Part { name: "anon-0".into(), runs: vec![Run { start: PAGE, len: PAGE }] },
    ]
}

pub(super) fn blobs() -> Vec<Blob> {
    vec![
        Blob { id: 0, size: 5, source: BlobSource::Bytes(b"hello".to_vec().into()) },
        Blob { id: 7, size: 3, source: BlobSource::Bytes(b"abc".to_vec().into()) },
    ]
}

/// The byte at an address of a part, a different one for every place.
pub(super) fn byte(part: usize, addr: u64) -> u8 {
    (addr ^ (addr >> 8) ^ (addr >> 16)) as u8 ^ (part as u8).wrapping_mul(37)
}

/// Gives [`byte`]s.
pub(super) struct Pattern;

impl PageSource for Pattern {
    fn fill(&self, part: usize, addr: u64, buf: &mut [u8]) -> io::Result<()> {
        for (b, addr) in buf.iter_mut().zip(addr..) {
            *b = byte(part, addr);
        }
        Ok(())
    }
}

/// Writes the sample to a file, with `parts` as its memory.
pub(super) fn write(to: &Path, parts: &[Part]) -> Result<u64> {
    let mut writer = Writer::create(Sink::File(to.to_owned()))?;
    writer.write(&checkpoint(), parts, &Pattern, &blobs(), &NEVER)?;
    writer.commit()
}
