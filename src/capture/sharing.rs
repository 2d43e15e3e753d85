//! Which kernel objects tasks share: kcmp(2) orders them, so that finding a twin takes a logarithm of comparisons.

use std::cmp::Ordering;
use std::io;

use crate::model::Pid;
use crate::sys::tasks::{Kcmp, kcmp};
use crate::tracer::{Held, HeldProcess};

use super::Error;
use super::refusals::Refusals;

/// Distinct objects in the kernel's order, each with a value.
#[derive(Debug)]
pub(super) struct Distinct<T>(Vec<T>);

impl<T> Default for Distinct<T> {
    fn default() -> Self {
        Distinct(Vec::new())
    }
}

impl<T> Distinct<T> {
    /// The twin of `new` among those seen, or else `new` is added.
    pub fn twin(&mut self, new: T, mut compare: impl FnMut(&T, &T) -> io::Result<Ordering>) -> io::Result<Option<&T>> {
        let mut failure = None;
        let found = self.0.binary_search_by(|old| {
            compare(old, &new).unwrap_or_else(|e| {
                failure = Some(e);
                Ordering::Equal
            })
        });
        match (failure, found) {
            (Some(e), _) => Err(e),
            (None, Ok(at)) => Ok(self.0.get(at)),
            (None, Err(at)) => {
                self.0.insert(at, new);
                Ok(None)
            }
        }
    }
}

const KINDS: [(Kcmp, &str); 4] = [
    (Kcmp::Vm, "its memory"),
    (Kcmp::Files, "its descriptor table"),
    (Kcmp::Fs, "its working directory"),
    (Kcmp::Sighand, "its signal actions"),
];

/// Refuses processes that share what only threads share, and threads that don't.
pub(super) fn look(held: &Held, refusals: &mut Refusals) -> Result<(), Error> {
    let alive = || held.processes.iter().filter(|p| !p.threads.is_empty());
    if alive().nth(1).is_some() {
        for (kind, name) in KINDS {
            let mut seen = Distinct::default();
            for p in alive() {
                let twin = seen
                    .twin((p.live(), p.pid), |a: &(i32, Pid), b| kcmp(a.0, b.0, kind, 0, 0))
                    .map_err(Error::of(p.host, "comparing objects"))?;
                if let Some((_, other)) = twin {
                    refusals.add(p.pid, "process", format!("it shares {name} with pid {other}"), "");
                }
            }
        }
    }
    alive().try_for_each(|p| threads(p, refusals))
}

fn threads(process: &HeldProcess, refusals: &mut Refusals) -> Result<(), Error> {
    for t in process.threads.iter().skip(1) {
        for (kind, name) in [(Kcmp::Files, "descriptor table"), (Kcmp::Fs, "working directory")] {
            let same =
                kcmp(process.live(), t.host, kind, 0, 0).map_err(Error::of(t.host, "comparing objects"))?.is_eq();
            if !same {
                refusals.add(process.pid, format!("thread {}", t.tid), format!("it has a {name} of its own"), "");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_are_found_in_any_order() {
        let mut seen = Distinct::default();
        for (key, name) in [(5, "a"), (1, "b"), (9, "c"), (5, "d"), (9, "e"), (2, "f")] {
            let twin = seen.twin((key, name), |a, b| Ok(a.0.cmp(&b.0))).unwrap().map(|t| t.1);
            assert_eq!(
                twin,
                match name {
                    "d" => Some("a"),
                    "e" => Some("c"),
                    _ => None,
                }
            );
        }
        assert!(seen.twin((7, "x"), |_, _| Err(io::ErrorKind::Other.into())).is_err());
    }

    #[test]
    fn dup_is_a_twin_and_a_second_open_is_not() {
        use std::os::fd::AsRawFd;
        let file = tempfile::tempfile().unwrap();
        let (dup, other) = (file.try_clone().unwrap(), File::open(format!("/proc/self/fd/{}", file.as_raw_fd())));
        let other = other.unwrap();
        let me = std::process::id() as i32;
        let mut seen = Distinct::default();
        let mut twin = |fd: i32| seen.twin(fd, |a: &i32, b: &i32| kcmp(me, me, Kcmp::File, *a, *b)).unwrap().copied();
        assert_eq!(twin(file.as_raw_fd()), None);
        assert_eq!(twin(other.as_raw_fd()), None);
        assert_eq!(twin(dup.as_raw_fd()), Some(file.as_raw_fd()));
    }

    use std::fs::File;
}
