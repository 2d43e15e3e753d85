//! Many system calls in many threads at once.
//!
//! A single remote call costs two stops of its thread ([`super::remote`]). Here every thread gets a table of calls in the
//! scratch memory, which some instructions of ours there run in one go ([`stub::calls`]); all threads run at the same
//! time. They heal themselves like single calls: behind its table each thread meets a signal frame with its true state.
//!
//! The last call of a table sends the thread a signal that it ignores and does not block: we are told of it because we
//! trace it, and if we are dead, nothing happens. A thread without such a signal, or in a process that may not have
//! executable scratch memory (PR_SET_MDWE, SELinux), or under seccomp, makes its calls one by one.

use std::collections::BTreeMap;
use std::io;

use crate::model::Addr;
use crate::model::thread::Regs;
use crate::sys::{ptrace, stub};

use super::held::{Held, HeldProcess, HeldThread};
use super::remote::map_grounds;
use super::task::{Running, Stopped};
use super::{Error, SCRATCH_LEN, decode, frame};

/// Bytes of a table's entry: number, six arguments, result.
const ENTRY: u64 = 64;
/// Bytes for the code.
const CODE: u64 = 128;
/// Threads of one process that run at the same time: what bounds the scratch memory.
const SLOTS: usize = 64;

/// System calls to run one after the other in one thread.
#[derive(Debug, Default)]
pub struct Calls {
    calls: Vec<(Option<&'static str>, i64, [Arg; 6])>,
    room: u64,
    /// What is in rooms before the first call.
    data: Vec<(Room, Vec<u8>)>,
    /// Rooms that begin with the address of another.
    pointers: Vec<(Room, Room)>,
}

/// An argument of a call.
#[derive(Debug, Clone, Copy)]
enum Arg {
    Is(u64),
    /// Where that room is.
    At(Room),
}

impl Arg {
    /// The argument, if the byte `from` of the rooms is at `base`.
    fn value(self, base: Addr, from: u64) -> u64 {
        match self {
            Arg::Is(value) => value,
            Arg::At(room) => base.0 + room.offset - from,
        }
    }
}

/// One call of [`Calls`].
#[derive(Debug, Clone, Copy)]
pub struct Call(usize);

/// Bytes that calls write to, or read.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    offset: u64,
    len: u64,
}

impl Room {
    /// What is behind its first `bytes`.
    pub fn behind(self, bytes: u64) -> Room {
        let bytes = bytes.min(self.len);
        Room { offset: self.offset + bytes, len: self.len - bytes }
    }
}

/// What is to run where, by indices.
#[derive(Debug)]
pub struct Job {
    /// Which of the held processes.
    pub process: usize,
    /// Which of its threads.
    pub thread: usize,
    /// What.
    pub calls: Calls,
    /// Each call with stops of its own, so that no more than one is made if we die.
    pub one_by_one: bool,
}

/// What calls returned and wrote.
#[derive(Debug)]
pub struct Answers {
    results: Vec<u64>,
    room: Vec<u8>,
}

impl Calls {
    /// Room for `len` bytes that a call writes, aligned to 8.
    pub fn room(&mut self, len: u64) -> Room {
        let offset = self.room.next_multiple_of(8);
        self.room = offset + len;
        Room { offset, len }
    }

    /// A room with these bytes in it.
    pub fn data(&mut self, bytes: Vec<u8>) -> Room {
        let room = self.room(bytes.len() as u64);
        self.data.push((room, bytes));
        room
    }

    /// A room with the address of `to` in it, and these bytes behind that.
    pub fn pointer(&mut self, to: Room, rest: &[u8]) -> Room {
        let room = self.data([&[0; 8], rest].concat());
        self.pointers.push((room, to));
        room
    }

    /// All rooms up to the last that has something in it, if the first is at `base`.
    fn initial(&self, base: Addr) -> Vec<u8> {
        let mut out = Vec::new();
        for (room, bytes) in &self.data {
            out.resize(room.offset as usize, 0);
            out.extend(bytes);
        }
        self.point(&mut out, base, 0);
        out
    }

    /// Addresses in rooms, if the byte `from` of them is at `base`.
    fn point(&self, rooms: &mut [u8], base: Addr, from: u64) {
        for (room, to) in &self.pointers {
            let address = base.0.wrapping_add(to.offset).wrapping_sub(from);
            if let Some(word) = rooms.get_mut(room.offset as usize..room.offset as usize + 8) {
                word.copy_from_slice(&address.to_ne_bytes());
            }
        }
    }

    /// Adds a call that must succeed.
    pub fn call(&mut self, name: &'static str, nr: i64, args: &[u64]) -> Call {
        self.add(Some(name), nr, args, &[])
    }

