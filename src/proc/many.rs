//! The same thing read of many: every processor does a share of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;

/// More threads do not pay: the kernel's locks are shared.
const MOST: usize = 8;

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
    let threads = crate::sys::sched::processors().min(MOST).min(worth);
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    // Some pieces for each thread, since items differ.
    let piece = (items.len() / (threads * 4)).max(1);
    let pieces: Vec<&[T]> = items.chunks(piece).collect();
    let next = AtomicUsize::new(0);
    let share = || -> Result<Vec<(usize, Vec<R>)>, E> {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(index) else { return Ok(done) };
            let results = piece.iter().map(&work).collect::<Result<Vec<R>, E>>();
            done.push((index, results.inspect_err(|_| next.store(pieces.len(), Ordering::Relaxed))?));
        }
    };
    let mut all = std::thread::scope(|scope| {
        // Where no thread is to be had, fewer do it all.
        let start = |_| Builder::new().spawn_scoped(scope, share).ok();
        let others: Vec<_> = (1..threads).map_while(start).collect();
        let mut all = share();
        for other in others {
            let more = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all = all.and_then(|mut all| {
                all.extend(more?);
                Ok(all)
            });
        }
        all
    })?;
    all.sort_unstable_by_key(|(index, _)| *index);
    Ok(all.into_iter().flat_map(|(_, results)| results).collect())
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
        assert_eq!(each(&items, 1, |&i| if i == 500 { Err(i) } else { Ok(i) }), Err(500));
    }
}
