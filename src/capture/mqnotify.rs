//! mq_notify(3). The kernel shows who is told of a message and how, but neither the value that a signal brings nor what is
//! sent to a socket. So the program itself brings that about and undoes it, in one table of calls, which is run to its end whether
//! we live or not, while nobody else of the tree runs: of a signal by a message, which it takes back with the signal; of a socket
//! by taking its name off and looking what it was told then. In both cases it puts itself on the list again.

use std::collections::HashSet;
use std::os::fd::AsFd;

use crate::model::mqnotify::{COOKIE, How, Notification};
use crate::model::{Hex, Pid, Refusal};
use crate::net::inflight;
use crate::net::options::Made;
use crate::proc::mqueue::Notified;
use crate::sys::socket;
use crate::tracer::{Answers, Call, Calls, HeldProcess, Room};

use super::Error;
use super::fd::{SeenFd, Work};
use super::netlink;
use super::sockets::is_socket;

/// What passes: a program that is told of a message registers again, then takes what is there.
pub(super) const WITH_MESSAGES: &str =
    "a process waits to be notified of the next message (mq_notify) while there are some";
/// Likewise.
pub(super) const PENDING: &str = "a process waits to be notified of a message (mq_notify) by a signal that is pending";

const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
const SIGEV_THREAD: i32 = 2;
/// si_code of a signal that tells of a message.
const SI_MESGQ: i32 = -3;
/// Bytes of siginfo_t, and where `si_code` and `si_value` are.
const INFO: u64 = 128;
const CODE: usize = 8;
const VALUE: u64 = 24;
/// Longer than any message may be (HARD_MSGSIZEMAX): a receiver must have room for the longest, what comes is 8 bytes.
const LONGEST: u64 = 16 << 20;

/// A registration that was seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// The process, by its index among the held ones.
    process: usize,
    pid: Pid,
    /// A descriptor of the queue that it has.
    queue: i32,
    way: Way,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Nothing,
    /// The signal, and a number that no descriptor of the process has.
    Signal {
        signal: i32,
        free: i32,
    },
    /// The descriptor of the socket.
    Socket(i32),
}

/// What is registered with the queue (device, inode), or why that can't be saved and the way out. `count`: messages in it.
pub(super) fn look(
    work: &Work<'_>,
    key: (u64, u64),
    notified: Notified,
    count: u64,
) -> Result<Result<Seen, (&'static str, &'static str)>, Error> {
    const HINT: &str = "save it when none does";
    let Some((process, p)) = work.held.processes.iter().enumerate().find(|(_, p)| p.host == notified.pid) else {
        return Ok(Err(("a process outside the tree waits to be notified of a message (mq_notify)", HINT)));
    };
    if count > 0 {
        return Ok(Err((WITH_MESSAGES, "save it when they have been taken")));
    }
    let own = |s: &&SeenFd| s.table() == (process, None);
    let Some(queue) = work.seen.iter().filter(own).find(|s| s.key() == key) else {
        let reason =
            "a process that shares its descriptors waits to be notified of a message (mq_notify): not supported";
        return Ok(Err((reason, HINT)));
    };
    let way = match notified.how {
        SIGEV_NONE => Way::Nothing,
        SIGEV_SIGNAL => match signal(p, notified.signal) {
            Ok(signal) => {
                let taken: HashSet<i32> = work.seen.iter().filter(own).map(|s| s.fd).collect();
                Way::Signal { signal, free: (0..).find(|fd| !taken.contains(fd)).unwrap_or_default() }
            }
            Err(reason) => return Ok(Err((reason, HINT))),
        },
        SIGEV_THREAD => match socket(work, process)? {
            Some(fd) => Way::Socket(fd),
            None => {
                let reason = "a process waits to be notified of a message (mq_notify) by a socket that is not found";
                return Ok(Err((reason, HINT)));
            }
        },
        _ => return Ok(Err(("a process waits to be notified of a message in an unknown way (mq_notify)", HINT))),
    };
    Ok(Ok(Seen { process, pid: p.pid, queue: queue.fd, way }))
}