    /// Adds a call that may fail.
    pub fn try_call(&mut self, nr: i64, args: &[u64]) -> Call {
        self.add(None, nr, args, &[])
    }

    /// Adds a call that must succeed and whose argument `which` (0..6) is the address of `room`.
    pub fn call_into(&mut self, name: &'static str, nr: i64, args: &[u64], which: usize, room: Room) -> Call {
        self.add(Some(name), nr, args, &[(which, room)])
    }

    /// Adds a call that may fail, some of whose arguments are addresses of rooms.
    pub fn try_call_into(&mut self, nr: i64, args: &[u64], rooms: &[(usize, Room)]) -> Call {
        self.add(None, nr, args, rooms)
    }

    fn add(&mut self, name: Option<&'static str>, nr: i64, args: &[u64], rooms: &[(usize, Room)]) -> Call {
        let mut all = [Arg::Is(0); 6];
        for (to, from) in all.iter_mut().zip(args) {
            *to = Arg::Is(*from);
        }
        for &(which, room) in rooms {
            if let Some(to) = all.get_mut(which) {
                *to = Arg::At(room);
            }
        }
        self.calls.push((name, nr, all));
        Call(self.calls.len() - 1)
    }

    /// Numbers of the calls and their arguments, all rooms being behind `base`.
    fn settled(&self, base: Addr) -> impl Iterator<Item = (i64, [u64; 6])> {
        self.calls.iter().map(move |(_, nr, args)| (*nr, args.map(|arg| arg.value(base, 0))))
    }

    /// Bytes for the table, with the call that tells us and the end mark.
    fn table_len(&self) -> u64 {
        (self.calls.len() as u64 + 2) * ENTRY
    }

    /// Judges what the calls returned.
    fn answers(&self, tid: i32, results: Vec<u64>, room: Vec<u8>) -> Result<Answers, Error> {
        for ((call, ..), &raw) in self.calls.iter().zip(&results) {
            if let (Some(call), Err(source)) = (*call, decode(raw)) {
                return Err(Error::Call { pid: tid, call, source });
            }
        }
        Ok(Answers { results, room })
    }
}

impl Answers {
    /// What a call that may fail returned.
    pub fn result(&self, call: Call) -> io::Result<u64> {
        decode(self.value(call))
    }

    /// What a call returned.
    pub fn value(&self, call: Call) -> u64 {
        self.results.get(call.0).copied().unwrap_or_default()
    }

    /// What was written to a room.
    pub fn bytes(&self, room: Room) -> &[u8] {
        self.room.get(room.offset as usize..(room.offset + room.len) as usize).unwrap_or_default()
    }
}

/// Where a thread has its frame, its table and its room, in this order.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    frame: u64,
    table: u64,
    room: u64,
    end: u64,
}

impl Slot {
    fn new(start: u64, frame_len: u64, calls: &Calls) -> Slot {
        let table = start + frame_len.next_multiple_of(64);
        let room = table + calls.table_len();
        Slot { frame: start, table, room, end: (room + calls.room).next_multiple_of(64) }
    }
}

/// A job on its way.
struct Course {
    /// Among all jobs.
    index: usize,
    slot: Slot,
    signal: i32,
    code: Addr,
    running: Option<Running>,
}

