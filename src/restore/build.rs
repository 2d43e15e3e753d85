//! From nothing to a whole tree that only waits to be let go.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use crate::image::Image;
use crate::model::fd::Kind;
use crate::model::process::Process;
use crate::model::procfs::renumbered;
use crate::model::thread::{Regs, Table, Thread};
use crate::model::tree::{Member, Shares, State};
use crate::model::{Addr, Checkpoint, Pid};
use crate::sys::{ptrace, stub as code, tasks, wait};
use crate::tracer::{self, Patience};

use super::credentials::Start;
use super::fd::Sources;
use super::fill::Filler;
use super::memory::{Hold, Site};
use super::namespaces::{self, CLONE_ARGS_LEN, Init, clone_args};
use super::pinned::Pinned;
use super::socketfiles::Files;
use super::stub::{Batch, Expect, LEN, Puppet};
use super::tree::{Order, Role, Step};
use super::{
    Error, Options, Pids, Plan, credentials, epoll, fd, gap, inherit, ipc, jobcontrol, limits, locks, memory,
    mempolicy, mqnotify, mqueue, pidfd, process, procfs, pty, ringcreds, seccomp, signals, sockets, sqpoll, sysvsem,
    thread, timers, uring, waits,
};

/// Children of any kind (wait4(2)).
pub const WALL: u64 = 0x4000_0000;

/// A tree that stands ready.
#[derive(Debug)]
pub struct Built {
    /// Its root as we see it.
    pub root: i32,
    /// The same as the tree's first process sees it.
    pub root_inside: i32,
    /// What could not be made exactly as it was.
    pub notes: Vec<String>,
    /// Files that were made, to be removed unless it goes.
    socket_files: Files,
    ready: Vec<Puppet>,
    /// The threads of each process that has several, its leader first, with the signals that they block.
    siblings: Vec<Vec<(i32, u64)>>,
    /// By tid: threads that wait on sockets for a time.
    patient: HashMap<i32, Patience>,
}

impl Built {
    /// Lets everything go at once; the first process's pid. If one can't be let go, all are ended.
    pub fn go(self, mut init: Init) -> Result<i32, Error> {
        let all: Vec<i32> = self.ready.iter().map(Puppet::host).collect();
        match self.let_go(&mut init) {
            Ok(()) => Ok(init.leave()),
            Err(error) => {
                // Some may be on their own already, and without a pid namespace nothing else would end them.
                for host in all {
                    let _ = tasks::kill(host, libc::SIGKILL);
                }
                Err(error)
            }
        }
    }

    fn let_go(mut self, init: &mut Init) -> Result<(), Error> {
        init.tell(self.root_inside)?;
        for puppet in &mut self.ready {
            if let Some(patience) = self.patient.get(&puppet.host()) {
                puppet.go_on(patience)?;
            }
        }
        // From here on nobody dies with us: everything is complete, and goes on by itself even if we don't.
        for puppet in &self.ready {
            puppet.outlive_us()?;
        }
        ptrace::set_options(init.host(), 0).map_err(|e| Error::step("letting go", init.host(), e))?;
        init.go()?;
        // Those who go first may end others before we come to them (exit_group, a signal): that is their business. Of
        // a process its leader ends last, and stands before its threads in the list.
        let order: Vec<i32> = self.ready.iter().map(Puppet::host).collect();
        let takers: Vec<i32> = self.siblings.iter().flat_map(|threads| tracer::takers(threads)).collect();
        let (first, others): (Vec<Puppet>, Vec<Puppet>) =
            self.ready.into_iter().partition(|p| takers.contains(&p.host()));
        let mut ended = detach(first)?;
        tracer::wait_until_taken(&takers);
        ended.extend(detach(others)?);
        for tid in order.into_iter().rev().filter(|tid| ended.contains(tid)) {
            let _ = wait::wait(tid).and_then(|_| wait::reap(tid));
        }
        self.socket_files.keep();
        Ok(())
    }
}

/// Lets them go; those that are dead already.
fn detach(puppets: Vec<Puppet>) -> Result<HashSet<i32>, Error> {
    let mut ended = HashSet::new();
    for puppet in puppets {
        let tid = puppet.host();
        if !puppet.detach()? {
            ended.insert(tid);
        }
    }
    Ok(ended)
}

