//! The same thing read of many: every processor does a share of it.

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Builder;

use crate::sys::helpers::Helpers;
use crate::sys::sched;

/// More threads do not pay: the kernel's locks are shared.
const MOST: usize = 8;

thread_local! {
    static HELPERS: Cell<Option<Helpers>> = const { Cell::new(None) };
}

/// While it lives, the threads that [`each`] shares its work with are there and awake, if it is called by the thread that made
/// this. For a short time in which it is called several times.
#[derive(Debug)]
pub struct Awake(());

impl Awake {
    /// Begins with it.
    pub fn begin() -> Awake {
        HELPERS.set(Some(Helpers::begin(sched::processors().min(MOST) - 1)));
        Awake(())
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        HELPERS.set(None);
    }
}

/// `work` for each of `items`, in their order. Up to `MOST` threads take part, of which each has at least `least` items
/// to do, so that a few are done by this thread alone.
///
/// # Errors
/// One that `work` returned; some items are then left out.
pub fn each<T: Sync, R: Send, E: Send>(
    items: &[T],
    least: usize,
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let worth = items.len() / least.max(1);
    let threads = sched::processors().min(MOST).min(worth);
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    // Some pieces for each thread, since items differ.
    let piece = (items.len() / (threads * 4)).max(1);
    let pieces: Vec<&[T]> = items.chunks(piece).collect();
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Ok(Vec::with_capacity(pieces.len())));
    let share = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(index) else { return };
            let results = piece.iter().map(&work).collect::<Result<Vec<R>, E>>();
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut *all, results) {
                (Ok(all), Ok(results)) => all.push((index, results)),
                (Ok(_), Err(error)) => {
                    next.store(pieces.len(), Ordering::Relaxed);
                    *all = Err(error);
                }
                (Err(_), _) => {}
            }
        }
    };
    // One that is asked by another's share does it alone.
    match HELPERS.take() {
        Some(mut helpers) => {
            helpers.with(&share);
            HELPERS.set(Some(helpers));
        }
        None => std::thread::scope(|scope| {
            // Where no thread is to be had, fewer do it all.
            let start = |_| Builder::new().spawn_scoped(scope, share).ok();
            let _others: Vec<_> = (1..threads).map_while(start).collect();
            share();
        }),
    }
    let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    all.sort_unstable_by_key(|(index, _)| *index);
    Ok(all.into_iter().flat_map(|(_, results)| results).collect())
}

/// The same of what does not fail.
pub fn all<T: Sync, R: Send>(items: &[T], least: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    each(items, least, |item| Ok(work(item))).unwrap_or_else(|never: Infallible| match never {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_stays() {
        for count in [0, 1, 7, 1000] {
            let items: Vec<usize> = (0..count).collect();
            let doubled = each(&items, 2, |i| Ok::<_, ()>(i * 2)).unwrap();
            assert_eq!(doubled, items.iter().map(|i| i * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_failure_is_told() {
        let items: Vec<usize> = (0..1000).collect();
        let fails = || assert_eq!(each(&items, 1, |&i| if i == 500 { Err(i) } else { Ok(i) }), Err(500));
        fails();
        let awake = Awake::begin();
        fails();
        drop(awake);
        fails();
    }

    #[test]
    fn those_who_are_awake_do_it_as_well() {
        let awake = Awake::begin();
        for _ in 0..100 {
            the_order_stays();
        }
        let within = |&i: &usize| each(&[i; 9], 1, |i| Ok::<_, ()>(i + 1)).map(|all| all.len());
        assert_eq!(each(&[1, 2, 3, 4], 1, within), Ok(vec![9; 4]));
        drop(awake);
    }
}