impl Held {
    /// Runs system calls in many threads; the answers are in the order of the jobs.
    ///
    /// # Errors
    /// If one of the calls failed, or a process has gone.
    pub fn run(&mut self, jobs: &[Job]) -> Result<Vec<Answers>, Error> {
        self.awake = None;
        let mut by_process: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, job) in jobs.iter().enumerate() {
            by_process.entry(job.process).or_default().push(index);
        }
        self.map_for(jobs, &by_process)?;
        let mut answers: Vec<Option<Answers>> = Vec::new();
        answers.resize_with(jobs.len(), || None);
        for round in 0.. {
            let mut courses = Vec::new();
            let mut any = false;
            for (&process, list) in &by_process {
                let Some(p) = self.processes.get(process) else { continue };
                let Some(list) = list.get(round * SLOTS..).filter(|l| !l.is_empty()) else { continue };
                any = true;
                courses.extend(plan(p, jobs, list.iter().take(SLOTS)));
            }
            if !any {
                break;
            }
            self.wave(jobs, &mut courses, &mut answers)?;
        }
        for (job, answer) in jobs.iter().zip(&mut answers) {
            if answer.is_none() {
                let p = self.processes.get_mut(job.process).ok_or(Error::Vanished { pid: 0 })?;
                *answer = Some(one_by_one(p, job)?);
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Maps scratch memory that is large enough, and puts the code there.
    fn map_for(&mut self, jobs: &[Job], by_process: &BTreeMap<usize, Vec<usize>>) -> Result<(), Error> {
        let mut fresh = Vec::new();
        for (index, p) in self.processes.iter_mut().enumerate() {
            let Some(list) = by_process.get(&index).filter(|_| p.ground.is_none()) else { continue };
            let frame_len = p.frame_len();
            let slots = list.chunks(SLOTS).map(|list| layout(jobs, list.iter(), CODE, frame_len));
            let extra = slots.filter_map(|slots| slots.last().map(|s| s.end)).max().unwrap_or(0);
            p.survey_ground(extra)?;
            fresh.push(p);
        }
        map_grounds(&mut fresh)?;
        for p in fresh {
            let Some(ground) = p.ground.as_ref().filter(|g| g.executable()) else { continue };
            let at = ground.extra(p.frame_len()).0;
            p.write(at, stub::calls()).map_err(|e| Error::from_io("writing memory", p.host, e))?;
        }
        Ok(())
    }

    /// Runs the tables of some threads, all at the same time. Whatever happens to one of them, the others get their own
    /// registers back.
    fn wave(&mut self, jobs: &[Job], courses: &mut [Course], answers: &mut [Option<Answers>]) -> Result<(), Error> {
        let mut done = Ok(());
        for c in &mut *courses {
            let Some(job) = jobs.get(c.index) else { continue };
            match self.processes.get_mut(job.process).map(|p| start(p, job, c)) {
                Some(Ok(running)) => c.running = Some(running),
                Some(Err(e)) => done = done.and(Err(e)),
                None => {}
            }
        }
        for c in courses {
            let (Some(job), Some(running)) = (jobs.get(c.index), c.running.take()) else { continue };
            let Some(p) = self.processes.get_mut(job.process) else { continue };
            let finished = finish(running, c).and_then(|stopped| {
                if let Some(t) = p.threads.get_mut(job.thread) {
                    t.task = Some(stopped);
                }
                p.give_back(job.thread)?;
                collect(p, job, c)
            });
            match (finished, answers.get_mut(c.index)) {
                (Ok(answer), Some(room)) => *room = Some(answer),
                (Err(e), _) => done = done.and(Err(e)),
                _ => {}
            }
        }
        done
    }
}

/// One slot after the other.
fn layout<'a>(jobs: &[Job], list: impl Iterator<Item = &'a usize>, start: u64, frame_len: u64) -> Vec<Slot> {
    let mut at = start;
    list.filter_map(|&index| jobs.get(index))
        .map(|job| {
            let slot = Slot::new(at, frame_len, &job.calls);
            at = slot.end;
            slot
        })
        .collect()
}

/// The jobs of a process that can run in one go.
fn plan<'a>(p: &HeldProcess, jobs: &[Job], list: impl Iterator<Item = &'a usize> + Clone) -> Vec<Course> {
    let Some(ground) = p.ground.as_ref().filter(|g| g.executable()) else { return Vec::new() };
    let frame_len = p.frame_len();
    let (base, len) = ground.extra(frame_len);
    let slots = layout(jobs, list.clone(), base.0 + CODE, frame_len);
    let mut out = Vec::new();
    for (&index, slot) in list.zip(slots) {
        let job = jobs.get(index).filter(|job| !job.one_by_one);
        let thread = job.and_then(|job| p.threads.get(job.thread));
        let signal = thread.and_then(|t| signal_without_effect(p, t));
        if let (Some(signal), true) = (signal, slot.end <= base.0 + len) {
            out.push(Course { index, slot, signal, code: base, running: None });
        }
    }
    out
}

/// A signal that does nothing to a thread and that it does not block, whoever sends it.
fn signal_without_effect(p: &HeldProcess, t: &HeldThread) -> Option<i32> {
    let has = |set: u64, signal: i32| set >> (signal - 1) & 1 == 1;
    let by_default = [libc::SIGURG, libc::SIGWINCH, libc::SIGCHLD].into_iter().filter(|&s| !has(p.caught, s));
    let ignored = [libc::SIGPIPE, libc::SIGHUP].into_iter().filter(|&s| has(p.ignored, s));
    by_default.chain(ignored).find(|&s| !has(t.sigmask, s))
}