/// A signal that can be sent and taken back without anybody noticing, or why not.
fn signal(p: &HeldProcess, signal: i32) -> Result<i32, &'static str> {
    // These act on the process as they are sent (kernel/signal.c, prepare_signal), or are none.
    const ACTS: [i32; 7] =
        [0, libc::SIGKILL, libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGCONT];
    // By these threads tell that they have run their tables, if the program does not care for them (tracer::calls).
    const TELL: [i32; 3] = [libc::SIGURG, libc::SIGWINCH, libc::SIGCHLD];
    if !(0..=64).contains(&signal) || ACTS.contains(&signal) {
        return Err("a process waits to be notified of a message (mq_notify) by a signal that stops or ends it");
    }
    let has = |set: u64| set >> (signal - 1) & 1 == 1;
    let statuses = || p.threads.iter().map(|t| &t.status);
    if statuses().any(|s| has(s.sig_ignored) || TELL.contains(&signal) && !has(s.sig_caught)) {
        return Err("a process waits to be notified of a message (mq_notify) by a signal that it ignores");
    }
    if statuses().any(|s| has(s.sig_pending | s.shared_pending)) {
        return Err(PENDING);
    }
    if statuses().any(|s| s.signals_queued.0 >= s.signals_queued.1) {
        return Err(
            "a process waits to be notified of a message (mq_notify), and its user may have no more signals queued",
        );
    }
    Ok(signal)
}

/// The only netlink socket of a process that has something in its memory and nothing to be read: what is to be sent to it is
/// on its account from the beginning (net/netlink/af_netlink.c, netlink_attachskb).
fn socket(work: &Work<'_>, process: usize) -> Result<Option<i32>, Error> {
    let mut found: Option<&SeenFd> = None;
    for s in work.seen.iter().filter(|s| s.table() == (process, None) && is_socket(s)) {
        let failed = Error::of(s.host, "looking into a socket");
        let copy = s.copy(work.held)?;
        let charged = || Ok(inflight::taken(copy.as_fd())? > 0 && socket::events(copy.as_fd(), libc::POLLIN)? == 0);
        if !Made::of(copy.as_fd()).is_ok_and(netlink::is) || !charged().map_err(failed)? {
            continue;
        }
        if found.is_some_and(|other| other.key() != s.key()) {
            return Ok(None);
        }
        found = Some(s);
    }
    Ok(found.map(|s| s.fd))
}

/// What the first thread of a process is asked.
#[derive(Debug)]
pub(super) struct Asked {
    seen: Seen,
    /// Bytes that came, and the call that has put the process on the list again.
    answer: Option<(Room, Call)>,
    /// Whether the cookie has come.
    got_cookie: Option<Call>,
}

impl Seen {
    /// Whether it is of the process with this index.
    pub fn is_of(&self, process: usize) -> bool {
        self.process == process
    }

    /// Asks for what does not show.
    pub fn ask(self, calls: &mut Calls) -> Asked {
        let mut got_cookie = None;
        let answer = match self.way {
            Way::Nothing => None,
            Way::Signal { signal, free } => Some(self.ask_for_value(calls, signal, free)),
            Way::Socket(fd) => {
                let (cookie, got, again) = self.ask_for_cookie(calls, fd);
                got_cookie = Some(got);
                Some((cookie, again))
            }
        };
        Asked { seen: self, answer, got_cookie }
    }

