//! The loop of a supervisor: waits for the program, for signals, for clients and for saves, all at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpgid, getpgrp};

use super::directory::Claim;
use super::peer::Peer;
use super::protocol::{After, LastSave, Reply, Request, SaveRequest, Saved, Status};
use super::relay::Relay;
use super::saves::{Done, Order, Report, Saves, Work};
use super::signals::{self, Action, Place};
use super::{Error, Failure, FailureKind, members, template};
use crate::capture::{Keep, Output};
use crate::model::Name;
use crate::sys::sigmask;
use crate::sys::spawn::{Change, next_child, stop_by};

/// Clients that may be connected at a time.
const MOST_PEERS: usize = 64;

/// The signals of a supervisor, blocked and readable instead.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    /// The mask that was in force before: what a program that is started must get.
    pub before: u64,
}

impl Signals {
    /// Blocks what a supervisor watches, in this thread and those it starts.
    ///
    /// # Errors
    /// What the system says.
    pub fn block() -> Result<Signals, Error> {
        let before = sigmask::blocked().map_err(Error::io("read", "the signal mask"))?;
        let set = signals::watched();
        set.thread_block().map_err(Error::io("block", "signals"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = SignalFd::with_flags(&set, flags).map_err(Error::io("watch for", "signals"))?;
        Ok(Signals { fd, before })
    }
}

/// The program of a job.
#[derive(Debug)]
pub enum Program {
    /// Our child.
    Started {
        /// Its pid.
        root: i32,
    },
    /// Brought to life from an image.
    Resumed {
        /// Its path; `-` for one that came through a pipe.
        image: PathBuf,
        /// Its pid, as we see it.
        root: i32,
        /// Pid 1 of its namespace, our child; 0 if it has none of its own.
        init: i32,
        /// Gives the `wait(2)` status of the root, four bytes, or just ends if everything was killed.
        status: OwnedFd,
    },
}

/// A job to keep.
#[derive(Debug)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// Its control socket.
    pub claim: Claim,
    /// Its program.
    pub program: Program,
    /// Its terminal and ours, if it has one made for it.
    pub relay: Option<Relay>,
    /// What to show as its command.
    pub command: Vec<Name>,
    /// Where its images go: an absolute template.
    pub output: PathBuf,
    /// Contents of which files go into them.
    pub keep: Keep,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// The program ended by itself, so.
    Program(Change),
    /// It was saved, and ended as asked for.
    Saved(Saved),
}

struct Keeper {
    job: Job,
    signals: Signals,
    saves: Saves,
    peers: BTreeMap<u64, Peer>,
    next_peer: u64,
    started: String,
    sequence: u64,
    good: u64,
    last: Option<LastSave>,
    stopped: bool,
    ended: Option<Ended>,
}

/// Keeps a job until its program has ended. The control socket is gone when it returns.
///
/// # Errors
/// What poll(2) says, which nothing can be done about; the program then runs on unsupervised.
pub fn keep(job: Job, signals: Signals) -> Result<Ended, Error> {
    let mut keeper = Keeper {
        job,
        signals,
        saves: Saves::new()?,
        peers: BTreeMap::new(),
        next_peer: 0,
        started: now(),
        sequence: 0,
        good: 0,
        last: None,
        stopped: false,
        ended: None,
    };
    keeper.reap(); // what ended before we looked
    loop {
        if let Some(ended) = keeper.ended.take() {
            return Ok(keeper.finish(ended));
        }
        keeper.turn()?;
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Keeper {
    fn root(&self) -> i32 {
        match self.job.program {
            Program::Started { root } | Program::Resumed { root, .. } => root,
        }
    }

    fn place(&self) -> Place {
        match self.job.program {
            Program::Started { .. } => Place::WithUs,
            // A program resumed into our own process group hears the terminal itself.
            Program::Resumed { root, .. } if getpgid(Some(Pid::from_raw(root))) == Ok(getpgrp()) => Place::WithUs,
            Program::Resumed { .. } => Place::Apart,
        }
    }

    /// Waits until something happens, and sees to it.
    fn turn(&mut self) -> Result<(), Error> {
        let read = PollFlags::POLLIN;
        let mut fds = vec![
            PollFd::new(self.signals.fd.as_fd(), read),
            PollFd::new(self.saves.fd(), read),
            PollFd::new(self.job.claim.listener.as_fd(), read),
        ];
        fds.extend(self.status_fd().map(|fd| PollFd::new(fd, read)));
        let status_at = fds.len() - 1;
        let mut timeout = PollTimeout::NONE;
        if let Some(relay) = &self.job.relay {
            let (terminals, most) = relay.waits();
            fds.extend(terminals.into_iter().map(|(fd, events)| PollFd::new(fd, events)));
            timeout = most;
        }
        let fixed = fds.len();
        for peer in self.peers.values() {
            let write = if peer.has_unsent() { PollFlags::POLLOUT } else { PollFlags::empty() };
            // One that has said its last word would be readable for ever.
            let listen = if peer.has_ended() { PollFlags::empty() } else { read };
            fds.push(PollFd::new(peer.stream().as_fd(), listen | write));
        }
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(Error::io("wait for", "events")(errno)),
        }
        let events: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        let ready = |at: usize| events.get(at).is_some_and(|events| !events.is_empty());
        let peers: Vec<(u64, PollFlags)> = self
            .peers
            .keys()
            .copied()
            .zip(events.iter().skip(fixed).copied())
            .filter(|(_, it)| !it.is_empty())
            .collect();

        if ready(0) {
            self.take_signals();
        }
        if ready(1) {
            if let Some(done) = self.saves.take_done() {
                self.done(done);
            }
        }
        if status_at == 3 && ready(3) {
            self.take_status();
        }
        if let Some(relay) = &mut self.job.relay {
            relay.serve();
        }
        if ready(2) {
            self.admit();
        }
        for (id, events) in peers {
            self.hear(id, events);
        }
        self.peers.retain(|_, peer| !peer.is_over());
        self.start_next_save();
        Ok(())
    }

    fn status_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.job.program {
            Program::Started { .. } => None,
            // While a save goes on, it may tell of an end that the save is about to tell better.
            Program::Resumed { status, .. } => (!self.saves.busy()).then(|| status.as_fd()),
        }
    }

    fn take_status(&mut self) {
        let Program::Resumed { status, .. } = &self.job.program else { return };
        let mut bytes = [0; 4];
        let told = status.try_clone().and_then(|fd| File::from(fd).read_exact(&mut bytes));
        let change = match told {
            Ok(()) => Change::from_wait_status(i32::from_le_bytes(bytes)),
            Err(_) => None,
        };
        match change.unwrap_or(Change::Killed(Signal::SIGKILL as i32)) {
            Change::Stopped(signal) => self.program_stopped(signal),
            ended => self.end(Ended::Program(ended)),
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.fd.read_signal() {
            let Ok(signal) = Signal::try_from(info.ssi_signo as i32) else { continue };
            let action = signals::action(signal, self.place());
            if signal == Signal::SIGCONT && self.stopped {
                // A save left every process stopped, not only the root.
                self.stopped = false;
                self.signal_members(signal);
                continue;
            }
            match action {
                Action::Reap => self.reap(),
                Action::Drop => {}
                Action::Forward => drop(kill(Pid::from_raw(self.root()), signal)),
                Action::ForwardToGroup => match (&mut self.job.relay, signal) {
                    // Its own terminal tells the program.
                    (Some(relay), Signal::SIGWINCH) => relay.resize(),
                    (Some(relay), Signal::SIGCONT) => {
                        relay.begin_anew();
                        relay.signal(signal);
                        self.signal_group(signal);
                    }
                    _ => self.signal_group(signal),
                },
                Action::ForwardToGroupAndStop => {
                    self.signal_group(signal);
                    self.stop(signal);
                }
            }
        }
    }

    fn signal_group(&self, signal: Signal) {
        let root = Pid::from_raw(self.root());
        // A group leader that our namespace can't see has number 0, which would mean our own group.
        let _ = match getpgid(Some(root)) {
            Ok(group) if group.as_raw() > 0 && group != getpgrp() => killpg(group, signal),
            _ => kill(root, signal),
        };
    }

    fn signal_members(&self, signal: Signal) -> usize {
        let members = members::descendants(std::process::id() as i32);
        members.into_iter().filter(|&pid| kill(Pid::from_raw(pid), signal).is_ok()).count()
    }

    /// Takes in what became of our children: the program, and orphans of it.
    fn reap(&mut self) {
        if self.saves.busy() {
            return; // see Saves::busy
        }
        while let Some((pid, change)) = next_child() {
            let root = pid == self.root();
            match change {
                Change::Stopped(signal) if root => self.program_stopped(signal),
                Change::Stopped(_) => {}
                ended if root => self.end(Ended::Program(ended)),
                _ => {}
            }
        }
    }

    /// The program was stopped from its terminal: stop as well, so that the shell which waits for us notices.
    fn program_stopped(&mut self, signal: i32) {
        let signal = Signal::try_from(signal).ok();
        let by_terminal = |signal: &Signal| matches!(signal, Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU);
        let Some(signal) = signal.filter(by_terminal) else { return };
        // It may have gone on before we came to this.
        if !members::is_stopped(self.root()) {
            return;
        }
        if self.place() == Place::WithUs {
            let _ = stop_by(signal);
        } else if self.job.relay.is_some() {
            self.stop(signal);
            // Also where we could not stop: then nobody could continue the program, either.
            self.job.relay.iter().for_each(|relay| relay.signal(Signal::SIGCONT));
            self.signal_group(Signal::SIGCONT);
        }
    }

    /// Stops, and leaves the terminal to the shell.
    fn stop(&mut self, signal: Signal) {
        self.job.relay.iter_mut().for_each(Relay::rest);
        let _ = stop_by(signal);
    }

    /// The first end is the one that counts.
    fn end(&mut self, ended: Ended) {
        self.ended.get_or_insert(ended);
    }

    fn admit(&mut self) {
        while let Ok((stream, _)) = self.job.claim.listener.accept() {
            if self.peers.len() >= MOST_PEERS {
                continue; // closed at once
            }
            if let Some(peer) = Peer::admit(stream) {
                self.peers.insert(self.next_peer, peer);
                self.next_peer += 1;
            }
        }
    }

    fn hear(&mut self, id: u64, events: PollFlags) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.flush();
        let requests = peer.requests();
        // A client that has gone altogether wants no save any more; one that only has no more to ask does.
        let gone = events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        for request in requests {
            self.answer(id, request);
        }
        if gone {
            self.saves.cancel(id);
            self.peers.remove(&id);
        }
    }

    fn answer(&mut self, id: u64, request: Request) {
        let reply = match request {
            Request::Status => Reply::Status(self.status()),
            Request::Kill { signal } => match Signal::try_from(signal) {
                Ok(signal) => Reply::Signalled { processes: self.signal_members(signal) },
                Err(_) => Reply::Failed(Failure::new(FailureKind::Usage, format!("no signal {signal}"), "")),
            },
            Request::Cancel => {
                for _ in self.saves.cancel(id) {
                    self.tell(id, Reply::Failed(Failure::new(FailureKind::Failed, "the save was cancelled", "")));
                }
                return;
            }
            Request::Save(request) => match self.order(id, request) {
                Ok(()) => return,
                Err(failure) => Reply::Failed(failure),
            },
        };
        self.tell(id, reply);
    }

    fn tell(&mut self, id: u64, reply: Reply) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.send(&reply);
        }
    }

    fn status(&self) -> Status {
        let stopped = members::is_stopped(self.root());
        let state = match (self.saves.busy(), stopped) {
            (true, _) => "saving",
            (false, true) => "stopped",
            (false, false) => "running",
        };
        let image = match &self.job.program {
            Program::Started { .. } => None,
            Program::Resumed { image, .. } => Some(image.as_path().into()),
        };
        Status {
            name: self.job.name.clone(),
            pid: self.root(),
            supervisor: std::process::id() as i32,
            command: self.job.command.clone(),
            resumed: image.is_some(),
            image,
            state: state.into(),
            started: self.started.clone(),
            processes: members::descendants(std::process::id() as i32).len(),
            output: self.job.output.as_path().into(),
            saves: self.good,
            last: self.last.clone(),
        }
    }

    fn order(&mut self, peer: u64, request: SaveRequest) -> Result<(), Failure> {
        let usage = |text: &str| Failure::new(FailureKind::Usage, text, "");
        let sent = self.peers.get_mut(&peer).and_then(Peer::take_descriptor);
        let stream = match (request.stream, sent) {
            (true, None) => return Err(usage("no descriptor came along for the stream")),
            (true, Some(fd)) => Some(File::from(fd)),
            (false, _) => None,
        };
        if let Some(output) = &request.output {
            if !output.as_path().is_absolute() {
                return Err(usage("the output is not an absolute path"));
            }
            template::check(output.as_path())?;
        }
        if let Some(pid) = request.pid {
            if !members::descendants(std::process::id() as i32).contains(&pid) {
                let text = format!("pid {pid} is not a process of {}", self.job.name);
                return Err(Failure::new(FailureKind::Vanished, text, ""));
            }
        }
        self.saves.order(Order { peer, request, stream })
    }

    fn start_next_save(&mut self) {
        // An end that nobody has waited for yet would be a save of nothing.
        self.reap();
        while self.ended.is_none() {
            let Some(Order { peer, request, stream }) = self.saves.next() else { return };
            self.sequence += 1;
            let started = self.work(request, stream).and_then(|work| self.saves.start(peer, work));
            if let Err(failure) = started {
                self.tell(peer, Reply::Failed(failure));
            }
        }
    }

    fn work(&self, request: SaveRequest, stream: Option<File>) -> Result<Work, Failure> {
        let root = request.pid.unwrap_or(self.root());
        let output = match stream {
            Some(stream) => Output::Stream(stream),
            None => {
                let template = request.output.as_ref().map_or(self.job.output.as_path(), Name::as_path);
                let values = template::Values { name: &self.job.name, pid: root, seq: self.sequence };
                Output::File(template::expand(template, &values)?)
            }
        };
        // Orphans of a started program are our children; those of a resumed one stay below its own pid 1.
        let reaper = match (&self.job.program, request.pid) {
            (Program::Started { .. }, None) => Some(std::process::id() as i32),
            _ => None,
        };
        let Keep { files, embed } = &self.job.keep;
        let files = request.save_files.as_ref().unwrap_or(files).clone();
        let keep = Keep { files, embed: *embed || request.embed_files };
        Ok(Work { root, reaper, name: self.job.name.clone(), output, keep, request })
    }

    fn done(&mut self, Done { peer, whole, result }: Done) {
        match result {
            Ok(Report::Surveyed(survey)) => self.tell(peer, Reply::Surveyed(survey)),
            Ok(Report::Saved(saved)) => {
                self.good += 1;
                self.last = Some(LastSave { time: now(), saved: saved.clone() });
                self.stopped |= saved.after == After::Stop;
                tracing::info!("saved {}", saved.path.as_ref().map_or("to a stream".into(), Name::display));
                self.tell(peer, Reply::Saved(saved.clone()));
                if whole && saved.after == After::Kill {
                    self.end(Ended::Saved(saved));
                }
            }
            Err(failure) => {
                tracing::info!("a save failed: {failure}");
                self.tell(peer, Reply::Failed(failure));
            }
        }
        self.reap();
    }

    /// Says good-bye to everybody.
    fn finish(mut self, ended: Ended) -> Ended {
        if let Some(done) = self.saves.wait() {
            self.done(done);
        }
        let vanished = Failure::new(FailureKind::Vanished, format!("{} has ended", self.job.name), "");
        let waiting: Vec<u64> = self.saves.give_up().map(|order| order.peer).collect();
        for peer in waiting {
            self.tell(peer, Reply::Failed(vanished.clone()));
        }
        if let (Ended::Saved(_), Program::Resumed { init: init @ 1.., .. }) = (&ended, &self.job.program) {
            // The program is gone; with its pid 1 the stand-ins go, too.
            let _ = kill(Pid::from_raw(*init), Signal::SIGKILL);
        }
        self.job.relay.take().into_iter().for_each(Relay::finish);
        let Keeper { job, peers, .. } = self;
        drop(job); // the name is free before anybody can notice the end
        peers.into_values().for_each(Peer::finish);
        ended
    }
}
