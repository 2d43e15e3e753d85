//! Pure parsers of `/proc` text (bytes in, values out) and thin readers on top, which take pids of our own namespace.
//!
//! Names in `/proc` are bytes, not text; a newline in a name shows as `\012`, and a file may really be called
//! `x (deleted)`: whoever needs to be sure compares device and inode.

pub mod elf;
pub mod fdinfo;
pub mod limits;
pub mod lists;
pub mod locks;
pub mod many;
pub mod mounts;
pub mod mqueue;
pub mod sched;
pub mod smaps;
pub mod stat;
pub mod status;
pub mod sysvipc;
pub mod timers;
pub mod warm;

mod text;

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::model::Name;
use crate::sys::fds::open_to_read;

/// What can go wrong with a file of `/proc`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It does not say what it should.
    #[error("cannot make sense of {path}: {what}")]
    Malformed {
        /// The file.
        path: String,
        /// What is missing or odd.
        what: &'static str,
    },
}

impl Error {
    /// Whether the process or thread is gone.
    pub fn is_gone(&self) -> bool {
        match self {
            // A process that ends between open and read gives ESRCH.
            Error::Read { source, .. } => {
                source.kind() == std::io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32)
            }
            Error::Malformed { .. } => false,
        }
    }

    /// The error number of a read that failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Read { source, .. } => source.raw_os_error(),
            Error::Malformed { .. } => None,
        }
    }
}

/// What a parser found missing or odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// No text of `/proc` that we read is longer.
const LONGEST: usize = 1 << 30;

/// The whole of `/proc/PATH`, for instance `self/maps`.
///
/// # Errors
/// As read(2); `OutOfMemory` for more than 1 GiB.
pub fn read(path: &str) -> Result<Vec<u8>, Error> {
    let path = format!("/proc/{path}");
    let fail = |source| Error::Read { path: path.clone(), source };
    let mut file = open_to_read(&path).map_err(fail)?;
    // The kernel hands out a page or so at a time and files have no size: our own loop saves the system calls by
    // which `read_to_end` looks for one.
    let mut out = vec![0; 16 << 10];
    let mut len = 0;
    loop {
        if len + 4096 > out.len() {
            if out.len() >= LONGEST {
                return Err(fail(std::io::ErrorKind::OutOfMemory.into()));
            }
            out.resize(out.len() * 2, 0);
        }
        match file.read(out.get_mut(len..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(fail(e)),
        }
    }
    out.truncate(len);
    Ok(out)
}

/// Of a file that is of one piece (fs/seq_file.c, single_open): a read that does not fill its buffer has all of it.
fn parsed<T>(path: &str, parse: impl FnOnce(&[u8]) -> Result<T, Malformed>) -> Result<T, Error> {
    let fail = |source| Error::Read { path: format!("/proc/{path}"), source };
    let mut file = open_to_read(&format!("/proc/{path}")).map_err(fail)?;
    let mut text = [0; 4096];
    loop {
        match file.read(&mut text) {
            Ok(len) if len < text.len() => return understood(path, text.get(..len).unwrap_or_default(), parse),
            Ok(_) => return understood(path, &read(path)?, parse),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(fail(e)),
        }
    }
}

/// The same for a file that the kernel makes record by record: there a short read is not the end.
fn parsed_to_end<T>(path: &str, parse: impl FnOnce(&[u8]) -> Result<T, Malformed>) -> Result<T, Error> {
    understood(path, &read(path)?, parse)
}

fn understood<T>(path: &str, text: &[u8], parse: impl FnOnce(&[u8]) -> Result<T, Malformed>) -> Result<T, Error> {
    parse(text).map_err(|Malformed(what)| Error::Malformed { path: format!("/proc/{path}"), what })
}

/// `/proc/PID/smaps`: every mapping of a process, in ascending order.
///
/// # Errors
/// If it cannot be read or makes no sense.
pub fn smaps(pid: i32) -> Result<Vec<smaps::Mapping>, Error> {
    mappings(&format!("/proc/{pid}/smaps"))
}

/// `/proc/PID/maps`: as `smaps`, without the page walk that makes smaps slow.
///
/// # Errors
/// If it cannot be read or makes no sense.
pub fn maps(pid: i32) -> Result<Vec<smaps::Mapping>, Error> {
    mappings(&format!("/proc/{pid}/maps"))
}

/// Parses while it reads: of tens of thousands of mappings the text has tens of megabytes, for which no cache has room.
fn mappings(path: &str) -> Result<Vec<smaps::Mapping>, Error> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let odd = |Malformed(what)| Error::Malformed { path: path.to_owned(), what };
    let mut file = open_to_read(path).map_err(fail)?;
    let mut parser = smaps::Parser::default();
    let mut buffer = vec![0; 16 << 10];
    let mut len = 0;
    loop {
        if len + 4096 > buffer.len() {
            // A line of this length: a path may be long, each byte of it written as four.
            if buffer.len() >= LONGEST {
                return Err(fail(std::io::ErrorKind::OutOfMemory.into()));
            }
            buffer.resize(buffer.len() * 2, 0);
        }
        match file.read(buffer.get_mut(len..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(fail(e)),
        }
        let text = buffer.get(..len).unwrap_or_default();
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |last| last + 1);
        parser.add(text.get(..whole).unwrap_or_default()).map_err(odd)?;
        buffer.copy_within(whole..len, 0);
        len -= whole;
    }
    parser.add(buffer.get(..len).unwrap_or_default()).map_err(odd)?;
    Ok(parser.mappings())
}

