//! Files of /proc.

use serde::{Deserialize, Serialize};

use super::{Name, Pid};

/// A file, directory or link of /proc.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its path, with the number of its process or thread if it is of one.
    pub path: Name,
    /// Whose it is.
    pub of: Of,
    /// Position as `lseek` has it.
    pub offset: u64,
}

/// Whose a file of /proc is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// Of no process.
    System,
    /// Of a process of the tree that lives or is a zombie, or of one of its threads.
    Member,
    /// Of a process that has ended and was waited for.
    Ended,
}

/// The processes or threads in a path of /proc: `/proc/PID/…`, `/proc/PID/task/TID/…`.
pub fn ids(path: &[u8]) -> Option<(Pid, Option<Pid>)> {
    let mut parts = path.strip_prefix(b"/proc/")?.split(|&b| b == b'/');
    let pid = number(parts.next()?)?;
    let tid = if parts.next() == Some(b"task") { parts.next().and_then(number) } else { None };
    Some((pid, tid))
}

/// What follows the process or thread in such a path: `status`, `fd/3`; empty for its directory.
pub fn rest(path: &[u8]) -> &[u8] {
    let skip = match ids(path) {
        None => return path,
        Some((_, None)) => 3,
        Some((_, Some(_))) => 5,
    };
    path.splitn(skip + 1, |&b| b == b'/').nth(skip).unwrap_or_default()
}

/// The same path with the numbers that `actual` gives for those in it.
pub fn renumbered(path: &Name, actual: impl Fn(Pid) -> i32) -> Name {
    let text = match ids(&path.0) {
        None => return path.clone(),
        Some((pid, None)) => format!("/proc/{}", actual(pid)),
        Some((pid, Some(tid))) => format!("/proc/{}/task/{}", actual(pid), actual(tid)),
    };
    let rest = rest(&path.0);
    let slash: &[u8] = if rest.is_empty() { b"" } else { b"/" };
    Name([text.as_bytes(), slash, rest].concat())
}

fn number(digits: &[u8]) -> Option<Pid> {
    let text = std::str::from_utf8(digits).ok().filter(|t| t.starts_with(|c: char| c.is_ascii_digit()))?;
    text.parse().ok().map(Pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_processes() {
        assert_eq!(ids(b"/proc/12/status"), Some((Pid(12), None)));
        assert_eq!(ids(b"/proc/12/task/13/comm"), Some((Pid(12), Some(Pid(13)))));
        assert_eq!(ids(b"/proc/12/task"), Some((Pid(12), None)));
        for other in [&b"/proc"[..], b"/proc/self", b"/proc/+1/x", b"/proc/99999999999", b"/sys/1"] {
            assert_eq!(ids(other), None);
        }
        for (path, after) in
            [("/proc/1", ""), ("/proc/1/fd/3", "fd/3"), ("/proc/1/task", "task"), ("/proc/1/task/2/net/tcp", "net/tcp")]
        {
            assert_eq!(rest(path.as_bytes()), after.as_bytes(), "{path}");
        }
    }

    #[test]
    fn other_numbers() {
        let new = |path: &str| renumbered(&Name(path.into()), |pid| pid.0 + 100).display();
        assert_eq!(new("/proc/1/task/2/comm"), "/proc/101/task/102/comm");
        assert_eq!(new("/proc/7"), "/proc/107");
        assert_eq!(new("/proc/7/task"), "/proc/107/task");
        assert_eq!(new("/proc/meminfo"), "/proc/meminfo");
    }
}
