//! A process of ours that makes system calls in the IPC namespace of another.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::model::Addr;

use super::check;

/// Bytes that calls of an agent can point to.
pub const ROOM: usize = 1 << 20;

/// Number of a call that is the agent's own; no system call has it.
const COPY_QUEUE: u64 = 1 << 32;

/// A child of ours that runs one system call after the other as it is told. It ends when this is dropped, or when we do,
/// and what it has attached goes with it.
#[derive(Debug)]
pub struct Agent {
    pid: i32,
    /// Closed first when it is dropped: its end of file ends the agent.
    line: Option<File>,
    /// [`ROOM`] bytes at one address in both processes.
    room: *mut libc::c_void,
}

// SAFETY: the room is reached through `&self` or `&mut self` only, and belongs to no thread.
unsafe impl Send for Agent {}
// SAFETY: as above; what needs `&self` only does not touch the room.
unsafe impl Sync for Agent {}

impl Agent {
    /// Starts one in these user and IPC namespaces; none: ours.
    ///
    /// # Errors
    /// As clone(2), mmap(2) and setns(2); `PermissionDenied` where the namespaces are not for us to enter.
    pub fn start(user: Option<BorrowedFd<'_>>, ipc: Option<BorrowedFd<'_>>) -> io::Result<Agent> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new memory, owned by the agent until it is dropped.
        let room = unsafe { libc::mmap(std::ptr::null_mut(), ROOM, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if room == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mut agent = Agent { pid: 0, line: None, room };
        let (ours, its) = std::os::unix::net::UnixStream::pair()?;
        let number = |fd: Option<BorrowedFd<'_>>| fd.map_or(-1, |fd| fd.as_raw_fd());
        let (line, user, ipc) = (its.as_raw_fd(), number(user), number(ipc));
        // No exit signal: whoever waits for the program does not hear of the agent.
        // SAFETY: a plain fork; the child uses nothing but its copies of these numbers, and never returns.
        let pid = check(unsafe { libc::syscall(libc::SYS_clone, 0usize, 0usize, 0usize, 0usize, 0usize) })?;
        if pid == 0 {
            serve(line, user, ipc, room.cast());
        }
        agent.pid = pid as i32;
        agent.line = Some(File::from(OwnedFd::from(ours)));
        drop(its);
        match agent.answer()? {
            0 => Ok(agent),
            error => Err(io::Error::from_raw_os_error(-error as i32)),
        }
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Where the room is, for calls to point to.
    pub fn room(&self) -> Addr {
        Addr(self.room as u64)
    }

    /// Runs one system call. Pointers among its arguments lead into the room.
    ///
    /// # Errors
    /// The call's own; `BrokenPipe` or `UnexpectedEof` if the agent is dead.
    pub fn call(&mut self, nr: i64, args: &[u64]) -> io::Result<u64> {
        let mut words = [0u64; 7];
        words[0] = nr as u64;
        words[1..].iter_mut().zip(args).for_each(|(to, from)| *to = *from);
        let mut request = [0u8; 56];
        request.chunks_exact_mut(8).zip(words).for_each(|(to, from)| to.copy_from_slice(&from.to_ne_bytes()));
        self.line()?.write_all(&request)?;
        match self.answer()? {
            error @ -4095..=-1 => Err(io::Error::from_raw_os_error(-error as i32)),
            result => Ok(result as u64),
        }
    }

    /// The messages of the POSIX message queue open at `path`, with their priorities, in the order of receiving: all are taken
    /// and put back, also if we die meanwhile.
    ///
    /// # Errors
    /// As open(2) and mq_receive(3); `EMSGSIZE` if they do not fit into the room, with room for one more.
    pub fn copy_queue(&mut self, path: &str) -> io::Result<Vec<(u32, Vec<u8>)>> {
        self.write(&[path.as_bytes(), b"\0"].concat());
        let flags = (libc::O_RDWR | libc::O_NONBLOCK) as u64;
        let fd = self.call(libc::SYS_openat, &[libc::AT_FDCWD as u64, self.room().0, flags])?;
        let used = self.call(COPY_QUEUE as i64, &[fd])? as usize;
        self.call(libc::SYS_close, &[fd])?;
        let mut bytes = vec![0; used.min(ROOM)];
        self.read(&mut bytes);
        let mut out = Vec::new();
        let mut rest = &bytes[..];
        while let Some((&[a, b, c, d, e, f, g, h], body)) = rest.split_first_chunk() {
            let len = u32::from_ne_bytes([a, b, c, d]) as usize;
            let Some(text) = body.get(..len) else { break };
            out.push((u32::from_ne_bytes([e, f, g, h]), text.to_vec()));
            rest = body.get(len.next_multiple_of(8)..).unwrap_or_default();
        }
        Ok(out)
    }

    /// The first bytes of the room, [`ROOM`] at most.
    pub fn read(&mut self, buf: &mut [u8]) {
        let len = buf.len().min(ROOM);
        // SAFETY: the room is as long, and the agent is not in a call.
        unsafe { std::ptr::copy_nonoverlapping(self.room.cast::<u8>(), buf.as_mut_ptr(), len) };
    }

    /// Puts bytes, [`ROOM`] at most, at the beginning of the room.
    pub fn write(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(ROOM);
        // SAFETY: as for `read`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.room.cast::<u8>(), len) };
    }

    fn line(&mut self) -> io::Result<&mut File> {
        self.line.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    fn answer(&mut self) -> io::Result<i64> {
        let mut answer = [0u8; 8];
        self.line()?.read_exact(&mut answer)?;
        Ok(i64::from_ne_bytes(answer))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.line = None;
        // SAFETY: `room` was mapped in `start`; the child is ours.
        unsafe {
            if self.pid > 0 {
                while libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL) < 0
                    && Errno::last_raw() == libc::EINTR
                {}
            }
            libc::munmap(self.room, ROOM);
        }
    }
}

/// The child: says 0 once it is in its namespaces or a negative errno, then serves to the end of file.
fn serve(line: i32, user: i32, ipc: i32, room: *mut u8) -> ! {
    // SAFETY: system calls with the child's own copies and buffers on its stack; libc's wrappers used here take no locks.
    unsafe {
        // Signals meant for the supervisor's group are not for us; nor may a handler of the supervisor's run.
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
        let joined = (user < 0 || libc::setns(user, libc::CLONE_NEWUSER) == 0)
            && (ipc < 0 || libc::setns(ipc, libc::CLONE_NEWIPC) == 0);
        let mut answer = if joined { 0 } else { -i64::from(Errno::last_raw()) };
        // What the supervisor has open must end when the supervisor closes it.
        if line > 0 {
            libc::syscall(libc::SYS_close_range, 0, line - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, line + 1, u32::MAX, 0);
        loop {
            let mut request = [0u64; 7];
            if libc::write(line, (&raw const answer).cast(), 8) != 8
                || libc::recv(line, request.as_mut_ptr().cast(), 56, libc::MSG_WAITALL) != 56
            {
                libc::_exit(0);
            }
            let [nr, a, b, c, d, e, f] = request;
            if nr == COPY_QUEUE {
                answer = copy_queue(a as i32, room);
                continue;
            }
            let result = libc::syscall(nr as libc::c_long, a, b, c, d, e, f);
            answer = if result == -1 { -i64::from(Errno::last_raw()) } else { result };
        }
    }
}

/// Takes all messages of a queue into the room and puts them back: bytes used there, or a negative errno. Each has its length
/// and priority before it and begins at a multiple of 8. They come highest priority first, the oldest of each first, and
/// so go back to their old order. No signal but SIGKILL reaches us in between.
unsafe fn copy_queue(fd: i32, room: *mut u8) -> i64 {
    const HEAD: usize = 8;
    // SAFETY: everything is within the room, whose size is known.
    unsafe {
        let null = std::ptr::null::<libc::timespec>();
        let mut end = 0;
        let stopped = loop {
            if end + HEAD >= ROOM {
                break libc::EMSGSIZE;
            }
            let (at, mut priority) = (room.add(end), 0u32);
            let left = ROOM - end - HEAD;
            let len = libc::syscall(libc::SYS_mq_timedreceive, fd, at.add(HEAD), left, &raw mut priority, null);
            if len < 0 && Errno::last_raw() == libc::EINTR {
                continue;
            }
            if len < 0 {
                break Errno::last_raw();
            }
            at.cast::<u32>().write(len as u32);
            at.add(4).cast::<u32>().write(priority);
            end = (end + HEAD + len as usize).next_multiple_of(HEAD);
        };
        let mut from = 0;
        while from < end {
            let at = room.add(from);
            let (len, priority) = (at.cast::<u32>().read() as usize, at.add(4).cast::<u32>().read());
            // There is room for what was there; should somebody have taken it, or memory be short, that passes.
            while libc::syscall(libc::SYS_mq_timedsend, fd, at.add(HEAD), len, priority, null) != 0 {
                if !matches!(Errno::last_raw(), libc::EAGAIN | libc::EINTR | libc::ENOMEM) {
                    return -i64::from(Errno::last_raw());
                }
                libc::sched_yield();
            }
            from = (from + HEAD + len).next_multiple_of(HEAD);
        }
        if stopped == libc::EAGAIN { end as i64 } else { -i64::from(stopped) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_does_as_it_is_told_and_ends() {
        let mut agent = Agent::start(None, None).unwrap();
        let pid = agent.pid();
        assert_eq!(agent.call(libc::SYS_getpid, &[]).unwrap(), pid as u64);
        agent.write(b"/dev/zero\0");
        let fd = agent.call(libc::SYS_open, &[agent.room().0, 0]).unwrap();
        assert_eq!(agent.call(libc::SYS_read, &[fd, agent.room().0, 5]).unwrap(), 5);
        let mut bytes = [1; 6];
        agent.read(&mut bytes);
        assert_eq!(&bytes, b"\0\0\0\0\0z");
        assert_eq!(agent.call(libc::SYS_close, &[99]).unwrap_err().raw_os_error(), Some(libc::EBADF));
        drop(agent);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_namespace_that_is_none_is_an_error() {
        use std::os::fd::AsFd;
        let file = tempfile::tempfile().unwrap();
        let error = Agent::start(None, Some(file.as_fd())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