/// `/proc/PID/stat`.
///
/// # Errors
/// If it cannot be read or makes no sense.
pub fn stat(pid: i32) -> Result<stat::Stat, Error> {
    parsed(&format!("{pid}/stat"), stat::parse)
}

/// `/proc/PID/task/TID/stat`.
///
/// # Errors
/// If it cannot be read or makes no sense.
pub fn task_stat(pid: i32, tid: i32) -> Result<stat::Stat, Error> {
    parsed(&format!("{pid}/task/{tid}/stat"), stat::parse)
}

/// `/proc/PID/status`.
///
/// # Errors
/// If it cannot be read or makes no sense.
pub fn status(pid: i32) -> Result<status::Status, Error> {
    parsed(&format!("{pid}/status"), status::parse)
}

/// `/proc/PID/task/TID/status`.
///
/// # Errors
/// If it cannot be read or makes no sense.
pub fn task_status(pid: i32, tid: i32) -> Result<status::Status, Error> {
    parsed(&format!("{pid}/task/{tid}/status"), status::parse)
}

/// `/proc/TID/sched`; `tid` "thread-self" is the calling thread.
///
/// # Errors
/// If it cannot be read (some kernels have none) or makes no sense.
pub fn sched(tid: impl std::fmt::Display) -> Result<sched::Sched, Error> {
    parsed(&format!("{tid}/sched"), sched::parse)
}

/// `/proc/TID/schedstat`: how often a thread has got a processor; 0 of kernels that do not count it.
///
/// # Errors
/// If it cannot be read or makes no sense.
pub fn runs(tid: i32) -> Result<u64, Error> {
    parsed(&format!("{tid}/schedstat"), sched::runs)
}

/// `/proc/PID/cmdline`: what a process was called with, if it still shows that.
///
/// # Errors
/// If it cannot be read.
pub fn command_line(pid: i32) -> Result<Vec<Name>, Error> {
    let text = read(&format!("{pid}/cmdline"))?;
    let words = text.strip_suffix(b"\0").unwrap_or(&text).split(|&byte| byte == 0);
    Ok(words.map(|word| Name(word.to_vec())).filter(|_| !text.is_empty()).collect())
}

/// `/proc/TID/syscall`: the call a thread sleeps in, with its arguments.
///
/// # Errors
/// If it cannot be read or makes no sense.
pub fn blocked_in(tid: i32) -> Result<Option<(i64, [u64; 6])>, Error> {
    parsed(&format!("{tid}/syscall"), sched::blocked_in)
}

/// `/proc/PID/fdinfo/FD`.
///
/// # Errors
/// If it cannot be read or makes no sense.
pub fn fdinfo(pid: i32, fd: i32) -> Result<fdinfo::FdInfo, Error> {
    parsed(&format!("{pid}/fdinfo/{fd}"), fdinfo::parse)
}

/// `/proc/PID/mountinfo`.
///
/// # Errors
/// If it cannot be read or makes no sense.
pub fn mounts(pid: i32) -> Result<Vec<mounts::Mount>, Error> {
    parsed_to_end(&format!("{pid}/mountinfo"), mounts::parse)
}

/// `/proc/locks`: every lock held on this host by processes that we can see.
///
/// # Errors
/// If it cannot be read.
pub fn locks() -> Result<Vec<locks::Lock>, Error> {
    read("locks").map(|bytes| locks::parse(&bytes))
}

/// `/proc/PID/timers`: POSIX timers; pids in it are ours.
///
/// # Errors
/// If it cannot be read or makes no sense.
pub fn timers(pid: i32) -> Result<Vec<timers::Timer>, Error> {
    parsed_to_end(&format!("{pid}/timers"), timers::parse)
}

/// `/proc/PID/limits`: soft and hard limit of each resource, in the order of `RLIMIT_*`; `u64::MAX` is "unlimited".
///
/// # Errors
/// If it cannot be read or makes no sense.
pub fn limits(pid: i32) -> Result<[(u64, u64); 16], Error> {
    parsed(&format!("{pid}/limits"), limits::parse)
}

/// `/proc/PID/timens_offsets`: how far the monotonic and the boottime clock of a process are ahead of the host's,
/// in nanoseconds. Kernels without time namespaces: none.
///
/// # Errors
/// If it cannot be read (but for not being there) or makes no sense.
pub fn timens_offsets(pid: i32) -> Result<lists::TimeOffsets, Error> {
    match parsed(&format!("{pid}/timens_offsets"), lists::timens_offsets) {
        Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(lists::TimeOffsets::default())
        }
        other => other,
    }
}