    /// `struct sigevent` has the value before signal and way, `siginfo_t` has it last: the message brings these two, and is
    /// received behind it.
    fn ask_for_value(self, calls: &mut Calls, signal: i32, free: i32) -> (Room, Call) {
        let path = calls.data(format!("/proc/self/fd/{}\0", self.queue).into_bytes());
        let rest = calls.data([signal, SIGEV_SIGNAL].map(i32::to_ne_bytes).concat());
        let set = calls.data((1u64 << (signal - 1)).to_ne_bytes().to_vec());
        let at_once = calls.data(vec![0; 16]);
        let info = calls.room(INFO);
        let flags = (libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC) as u64;
        let (queue, free) = (self.queue as u64, free as u64);
        calls.try_call_into(libc::SYS_openat, &[libc::AT_FDCWD as u64, 0, flags], &[(1, path)]);
        calls.try_call_into(libc::SYS_mq_timedsend, &[free, 0, 8], &[(1, rest)]);
        calls.try_call_into(libc::SYS_rt_sigtimedwait, &[0, 0, 0, 8], &[(0, set), (1, info), (2, at_once)]);
        calls.try_call_into(libc::SYS_mq_timedreceive, &[free, 0, LONGEST], &[(1, info.behind(VALUE + 8))]);
        // Before it registers: to close a descriptor of the queue takes its name off (ipc/mqueue.c, mqueue_flush_file).
        calls.try_call(libc::SYS_close, &[free]);
        let again = calls.try_call_into(libc::SYS_mq_notify, &[queue, 0], &[(1, info.behind(VALUE))]);
        (info, again)
    }

    fn ask_for_cookie(self, calls: &mut Calls, socket: i32) -> (Room, Call, Call) {
        let (queue, len) = (self.queue as u64, COOKIE as u64);
        let cookie = calls.room(len);
        let event = calls.pointer(cookie, &[socket, SIGEV_THREAD].map(i32::to_ne_bytes).concat());
        calls.try_call(libc::SYS_mq_notify, &[queue, 0]);
        let flags = libc::MSG_DONTWAIT as u64;
        let got = calls.try_call_into(libc::SYS_recvfrom, &[socket as u64, 0, len, flags], &[(1, cookie)]);
        let again = calls.try_call_into(libc::SYS_mq_notify, &[queue, 0], &[(1, event)]);
        (cookie, got, again)
    }
}

impl Asked {
    /// Whether the cookie came by the socket it was looked for at, if it is one.
    fn cookie_came(&self, answers: &Answers) -> bool {
        self.got_cookie.is_none_or(|got| answers.result(got).is_ok_and(|len| len == COOKIE as u64))
    }

    /// The registration.
    ///
    /// # Errors
    /// If it was not to be found out.
    pub fn answered(&self, answers: &Answers) -> Result<Notification, Error> {
        let unknown = |reason: &str| {
            let refusal = Refusal {
                pid: self.seen.pid,
                object: format!("fd {} (message queue)", self.seen.queue),
                reason: reason.to_owned(),
                hint: "save it when it does not wait to be notified".to_owned(),
            };
            Error::Refused(vec![refusal])
        };
        let bytes = match self.answer {
            None => &[],
            Some((_, again)) if answers.result(again).is_err() || !self.cookie_came(answers) => {
                return Err(unknown("how it is notified of a message (mq_notify) can't be found out"));
            }
            Some((room, _)) => answers.bytes(room),
        };
        let how = match self.seen.way {
            Way::Nothing => How::Nothing,
            Way::Signal { signal, .. } => {
                let code = bytes.get(CODE..).and_then(<[u8]>::first_chunk).map_or(0, |b| i32::from_ne_bytes(*b));
                let value = bytes.get(VALUE as usize..).and_then(<[u8]>::first_chunk);
                match value {
                    Some(value) if code == SI_MESGQ => How::Signal { signal, value: u64::from_ne_bytes(*value) },
                    _ => return Err(unknown("what it is notified of a message with (mq_notify) can't be found out")),
                }
            }
            Way::Socket(fd) => How::Socket { fd, cookie: Hex(bytes.to_vec()) },
        };
        Ok(Notification { pid: self.seen.pid, how })
    }
}