/// Builds the tree of `image` under `init`.
pub fn tree(
    image: &Image,
    options: &Options,
    plan: &Plan,
    (sources, filler): (&Sources, &Filler<'_>),
    pinned: &Pinned,
    init: &mut Init,
) -> Result<Built, Error> {
    let checkpoint = image.checkpoint();
    let start = Start::of(init.host(), namespaces::wanted(options))
        .map_err(|e| Error::step("reading credentials", init.host(), io::Error::other(e)))?;
    let (puppets, hosts) = (BTreeMap::new(), BTreeMap::new());
    let (gone, notes, socket_files) = (Vec::new(), Vec::new(), Files::default());
    let (furnished, carried) = (BTreeSet::new(), BTreeMap::new());
    let mut builder = Builder {
        checkpoint,
        options,
        sources,
        pinned,
        start,
        puppets,
        hosts,
        gone,
        furnished,
        carried,
        notes,
        socket_files,
        polled: Vec::new(),
        gone_off: BTreeMap::new(),
    };
    let hold = builder.template(filler, &plan.order, init)?;
    builder.sockets(image, &plan.order)?;
    let memories: Vec<_> = checkpoint.processes.iter().map(|p| (p.pid, &p.memory)).collect();
    let site = Site { image, filler, sources, hold, ranges: inherit::ranges(&memories) };
    builder.births(&plan.order, &site)?;
    let mut threads: Vec<(Pid, Vec<Puppet>)> = Vec::new();
    for process in &checkpoint.processes {
        builder.cancelled()?;
        builder.furnish(process, &site)?;
        let puppet = puppet(&mut builder.puppets, process.pid)?;
        if shares(checkpoint, process.pid).memory.is_none() {
            memory::finish(puppet, process, &site, options.foreign_vdso)?;
            mempolicy::of_memory(puppet, process, &mut builder.notes)?;
        }
        threads.push((process.pid, builder.threads(process)?));
    }
    if builder.own_namespaces() {
        let wanted = namespaces::wanted(options);
        builder.gone.extend(mqueue::open_all(checkpoint, init.host(), wanted)?);
    }
    builder.descriptors(&mut threads)?;
    builder.rings(&mut threads, image)?;
    builder.descriptions(&mut threads)?;
    builder.semaphores()?;
    let numbers = builder.numbers();
    builder.directories(&numbers)?;
    for (process, (_, others)) in checkpoint.processes.iter().zip(&mut threads) {
        builder.cancelled()?;
        builder.finish_process(process, others, &numbers)?;
    }
    builder.stand_ins(&plan.order, &site.hold)?;
    builder.park(threads, &site.hold)
}

/// What a process shares with others that came before it.
fn shares(checkpoint: &Checkpoint, pid: Pid) -> Shares {
    checkpoint.tree.members.iter().find(|m| m.pid == pid).map_or_else(Shares::default, |m| m.shares)
}

/// The number that a process or thread has, by those of all.
fn actual(numbers: &BTreeMap<Pid, i32>) -> impl Fn(Pid) -> i32 + Copy + '_ {
    |pid| numbers.get(&pid).copied().unwrap_or(pid.0)
}

/// The threads of a process that have descriptor tables of their own. `others`: all of them but the leader.
fn tables<'a>(process: &'a Process, others: &'a mut [Puppet]) -> impl Iterator<Item = (&'a Table, &'a mut Puppet)> {
    let threads = process.threads.iter().skip(usize::from(process.ended_leader.is_none()));
    threads.zip(others).filter_map(|(t, puppet)| Some((t.table.as_ref()?, puppet)))
}

fn puppet(puppets: &mut BTreeMap<Pid, Puppet>, pid: Pid) -> Result<&mut Puppet, Error> {
    puppets.get_mut(&pid).ok_or_else(|| Error::step("building", pid.0, io::Error::other("it was not made")))
}

struct Builder<'a> {
    checkpoint: &'a Checkpoint,
    options: &'a Options,
    sources: &'a Sources,
    pinned: &'a Pinned,
    start: Start,
    puppets: BTreeMap<Pid, Puppet>,
    /// Each process and thread as we see it.
    hosts: BTreeMap<Pid, i32>,
    /// Descriptors of processes that have ended and of message queues, by the index of their description.
    gone: Vec<(u32, OwnedFd)>,
    /// Processes whose memory is filled.
    furnished: BTreeSet<Pid>,
    /// Whose filled memory others were born with.
    carried: BTreeMap<Pid, Pid>,
    notes: Vec<String>,
    socket_files: Files,
    /// Our copies of rings of io_uring whose requests a thread of the kernel takes, by the index of their description.
    polled: Vec<(u32, OwnedFd)>,
    /// POSIX timers of processes that have gone off and wait for their signals to be taken.
    gone_off: BTreeMap<Pid, Vec<i32>>,
}

