//! Which kernel objects tasks share: kcmp(2) orders them, so that finding a twin takes a logarithm of comparisons.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::io;

use crate::model::Pid;
use crate::model::tree::Shares;
use crate::sys::tasks::{Kcmp, kcmp, pidfd_open_thread};
use crate::tracer::{Held, HeldProcess, HeldThread};

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

/// For each of `items` the first that is the same object. Several threads would gain little: kcmp(2) takes a lock of the task
/// whose objects it compares (fs/file.c, `fget_task`).
pub(super) fn first_twins<T>(items: &[T], compare: impl Fn(&T, &T) -> io::Result<Ordering>) -> io::Result<Vec<usize>> {
    let mut twins: Vec<usize> = (0..items.len()).collect();
    let mut runs: Vec<Vec<usize>> = twins.iter().map(|&index| vec![index]).collect();
    // The standard library's sorting has no place for errors.
    while runs.len() > 1 {
        let mut pairs = runs.into_iter();
        let mut fewer = Vec::with_capacity(pairs.len().div_ceil(2));
        while let Some(left) = pairs.next() {
            fewer.push(match pairs.next() {
                Some(right) => merge(items, (&left, &right), &compare, &mut twins)?,
                None => left,
            });
        }
        runs = fewer;
    }
    // Whoever comes earlier knows its first already.
    for index in 0..twins.len() {
        if let Some(first) = twins.get(index).and_then(|twin| twins.get(*twin)).copied() {
            twins[index] = first;
        }
    }
    Ok(twins)
}

/// Merges two ascending runs. The first of the right one that is the same as one of the left, which all come earlier, is
/// compared with it, and notes it as its twin.
fn merge<T>(
    items: &[T],
    (mut left, mut right): (&[usize], &[usize]),
    compare: &impl Fn(&T, &T) -> io::Result<Ordering>,
    twins: &mut [usize],
) -> io::Result<Vec<usize>> {
    let mut merged = Vec::with_capacity(left.len() + right.len());
    while let ([l, after_left @ ..], [r, after_right @ ..]) = (left, right) {
        let order = match (items.get(*l), items.get(*r)) {
            (Some(l), Some(r)) => compare(l, r)?,
            _ => Ordering::Less,
        };
        if let (Ordering::Equal, Some(twin)) = (order, twins.get_mut(*r)) {
            *twin = *l;
        }
        if order.is_le() {
            merged.push(*l);
            left = after_left;
        } else {
            merged.push(*r);
            right = after_right;
        }
    }
    merged.extend_from_slice(left);
    merged.extend_from_slice(right);
    Ok(merged)
}

const KINDS: [(Kcmp, &str); 4] = [
    (Kcmp::Vm, "its memory"),
    (Kcmp::Sighand, "its signal actions"),
    (Kcmp::Files, "its descriptor table"),
    (Kcmp::Fs, "its working directory"),
];

/// Who shares what.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// What processes share that only threads share mostly, by their index among the held ones.
    pub shares: HashMap<usize, Shares>,
    /// Threads, as we see them, that have a descriptor table of their own.
    pub tables: HashSet<i32>,
    /// Threads that have directories of their own.
    pub directories: HashSet<i32>,
}