/// Lays frame and table, and lets the thread run.
fn start(p: &mut HeldProcess, job: &Job, c: &Course) -> Result<Running, Error> {
    let pid = p.host;
    let gone = || Error::Vanished { pid };
    let t = p.threads.get(job.thread).ok_or_else(gone)?;
    let mut bytes = frame::build(Addr(c.slot.frame), Addr(0), &t.regs, t.call, t.sigmask, &t.xstate);
    bytes.resize((c.slot.table - c.slot.frame) as usize, 0);
    let tell = (libc::SYS_tgkill, [p.pid.0 as u64, t.tid.0 as u64, c.signal as u64, 0, 0, 0]);
    for (nr, args) in job.calls.settled(Addr(c.slot.room)).chain([tell]) {
        bytes.extend(nr.to_le_bytes());
        args.iter().for_each(|arg| bytes.extend(arg.to_le_bytes()));
        bytes.extend([0; 8]);
    }
    bytes.extend([0xff; ENTRY as usize]);
    bytes.extend(job.calls.initial(Addr(c.slot.room)));
    p.write(Addr(c.slot.frame), &bytes).map_err(|e| Error::from_io("laying a signal frame", pid, e))?;
    let t = p.threads.get_mut(job.thread).ok_or_else(gone)?;
    t.borrowed = true;
    let regs = Regs {
        rip: c.code.0,
        // rt_sigreturn looks for its frame 8 bytes below: the return address is off the stack by then.
        rsp: c.slot.frame + 8,
        rbx: c.slot.table,
        orig_rax: u64::MAX,
        // A direction or single-step flag of the program's must not follow us.
        eflags: t.regs.eflags & !0x500,
        ..t.regs
    };
    // Registers first: if we die in between, the frame heals both.
    ptrace::set_regs(t.host, &regs).map_err(|e| Error::from_io("borrowing registers", t.host, e))?;
    let mask = !(1 << (c.signal - 1));
    ptrace::set_sigmask(t.host, mask).map_err(|e| Error::from_io("blocking signals", t.host, e))?;
    t.task.take().ok_or_else(gone)?.cont(0)
}

/// Waits until the last call has told us.
fn finish(running: Running, c: &Course) -> Result<Stopped, Error> {
    let last = c.slot.room - 2 * ENTRY;
    let after = c.code.0 + stub::calls_return_offset();
    let mut now = running.wait()?;
    loop {
        let is_signal = now.event() == 0 && !now.is_syscall();
        if is_signal && now.signal() == c.signal {
            let regs = ptrace::get_regs(now.tid()).map_err(|e| Error::from_io("reading registers", now.tid(), e))?;
            if (regs.rbx, regs.rip) == (last, after) {
                return Ok(now);
            }
        }
        // SIGSTOP acts on the group, and the calls go on; the same signal from somebody else has no effect.
        let signal = if is_signal { now.signal() } else { 0 };
        now = now.cont(signal)?.wait()?;
    }
}

/// Reads what has come out.
fn collect(p: &HeldProcess, job: &Job, c: &Course) -> Result<Answers, Error> {
    let (pid, count) = (p.live(), job.calls.calls.len());
    let table_len = job.calls.table_len() as usize;
    let mut bytes = vec![0; table_len + job.calls.room as usize];
    p.read_exclusive(Addr(c.slot.table), &mut bytes).map_err(|e| Error::from_io("reading memory", pid, e))?;
    let result = |entry: &[u8]| entry.last_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    let results = bytes.chunks_exact(ENTRY as usize).take(count).map(result).collect();
    let room = bytes.split_off(table_len);
    job.calls.answers(pid, results, room)
}

/// The same by single calls, of which only the latest [`SCRATCH_LEN`] bytes of rooms are in the program.
fn one_by_one(p: &mut HeldProcess, job: &Job) -> Result<Answers, Error> {
    let tid = p.threads.get(job.thread).map_or(p.host, |t| t.host);
    let mut remote = p.remote(job.thread)?;
    let scratch = remote.scratch();
    let mut results = Vec::with_capacity(job.calls.calls.len());
    let mut room = job.calls.initial(scratch);
    room.resize(job.calls.room as usize, 0);
    let mut from = 0;
    let bounds = |from: u64| from as usize..job.calls.room.min(from + SCRATCH_LEN) as usize;
    let fill = |room: &[u8], from: u64, remote: &super::Remote<'_>| {
        room.get(bounds(from)).map_or(Ok(()), |room| remote.write(scratch, room))
    };
    let window = |room: &mut [u8], from: u64, remote: &super::Remote<'_>| {
        room.get_mut(bounds(from)).map_or(Ok(()), |room| remote.read(scratch, room))
    };
    fill(&room, from, &remote)?;
    for (_, nr, args) in &job.calls.calls {
        let rooms = args.iter().filter_map(|arg| if let Arg::At(room) = arg { Some(room) } else { None });
        if rooms.clone().any(|used| used.offset + used.len > from + SCRATCH_LEN) {
            window(&mut room, from, &remote)?;
            from = rooms.map(|used| used.offset).min().unwrap_or(from);
            job.calls.point(&mut room, scratch, from);
            fill(&room, from, &remote)?;
        }
        let args = args.map(|arg| arg.value(scratch, from));
        results.push(remote.try_call(*nr, args)?.unwrap_or_else(|e| -i64::from(e.raw_os_error().unwrap_or(1)) as u64));
    }
    window(&mut room, from, &remote)?;
    drop(remote);
    job.calls.answers(tid, results, room)
}