impl Builder<'_> {
    fn cancelled(&self) -> Result<(), Error> {
        if self.options.cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// The pid a process is to be given; none where the kernel chooses: always with `--pids fresh`, and with
    /// `--pids host` for a stand-in whose place is still taken by the process it would stand for.
    fn chosen(&self, pid: Pid) -> Option<Pid> {
        match self.options.pids {
            Pids::Auto | Pids::Private => Some(pid),
            Pids::Fresh => None,
            Pids::Host => {
                let member = self.checkpoint.tree.members.iter().any(|m| m.pid == pid);
                (member || self.is_free(pid)).then_some(pid)
            }
        }
    }

    /// Whether nobody has a pid, as far as we can see.
    fn is_free(&self, pid: Pid) -> bool {
        self.own_namespaces() || !std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    /// Whether the tree lives in pid, mount and IPC namespaces of its own.
    fn own_namespaces(&self) -> bool {
        matches!(self.options.pids, Pids::Auto | Pids::Private)
    }

    /// The process all others descend from: empty but for the stub, the vDSO and the shared memory.
    fn template(&mut self, filler: &Filler<'_>, order: &Order, init: &mut Init) -> Result<Hold, Error> {
        let Some(Step::Create { parent: pid, .. }) = order.steps.first().copied() else {
            return Err(Error::step("planning", 0, io::Error::other("no processes")));
        };
        let task = init.make_child(self.chosen(pid))?;
        let host = task.tid();
        let mut puppet = Puppet::adopt(task, code::here())?;
        ptrace::set_sigmask(host, u64::MAX).map_err(|e| Error::step("blocking signals", host, e))?;
        let maps = tracer::maps(host).map_err(|e| Error::step("reading maps", host, io::Error::other(e)))?;
        let taken: Vec<(u64, u64)> = maps.iter().map(|m| (m.start, m.end)).collect();
        let kernel: u64 = maps.iter().filter(|m| memory::is_kernels(m)).map(|m| m.end - m.start).sum();
        let len = memory::hold_len(self.checkpoint).saturating_add(kernel + 4096);
        let base = gap::common(self.checkpoint, &taken, len).ok_or_else(|| Error::Host {
            feature: "a free range of addresses for the restore stub".to_owned(),
            hint: "the program fills its address space".to_owned(),
        })?;
        // mmap, code by the kernel's hand, then no longer writable.
        let anywhere = [base.0, LEN, 3, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | 0x10_0000) as u64, u64::MAX, 0];
        puppet.single("mmap", libc::SYS_mmap, &anywhere)?;
        crate::sys::mem::write(host, base, code::code()).map_err(|e| Error::step("writing the stub", host, e))?;
        puppet.single("mprotect", libc::SYS_mprotect, &[base.0, 4096, 5])?;
        puppet.rebase(base);
        let mut batch = puppet.batch();
        if let Some(rseq) = ptrace::get_rseq(host).map_err(|e| Error::step("reading rseq", host, e))? {
            let args = [rseq.area.0, u64::from(rseq.len), 1, u64::from(rseq.signature)];
            batch.call("rseq", libc::SYS_rseq, &args);
        }
        signals::all_default(&mut batch);
        // Our own standard streams, so that the lowest numbers are free.
        batch.call("close_range", libc::SYS_close_range, &[0, 2, 0]);
        puppet.run(batch)?;
        let hold = memory::empty(&mut puppet, &maps, base, self.checkpoint, self.own_namespaces())?;
        if self.own_namespaces() {
            ipc::create(&mut puppet, self.checkpoint, &hold)?;
        }
        process::log_in(&mut puppet, self.checkpoint.tree.login_uid, &mut self.notes)?;
        fd::arrange(&mut puppet, self.sources)?;
        memory::fill_shared(&mut puppet, filler, self.sources, &hold)?;
        self.add(pid, puppet);
        Ok(hold)
    }

    fn sockets(&mut self, image: &Image, order: &Order) -> Result<(), Error> {
        let Some(Step::Create { parent, .. }) = order.steps.first() else { return Ok(()) };
        let template = puppet(&mut self.puppets, *parent)?;
        self.socket_files = sockets::make(template, image, self.sources, self.options, &mut self.notes)?;
        Ok(())
    }

    fn births(&mut self, order: &Order, site: &Site<'_>) -> Result<(), Error> {
        let inherits = |p: &Process| p.memory.inherits.as_ref().map(|i| i.from);
        let donors: BTreeSet<Pid> = self.checkpoint.processes.iter().filter_map(inherits).collect();
        if let Some(Step::Create { parent, .. }) = order.steps.first() {
            self.polled_rings(*parent)?;
        }
        for step in &order.steps {
            match *step {
                Step::Create { parent, pid, exit_signal, sibling, shared } => {
                    let maker = sibling.unwrap_or(parent);
                    // Pages are shared by those who are born when they are there.
                    let owner = self.owner(maker);
                    if donors.contains(&owner) {
                        self.cancelled()?;
                        self.furnish_by_pid(owner, site)?;
                    }
                    match sibling {
                        None => self.create(parent, pid, exit_signal, shared)?,
                        // The exit signal is the sibling's own then (clone(2)).
                        Some(_) => self.create(maker, pid, 0, shared | libc::CLONE_PARENT as u64)?,
                    }
                    self.polled_rings(pid)?;
                }
                Step::Setsid(pid) => {
                    self.one(pid, "setsid", libc::SYS_setsid, &[])?;
                    pty::control(puppet(&mut self.puppets, pid)?, pid, self.checkpoint, self.sources)?;
                }
                Step::Setpgid(pid, group) => {
                    let group = self.actual(group);
                    self.one(pid, "setpgid", libc::SYS_setpgid, &[0, group as u64])?;
                }
                Step::Subreaper(pid) => self.one(pid, "prctl", libc::SYS_prctl, &[36, 1])?,
                Step::End { pid, by } => self.end(pid, by)?,
            }
        }
        self.foreground()?;
        // The dead die once groups and children are settled, before their parents' signals are.
        let of_proc: BTreeSet<Option<Pid>> = procfs::owners(&self.checkpoint.files).collect();
        for member in &self.checkpoint.tree.members {
            if let State::Zombie { status } = member.state {
                if of_proc.contains(&Some(member.pid)) {
                    let opened = self.open_of(member.pid, Some(member.pid))?;
                    self.gone.extend(opened);
                }
                self.zombie(member, status, &site.hold)?;
            }
        }
        if let Some(maker) = self.checkpoint.processes.first() {
            let files = &self.checkpoint.files;
            let free = |pid| self.chosen(pid).filter(|_| !self.hosts.contains_key(&pid) && self.is_free(pid));
            let free: BTreeMap<Pid, Option<Pid>> = procfs::ended(files).map(|pid| (pid, free(pid))).collect();
            let maker = puppet(&mut self.puppets, maker.pid)?;
            self.gone.extend(pidfd::of_ended(maker, files)?);
            self.gone.extend(procfs::of_ended(maker, files, &free)?);
        }
        for member in &self.checkpoint.tree.members {
            if let Some(child) = self.puppets.get_mut(&member.pid) {
                jobcontrol::renew(child, member.state)?;
            }
            let pid = Pid(self.actual(member.pid));
            if let Some(parent) = self.puppets.get_mut(&member.ppid) {
                jobcontrol::hear(parent, member, pid)?;
            }
        }
        Ok(())
    }

    /// Makes the rings whose requests a thread of the kernel takes that is one of `pid`'s: who is born of it inherits them.
    fn polled_rings(&mut self, pid: Pid) -> Result<(), Error> {
        if let Some(process) = self.checkpoint.processes.iter().find(|p| p.pid == pid) {
            let maker = puppet(&mut self.puppets, pid)?;
            let made = sqpoll::make(
                maker,
                process,
                self.checkpoint,
                (&self.start, self.pinned),
                self.sources,
                &mut self.notes,
            )?;
            self.polled.extend(made);
        }
        Ok(())
    }

    fn foreground(&mut self) -> Result<(), Error> {
        let groups: BTreeMap<Pid, i32> =
            self.checkpoint.tree.members.iter().map(|m| (m.pgid, self.actual(m.pgid))).collect();
        let actual = |pid: Pid| groups.get(&pid).copied().unwrap_or(pid.0);
        for leader in pty::leaders(self.checkpoint, self.sources) {
            if let Some(puppet) = self.puppets.get_mut(&leader) {
                pty::foreground(puppet, leader, self.checkpoint, self.sources, actual)?;
            }
        }
        Ok(())
    }

    fn furnish_by_pid(&mut self, pid: Pid, site: &Site<'_>) -> Result<(), Error> {
        match self.checkpoint.processes.iter().find(|p| p.pid == pid) {
            Some(process) => self.furnish(process, site),
            None => Ok(()),
        }
    }

    /// Whose memory a process is in.
    fn owner(&self, pid: Pid) -> Pid {
        shares(self.checkpoint, pid).memory.unwrap_or(pid)
    }

    /// Fills the memory of a process, unless that has been done, or it is another's.
    fn furnish(&mut self, process: &Process, site: &Site<'_>) -> Result<(), Error> {
        if self.owner(process.pid) == process.pid && self.furnished.insert(process.pid) {
            let born = self.carried.get(&process.pid);
            let born = born.and_then(|donor| self.checkpoint.processes.iter().find(|p| p.pid == *donor));
            let puppet = puppet(&mut self.puppets, process.pid)?;
            memory::furnish(puppet, process, site, born, &mut self.notes)?;
        }
        Ok(())
    }

    /// The pid a process really has in its namespace.
    fn actual(&self, pid: Pid) -> i32 {
        match (self.options.pids, self.hosts.get(&pid)) {
            (Pids::Fresh | Pids::Host, Some(&host)) => host,
            _ => pid.0,
        }
    }

    /// The numbers that all processes and threads have in their namespace.
    fn numbers(&self) -> BTreeMap<Pid, i32> {
        self.hosts.keys().map(|&pid| (pid, self.actual(pid))).collect()
    }

    fn one(&mut self, pid: Pid, name: &'static str, nr: i64, args: &[u64]) -> Result<(), Error> {
        let puppet = puppet(&mut self.puppets, pid)?;
        let mut batch = puppet.batch();
        batch.call(name, nr, args);
        puppet.run(batch).map(drop)
    }

    fn create(&mut self, maker: Pid, pid: Pid, exit_signal: i32, flags: u64) -> Result<(), Error> {
        let (chosen, owner) = (self.chosen(pid), self.owner(maker));
        let maker = puppet(&mut self.puppets, maker)?;
        let base = Addr(maker.data().0 - 4096);
        let mut batch = maker.batch();
        clone_into(&mut batch, flags, exit_signal, chosen);
        let (_, births) = maker.run_with_births(batch)?;
        let born = births.into_iter().next();
        let task = born.ok_or_else(|| Error::step("making a process", pid.0, io::Error::other("no birth")))?;
        self.add(pid, Puppet::adopt(task, base)?);
        let carried = if self.furnished.contains(&owner) { Some(owner) } else { self.carried.get(&owner).copied() };
        self.carried.extend(carried.map(|donor| (pid, donor)));
        Ok(())
    }

    fn add(&mut self, pid: Pid, puppet: Puppet) {
        self.hosts.insert(pid, puppet.host());
        self.puppets.insert(pid, puppet);
    }

    fn end(&mut self, pid: Pid, by: Option<Pid>) -> Result<(), Error> {
        if let Some(helper) = self.puppets.remove(&pid) {
            let actual = if self.own_namespaces() { pid.0 } else { helper.host() };
            helper.exit(0)?;
            if let Some(by) = by {
                self.one(by, "wait4", libc::SYS_wait4, &[actual as u64, 0, WALL, 0])?;
            }
        }
        Ok(())
    }

    fn zombie(&mut self, member: &Member, status: i32, hold: &Hold) -> Result<(), Error> {
        let Some(mut dying) = self.puppets.remove(&member.pid) else { return Ok(()) };
        let mut batch = dying.batch();
        process::set_name(&mut batch, &member.comm);
        hold.let_go(&mut batch);
        dying.run(batch)?;
        end_as(dying, status)
    }

    /// The threads of a process other than its leader.
    fn threads(&mut self, process: &Process) -> Result<Vec<Puppet>, Error> {
        let leader = puppet(&mut self.puppets, process.pid)?;
        let threads = process.threads.get(usize::from(process.ended_leader.is_none())..).unwrap_or_default();
        let others = thread::create(leader, threads, self.options.pids != Pids::Fresh)?;
        self.hosts.extend(threads.iter().map(|t| t.tid).zip(others.iter().map(Puppet::host)));
        Ok(others)
    }

    /// Everybody is there: what is of processes can be opened, and descriptors get their numbers.
    fn descriptors(&mut self, threads: &mut [(Pid, Vec<Puppet>)]) -> Result<(), Error> {
        let gone = std::mem::take(&mut self.gone);
        let late = self.sources.handover.open(self.checkpoint, &self.hosts, gone)?;
        for (process, (_, others)) in self.checkpoint.processes.iter().zip(&mut *threads) {
            let puppet = puppet(&mut self.puppets, process.pid)?;
            self.sources.handover.deliver(puppet, process, self.checkpoint, self.sources, &late)?;
            for (table, thread) in tables(process, others) {
                fd::part(thread)?;
                fd::install(thread, &table.fds, self.sources, |_| true)?;
            }
            fd::install(puppet, &process.fds, self.sources, |_| true)?;
        }
        self.of_proc(threads)
    }

    /// Rings that belong to one thread become that one's, and get what was registered with them; threads get their numbers.
    fn rings(&mut self, threads: &mut [(Pid, Vec<Puppet>)], image: &Image) -> Result<(), Error> {
        for (index, file) in (0u32..).zip(&self.checkpoint.files) {
            let Kind::Uring(ring) = &file.kind else { continue };
            let number = fd::source(self.sources, index)?;
            let mut users =
                self.checkpoint.processes.iter().zip(&mut *threads).filter(|(process, _)| match ring.issuer {
                    Some(tid) => process.threads.iter().any(|t| t.tid == tid),
                    None => process.descriptors().any(|d| d.file == index),
                });
            let Some((process, (_, others))) = users.next() else { continue };
            let leader = puppet(&mut self.puppets, process.pid)?;
            let user = match process.threads.iter().position(|t| Some(t.tid) == ring.issuer) {
                Some(at) => match at.checked_sub(usize::from(process.ended_leader.is_none())) {
                    Some(other) => others.get_mut(other).unwrap_or(leader),
                    None => leader,
                },
                None => leader,
            };
            if let Some(like) = process.threads.first() {
                // Before it is its issuer's alone.
                ringcreds::register(user, ring, like, number, &self.start)?;
            }
            if let Some((_, copy)) = self.polled.iter().find(|(of, _)| *of == index) {
                sqpoll::start(image, ring, copy.as_fd(), user, number, self.options.cancel)?;
            } else if let Some((_, copy)) = self.sources.watching.iter().find(|(of, _)| *of == index) {
                uring::start(image, ring, copy.as_fd(), user, number, self.options.cancel)?;
            }
            uring::register(user, ring, number, self.sources)?;
        }
        for (process, (_, others)) in self.checkpoint.processes.iter().zip(threads) {
            let leader = process.ended_leader.is_none().then_some(puppet(&mut self.puppets, process.pid)?);
            for (t, puppet) in process.threads.iter().zip(leader.into_iter().chain(others)) {
                uring::number(puppet, t, self.sources)?;
            }
        }
        Ok(())
    }

    /// Files of /proc, some of which tell of descriptors: those have their numbers by now.
    fn of_proc(&mut self, threads: &mut [(Pid, Vec<Puppet>)]) -> Result<(), Error> {
        let files = &self.checkpoint.files;
        let mut late = Vec::new();
        for owner in procfs::owners(files) {
            // A zombie's have been opened before.
            let process = |pid| self.checkpoint.processes.iter().find(|p| p.threads.iter().any(|t| t.tid == pid));
            let Some(opener) = owner.map_or(self.checkpoint.processes.first(), process) else { continue };
            late.extend(self.open_of(opener.pid, owner)?);
        }
        let is_of_proc = |index: u32| late.iter().any(|(late, _)| *late == index);
        for (process, (_, others)) in self.checkpoint.processes.iter().zip(threads) {
            let leader = (&process.fds, puppet(&mut self.puppets, process.pid)?);
            for (fds, puppet) in tables(process, others).map(|(table, thread)| (&table.fds, thread)).chain([leader]) {
                self.sources.handover.deliver(puppet, process, self.checkpoint, self.sources, &late)?;
                fd::install(puppet, fds, self.sources, is_of_proc)?;
            }
        }
        Ok(())
    }

    /// The files in /proc that are `owner`'s, which `opener` opens.
    fn open_of(&mut self, opener: Pid, owner: Option<Pid>) -> Result<Vec<(u32, OwnedFd)>, Error> {
        let numbers = self.numbers();
        let actual = actual(&numbers);
        procfs::open_of(puppet(&mut self.puppets, opener)?, owner, &self.checkpoint.files, actual)
    }

    /// What descriptions need once descriptors have their numbers.
    fn descriptions(&mut self, threads: &mut [(Pid, Vec<Puppet>)]) -> Result<(), Error> {
        let files = &self.checkpoint.files;
        let mut owned = vec![false; files.len()];
        let numbers = self.numbers();
        let actual = actual(&numbers);
        for (process, (_, others)) in self.checkpoint.processes.iter().zip(threads) {
            fd::owners(puppet(&mut self.puppets, process.pid)?, &process.fds, files, &mut owned, actual)?;
            for (table, thread) in tables(process, others) {
                fd::owners(thread, &table.fds, files, &mut owned, actual)?;
            }
        }
        // Entries that have fired fire once more while their instance watches nothing else.
        for fired in [true, false] {
            for process in &self.checkpoint.processes {
                let puppet = puppet(&mut self.puppets, process.pid)?;
                for (file, &number) in self.checkpoint.files.iter().zip(&self.sources.files) {
                    if let Kind::Epoll(e) = &file.kind {
                        epoll::watch(puppet, process, self.sources, number, e, fired)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The leader ends; from here on `first`, another thread, stands for the process.
    fn end_leader(&mut self, process: &Process, status: i32, first: Puppet) -> Result<(), Error> {
        let comm = self.checkpoint.tree.members.iter().find(|m| m.pid == process.pid).map(|m| &m.comm);
        let Some(mut leader) = self.puppets.insert(process.pid, first) else { return Ok(()) };
        let mut batch = leader.batch();
        comm.into_iter().for_each(|name| process::set_name(&mut batch, name));
        leader.run(batch)?;
        // Whoever looks at the process by its pid sees the user of this thread.
        if let Some(t) = process.threads.first() {
            let mut batch = leader.batch();
            credentials::set(&mut batch, &t.credentials, &self.start);
            leader.run(batch)?;
        }
        leader.leave(status >> 8 & 0xff)
    }

    /// What processes have done to semaphores: the last who operated on one must come last.
    fn semaphores(&mut self) -> Result<(), Error> {
        let (checkpoint, own) = (self.checkpoint, self.own_namespaces());
        for process in checkpoint.processes.iter().filter(|_| own) {
            sysvsem::undo(puppet(&mut self.puppets, process.pid)?, process, checkpoint)?;
        }
        for process in checkpoint.processes.iter().filter(|_| own) {
            sysvsem::last(puppet(&mut self.puppets, process.pid)?, process, checkpoint)?;
        }
        Ok(())
    }

    /// Working directories and roots, before anybody closes the sources: who shares a table of descriptors needs them, too.
    fn directories(&mut self, numbers: &BTreeMap<Pid, i32>) -> Result<(), Error> {
        // They may be in /proc.
        let actual = actual(numbers);
        for process in &self.checkpoint.processes {
            if shares(self.checkpoint, process.pid).directories.is_none() {
                let places = [&process.cwd, &process.root].map(|name| renumbered(name, actual));
                process::enter(puppet(&mut self.puppets, process.pid)?, process, self.sources, places)?;
            }
        }
        Ok(())
    }

    /// All of a process but its registers. `others`: its threads but the leader; then its living ones but the first.
    /// `numbers`: those of all.
    fn finish_process(
        &mut self,
        process: &Process,
        others: &mut Vec<Puppet>,
        numbers: &BTreeMap<Pid, i32>,
    ) -> Result<(), Error> {
        let fresh = self.options.pids == Pids::Fresh;
        let actual = actual(numbers);
        let leader = puppet(&mut self.puppets, process.pid)?;
        if shares(self.checkpoint, process.pid).descriptors.is_none() {
            fd::close_sources(leader, &process.fds)?;
        }
        for (table, thread) in tables(process, others) {
            fd::close_sources(thread, &table.fds)?;
            locks::take(thread, process.pid, (&table.fds, &table.locks), self.checkpoint)?;
        }
        locks::take(leader, process.pid, (&process.fds, &process.locks), self.checkpoint)?;
        mqnotify::register(leader, process, self.checkpoint)?;
        process::set_up(leader, process, &mut self.notes)?;
        if let Some(status) = process.ended_leader {
            self.end_leader(process, status, others.remove(0))?;
        }
        let leader = puppet(&mut self.puppets, process.pid)?;
        // At once where nothing that comes between needs privilege: what is done for the whole process is done by the leader.
        let filtered = process.threads.iter().any(|t| t.seccomp.is_some());
        let at_once = |i: usize, t: &Thread| i > 0 && !filtered && self.start.keeps_user(&t.credentials);
        let all = || process.threads.iter().enumerate();
        for ((i, t), puppet) in all().zip(std::iter::once(&mut *leader).chain(&mut *others)) {
            let place = |name| renumbered(name, actual);
            let own = t.directories.as_ref().map(|own| (own, [place(&own.cwd), place(&own.root)]));
            let last = at_once(i, t).then_some(&self.start);
            thread::set_up(puppet, process, (t, own), fresh, self.pinned, last, &mut self.notes)?;
        }
        timers::create(leader, others, process)?;
        let children = self.checkpoint.tree.members.iter().filter(|m| m.ppid == process.pid);
        signals::set_up(leader, process, children.filter_map(jobcontrol::news).collect())?;
        let mut due = timers::Due::of(process, self.checkpoint, self.options);
        for (t, puppet) in process.threads.iter().zip(std::iter::once(&mut *leader).chain(&mut *others)) {
            signals::queue(puppet, process, t, fresh, &mut due)?;
        }
        self.gone_off.insert(process.pid, due.gone_off());
        limits::set(leader, process, namespaces::wanted(self.options))?;
        // Before the privilege to do so goes; our calls are not judged.
        seccomp::set_up(&mut std::iter::once(&mut *leader).chain(&mut *others).collect::<Vec<_>>(), process)?;
        for ((i, t), puppet) in all().zip(std::iter::once(&mut *leader).chain(&mut *others)) {
            if !at_once(i, t) {
                thread::last_settings(puppet, t, &self.start, &mut self.notes)?;
            }
        }
        process::last_settings(leader, process)
    }

    /// Stand-ins get their loop to run.
    fn stand_ins(&mut self, order: &Order, hold: &Hold) -> Result<(), Error> {
        let root = self.checkpoint.tree.root;
        for (&pid, &role) in &order.roles {
            if !matches!(role, Role::StandIn | Role::Idle) {
                continue;
            }
            let root_is_child = self.checkpoint.tree.members.iter().any(|m| m.pid == root && m.ppid == pid);
            let root_pid = self.actual(root);
            let puppet = puppet(&mut self.puppets, pid)?;
            let mut batch = puppet.batch();
            process::set_name(&mut batch, &tracer::tree::STANDIN_COMM.into());
            let slash = batch.data(b"/\0");
            batch.call("chdir", libc::SYS_chdir, &[slash.0]);
            if role == Role::Idle {
                batch.call("prctl", libc::SYS_prctl, &[1, libc::SIGKILL as u64]);
            }
            hold.empty_around(&mut batch);
            hold.let_go(&mut batch);
            puppet.run(batch)?;
            fd::keep_only(puppet, root_is_child.then_some(self.sources.status).into_iter().collect())?;
            puppet.stand_in(root_is_child.then_some((root_pid, self.sources.status)), role == Role::Idle)?;
        }
        Ok(())
    }

    /// Timers start, the stub goes, registers are set: nothing is left to do but to let go.
    fn park(mut self, mut threads: Vec<(Pid, Vec<Puppet>)>, hold: &Hold) -> Result<Built, Error> {
        let mut ready = Vec::new();
        let root = self.hosts.get(&self.checkpoint.tree.root).copied().unwrap_or_default();
        let root_inside = self.actual(self.checkpoint.tree.root);
        // Step by step for all: one process's signal actions and memory may be another's, too.
        for process in &self.checkpoint.processes {
            let gone_off = self.gone_off.get(&process.pid).map_or(&[][..], Vec::as_slice);
            let puppet = puppet(&mut self.puppets, process.pid)?;
            timers::arm(puppet, process, gone_off, (self.checkpoint, self.options))?;
        }
        let mut regs = Vec::with_capacity(self.checkpoint.processes.len());
        let root_host = self.hosts.get(&self.checkpoint.tree.root).copied().unwrap_or_default();
        let elapsed = namespaces::elapsed(root_host, self.checkpoint, self.options)?;
        let now = tasks::clock(libc::CLOCK_MONOTONIC).map_err(|e| Error::step("reading a clock", 0, e))?;
        // When what is left counts from.
        let from = now.less(elapsed);
        for (process, (pid, others)) in self.checkpoint.processes.iter().zip(&mut threads) {
            let leader = puppet(&mut self.puppets, *pid)?;
            signals::trap_action(leader, process)?;
            for (t, puppet) in process.threads.iter().zip(std::iter::once(&mut *leader).chain(&mut *others)) {
                signals::queue_faults(puppet, process, t, self.options.pids == Pids::Fresh)?;
            }
            limits::set_last(leader, process, namespaces::wanted(self.options))?;
            let all = process.threads.iter().zip(std::iter::once(leader).chain(others));
            regs.push(all.map(|(t, puppet)| waits::renew(puppet, t, elapsed)).collect::<Result<Vec<Regs>, Error>>()?);
        }
        let (mut patient, mut siblings) = (HashMap::new(), Vec::new());
        for ((process, regs), (pid, others)) in self.checkpoint.processes.iter().zip(&regs).zip(threads) {
            let mut leader = self
                .puppets
                .remove(&pid)
                .ok_or_else(|| Error::step("building", pid.0, io::Error::other("it was not made")))?;
            if shares(self.checkpoint, pid).memory.is_none() {
                leader.single("munmap", libc::SYS_munmap, &[hold.base.0, LEN])?;
            }
            let host = leader.host();
            let alive = || self.checkpoint.tree.members.iter().any(|m| m.pid == pid && m.state == State::Alive);
            if alive() && !others.is_empty() {
                let tids = std::iter::once(host).chain(others.iter().map(Puppet::host));
                siblings.push(tids.zip(process.threads.iter().map(|t| t.sigmask)).collect());
            }
            let all = std::iter::once(leader).chain(others);
            for ((t, regs), mut puppet) in process.threads.iter().zip(regs).zip(all) {
                puppet.park(regs, t.sigmask)?;
                if let Some(left) = t.left.filter(|_| alive()) {
                    let patience = Patience::with_rest((host, puppet.host()), regs, left, from);
                    patient.extend(patience.map(|patience| (puppet.host(), patience)));
                }
                ready.push(puppet);
            }
        }
        self.puppets.values().for_each(|stand_in| self.pinned.loosen(stand_in.host()));
        self.pinned.settle();
        ready.extend(self.puppets.into_values());
        Ok(Built { root, root_inside, notes: self.notes, socket_files: self.socket_files, ready, siblings, patient })
    }
}

/// Ends a process so that its parent gets this wait(2) status.
pub fn end_as(mut dying: Puppet, status: i32) -> Result<(), Error> {
    // Its core would be this program's, not the one's that died.
    let mut batch = dying.batch();
    let none = batch.data(&[0; 16]);
    batch.call("prlimit", libc::SYS_prlimit64, &[0, 4, none.0, 0]);
    dying.run(batch)?;
    match status & 0x7f {
        0 => dying.exit(status >> 8 & 0xff),
        signal => dying.die(signal),
    }
}

/// Adds a clone3 to a batch.
pub fn clone_into(batch: &mut Batch, flags: u64, exit_signal: i32, pid: Option<Pid>) {
    // The pid stands 128 bytes behind the start of the arguments; where that is, is known only once it is there.
    let probe = batch.data(&[0; 160]);
    let args = clone_args(flags, exit_signal, pid.map(|p| (p, probe.0 + 128)));
    let at = batch.replace(probe, &args);
    batch.call_expecting(Expect::Success, "clone3", libc::SYS_clone3, &[at.0, CLONE_ARGS_LEN as u64]);
}