/// Looks who shares what. Refuses what could not be made again by clone(2): that shares with its parent, or with a
/// sibling that can make another child of their parent.
pub(super) fn look(held: &Held, refusals: &mut Refusals) -> Result<Shared, Error> {
    let mut out: HashMap<usize, Shares> = HashMap::new();
    let mut seen: [Distinct<(i32, Pid)>; KINDS.len()] = Default::default();
    for (index, p) in held.processes.iter().enumerate().filter(|(_, p)| !p.threads.is_empty()) {
        let mut twins = [None; KINDS.len()];
        for ((twin, seen), (kind, _)) in twins.iter_mut().zip(&mut seen).zip(KINDS) {
            let found = seen.twin((p.live(), p.pid), |a, b| kcmp(a.0, b.0, kind, 0, 0));
            *twin = found.map_err(Error::of(p.host, "comparing objects"))?.map(|(_, pid)| *pid);
        }
        let [memory, actions, descriptors, directories] = twins;
        let shares = Shares { memory, actions, descriptors, directories };
        if !shares.any() {
            continue;
        }
        let makers = held.processes.iter().enumerate().take(index).filter(|(_, q)| {
            q.host == p.host_ppid || q.host_ppid == p.host_ppid && q.exit_signal == p.exit_signal && q.sid == p.sid
        });
        let may = |(i, q): (usize, &HeldProcess)| {
            let of = out.get(&i).copied().unwrap_or_default();
            !q.threads.is_empty() && shares.may_come_from(q.pid, &of)
        };
        if !makers.into_iter().any(may) {
            for (twin, (_, what)) in twins.iter().zip(KINDS) {
                if let Some(other) = twin {
                    let reason = format!("it shares {what} with pid {other}, from which it could not be made again");
                    refusals.add(p.pid, "process", reason, "save it when one of the two has ended");
                }
            }
        }
        out.insert(index, shares);
    }
    let [_, _, mut tables, mut directories] = seen;
    let (mut own, mut elsewhere) = (HashSet::new(), HashSet::new());
    for (p, t) in held.processes.iter().flat_map(|p| p.threads.iter().skip(1).map(move |t| (p, t))) {
        if apart(p, t, Kcmp::Files)? {
            own.insert(t.host);
            alone(p, t, Kcmp::Files, &mut tables, refusals)?;
            if pidfd_open_thread(t.host).is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL)) {
                let reason = "it has a descriptor table of its own, whose descriptors can't be had before Linux 6.9";
                refusals.add(p.pid, format!("thread {}", t.tid), reason, "save it under a newer kernel");
            }
        }
        if apart(p, t, Kcmp::Fs)? {
            elsewhere.insert(t.host);
            alone(p, t, Kcmp::Fs, &mut directories, refusals)?;
        }
    }
    Ok(Shared { shares: out, tables: own, directories: elsewhere })
}

/// Refuses a thread that shares an object with others than its process: it could not be made again.
fn alone(
    p: &HeldProcess,
    t: &HeldThread,
    kind: Kcmp,
    seen: &mut Distinct<(i32, Pid)>,
    refusals: &mut Refusals,
) -> Result<(), Error> {
    let twin = seen.twin((t.host, t.tid), |a, b| kcmp(a.0, b.0, kind, 0, 0));
    if let Some((_, other)) = twin.map_err(Error::of(t.host, "comparing objects"))? {
        let what = KINDS.iter().find(|(k, _)| *k == kind).map_or("something", |(_, what)| what);
        let reason = format!("it shares {what} with {other}, but not with its process");
        refusals.add(p.pid, format!("thread {}", t.tid), reason, "save it when one of the two has ended");
    }
    Ok(())
}

/// Whether a thread has an object of its own.
fn apart(p: &HeldProcess, t: &HeldThread, kind: Kcmp) -> Result<bool, Error> {
    let order = kcmp(p.live(), t.host, kind, 0, 0).map_err(Error::of(t.host, "comparing objects"))?;
    Ok(!order.is_eq())
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
    fn first_twins_of_many() {
        for (count, kinds) in [(0, 1), (1, 1), (7, 3), (1000, 400), (3000, 2999)] {
            let items: Vec<usize> = (0..count).map(|i| i * 7919 % kinds).collect();
            let firsts = first_twins(&items, |a, b| Ok(a.cmp(b))).unwrap();
            let expected: Vec<usize> = items.iter().map(|i| items.iter().position(|j| j == i).unwrap()).collect();
            assert_eq!(firsts, expected);
        }
        let fails = |a: &usize, b: &usize| if a + b > 1500 { Err(io::ErrorKind::Other.into()) } else { Ok(a.cmp(b)) };
        assert!(first_twins(&(0..1000).collect::<Vec<usize>>(), fails).is_err());
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