/// Pids of the children of one thread: `/proc/PID/task/TID/children`.
///
/// # Errors
/// If it cannot be read or makes no sense.
pub fn children(pid: i32, tid: i32) -> Result<Vec<i32>, Error> {
    parsed_to_end(&format!("{pid}/task/{tid}/children"), lists::numbers)
}

/// Threads of a process, ascending: `/proc/PID/task`.
///
/// # Errors
/// If the process is gone or is not ours to look at.
pub fn tasks(pid: i32) -> Result<Vec<i32>, Error> {
    numbered(format!("/proc/{pid}/task"))
}

/// Open descriptors of a process, ascending: `/proc/PID/fd`.
///
/// # Errors
/// If the process is gone or is not ours to look at.
pub fn fds(pid: i32) -> Result<Vec<i32>, Error> {
    numbered(format!("/proc/{pid}/fd"))
}

/// Every process we can see, ascending.
///
/// # Errors
/// If `/proc` can't be listed.
pub fn pids() -> Result<Vec<i32>, Error> {
    numbered("/proc".to_owned())
}

fn numbered(path: String) -> Result<Vec<i32>, Error> {
    let fail = |source| Error::Read { path: path.clone(), source };
    let mut out = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(fail)? {
        if let Some(number) = text::decimal(entry.map_err(fail)?.file_name().as_encoded_bytes()) {
            out.push(number);
        }
    }
    out.sort_unstable();
    Ok(out)
}

/// A single number in a file of its own, such as `PID/oom_score_adj`, in decimal.
///
/// # Errors
/// If it cannot be read or is not a number.
pub fn number(path: &str) -> Result<i64, Error> {
    parsed(path, |bytes| text::decimal(bytes.trim_ascii()).ok_or(Malformed("not a number")))
}

/// A single number in a file of its own, such as `PID/personality`, in hexadecimal without a prefix.
///
/// # Errors
/// If it cannot be read or is not a number.
pub fn hex_number(path: &str) -> Result<u64, Error> {
    parsed(path, |bytes| text::hex(bytes.trim_ascii()).ok_or(Malformed("not a hexadecimal number")))
}

/// What the link `/proc/PATH` leads to, for instance `4711/fd/3` or `4711/exe`. Newlines are not escaped here.
///
/// # Errors
/// As readlink(2).
pub fn link(path: &str) -> Result<Vec<u8>, Error> {
    let path = format!("/proc/{path}");
    std::fs::read_link(&path)
        .map(|target: PathBuf| OsString::from(target).into_vec())
        .map_err(|source| Error::Read { path, source })
}

/// Number of a namespace of a process: `/proc/PID/ns/KIND`, KIND one of `pid`, `user`, `mnt`, `ipc`, `net`, `uts`,
/// `cgroup`, `time`.
///
/// # Errors
/// If the process is gone, is not ours to look at, or the kernel lacks that kind.
pub fn namespace(pid: i32, kind: &str) -> Result<u64, Error> {
    let path = format!("{pid}/ns/{kind}");
    let target = link(&path)?;
    lists::bracketed(&target).ok_or(Error::Malformed { path: format!("/proc/{path}"), what: "no number in brackets" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> i32 {
        std::process::id() as i32
    }

    #[test]
    fn our_own_process_reads_well() {
        let stat = stat(me()).unwrap();
        let status = status(me()).unwrap();
        assert_eq!(stat.pid, me());
        assert_eq!(status.nspid.last(), Some(&me()));
        assert_eq!(stat.ppid, status.ppid);
        assert_eq!(status.comm, stat.comm);
        assert!(tasks(me()).unwrap().contains(&me()));
        assert!(pids().unwrap().contains(&me()));
        let maps = smaps(me()).unwrap();
        let stack = maps.iter().find(|m| m.name == b"[stack]").unwrap();
        assert!((stack.start..stack.end).contains(&stat.start_stack));
        assert!(namespace(me(), "pid").unwrap() > 0);
        assert!(hex_number("self/personality").is_ok());
        assert!((-1000..=1000).contains(&number("self/oom_score_adj").unwrap()));
    }

    #[test]
    fn descriptors_of_our_own() {
        use std::os::fd::AsRawFd;
        let file = tempfile::tempfile().unwrap();
        assert!(fds(me()).unwrap().contains(&file.as_raw_fd()));
        let info = fdinfo(me(), file.as_raw_fd()).unwrap();
        assert_eq!(info.flags & 3, 2);
        assert!(link(&format!("self/fd/{}", file.as_raw_fd())).unwrap().ends_with(b" (deleted)"));
    }

    #[test]
    fn a_process_that_is_not_there_is_gone() {
        // Pids end below 2^22.
        assert!(stat(i32::MAX).unwrap_err().is_gone());
        assert!(tasks(i32::MAX).unwrap_err().is_gone());
    }
}
