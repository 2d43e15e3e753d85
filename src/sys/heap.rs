//! Our own memory: one heap, whatever the C library. That of musl makes a system call for every few allocations and takes
//! its lock by a call; large pieces are mapped each for itself, so that their zeros cost nothing and they go back at once.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};

use dlmalloc::Dlmalloc;

#[global_allocator]
static HEAP: Heap = Heap { taken: AtomicBool::new(false), small: UnsafeCell::new(small()) };

/// From so many bytes on a piece is mapped for itself.
const LARGE: usize = 1 << 20;

/// From so many bytes on a mapping may have huge pages: to make five hundred small ones takes ten times as long.
const HUGE: usize = 4 << 20;

/// Bytes that the heap grows by, and keeps when they are free: whoever saves again and again need not have them made anew.
/// Of private memory nobody has touched they cost nothing.
const STEP: usize = 4 << 20;

/// The same where there is not much room.
const SHORT_STEP: usize = 64 << 10;

const fn small() -> Dlmalloc {
    let mut small = Dlmalloc::new();
    small.set_granularity(STEP);
    small
}

/// What a mapping is aligned to.
const PAGE: usize = 4096;

struct Heap {
    /// Whether a thread is at `small`.
    taken: AtomicBool,
    small: UnsafeCell<Dlmalloc>,
}

// SAFETY: `small` is reached through `Heap::small` only, which one thread at a time does.
unsafe impl Sync for Heap {}

impl Heap {
    fn take(&self) {
        while self.taken.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            // Whoever is there may be waiting for a processor.
            std::thread::yield_now();
        }
    }

    fn give(&self) {
        self.taken.store(false, Ordering::Release);
    }

    fn small<T>(&self, work: impl FnOnce(&mut Dlmalloc) -> T) -> T {
        self.take();
        // SAFETY: it has just been taken, and is given back after its last use.
        let done = work(unsafe { &mut *self.small.get() });
        self.give();
        done
    }

    /// A piece. Where limits (`ulimit -v`, `-d`) have no room for a whole step, the heap grows by less from then on.
    fn new_small(&self, piece: impl Fn(&mut Dlmalloc) -> *mut u8) -> *mut u8 {
        self.small(|small| match piece(small) {
            at if at.is_null() => {
                small.set_granularity(SHORT_STEP);
                piece(small)
            }
            at => at,
        })
    }
}

/// Whether a piece like this is mapped for itself.
fn is_large(size: usize, align: usize) -> bool {
    size >= LARGE && align <= PAGE
}

fn map(size: usize) -> *mut u8 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping touches nothing that is there.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return std::ptr::null_mut();
    }
    if size >= HUGE {
        // SAFETY: advice on our own new mapping; what is in it stays the same. Without huge pages it fails, and needs not help.
        unsafe { libc::madvise(at, size, libc::MADV_HUGEPAGE) };
    }
    at.cast()
}

// SAFETY: a piece comes from a mapping of its own or from dlmalloc, which of both its layout tells, and goes back there.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout.size(), layout.align()) {
            return map(layout.size());
        }
        // SAFETY: as the caller promises.
        self.new_small(|small| unsafe { small.malloc(layout.size(), layout.align()) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout.size(), layout.align()) {
            return map(layout.size());
        }
        // SAFETY: as the caller promises.
        self.new_small(|small| unsafe { small.calloc(layout.size(), layout.align()) })
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if is_large(layout.size(), layout.align()) {
            // SAFETY: it is a mapping of its own, and nobody's any more. A failure (too many mappings) leaves it there.
            unsafe { libc::munmap(at.cast(), layout.size()) };
            return;
        }
        // SAFETY: as the caller promises.
        self.small(|small| unsafe { small.free(at, layout.size(), layout.align()) })
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let align = layout.align();
        match (is_large(layout.size(), align), is_large(size, align)) {
            (false, false) => {
                // SAFETY: as the caller promises.
                self.new_small(|small| unsafe { small.realloc(at, layout.size(), align, size) })
            }
            (true, true) => {
                // SAFETY: it is a mapping of its own, to which nothing points but the caller's `at`.
                let at = unsafe { libc::mremap(at.cast(), layout.size(), size, libc::MREMAP_MAYMOVE) };
                if at == libc::MAP_FAILED { std::ptr::null_mut() } else { at.cast() }
            }
            _ => {
                // SAFETY: the caller promises that size and alignment are those of a layout.
                let new = unsafe { self.alloc(Layout::from_size_align_unchecked(size, align)) };
                if !new.is_null() {
                    // SAFETY: both are as long as the shorter, and apart.
                    unsafe {
                        at.copy_to_nonoverlapping(new, layout.size().min(size));
                        self.dealloc(at, layout);
                    }
                }
                new
            }
        }
    }
}

/// A child of fork(2) has one thread, which may find the heap taken by one that it lacks: nobody forks while it is taken.
extern "C" fn survive_forks() {
    extern "C" fn before() {
        HEAP.take();
    }
    extern "C" fn after() {
        HEAP.give();
    }
    // SAFETY: both only touch an atomic. It fails without memory, when little else works.
    unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
}

/// Run before main().
#[used]
// SAFETY: a function of no arguments is what the section is to hold; it needs nothing that main() would set up.
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = survive_forks;

#[cfg(test)]
mod tests {
    #[test]
    fn pieces_keep_their_content_when_they_grow_and_shrink() {
        let mut bytes: Vec<u8> = Vec::new();
        for size in [1, 5000, super::LARGE - 1, super::LARGE, 3 * super::LARGE, super::LARGE, 4000, 2 * super::LARGE] {
            let kept = bytes.len().min(size);
            bytes.truncate(size);
            bytes.shrink_to_fit();
            bytes.reserve_exact(size - bytes.len());
            assert!(bytes.iter().enumerate().all(|(i, b)| *b == i as u8), "{size}");
            bytes.extend((kept..size).map(|i| i as u8));
        }
    }

    #[test]
    fn zeros_are_zeros_once_more() {
        for size in [100, 40_000, super::LARGE, 5 * super::LARGE] {
            for _ in 0..3 {
                let mut bytes = vec![0u8; size];
                assert!(bytes.iter().all(|b| *b == 0));
                bytes.fill(7);
            }
        }
    }

    #[test]
    fn threads_share_it_and_forks_find_it_free() {
        std::thread::scope(|scope| {
            let busy = || (0..20_000usize).map(|i| vec![i as u8; i % 300 + 1].len()).sum::<usize>();
            let others: Vec<_> = (0..4).map(|_| scope.spawn(busy)).collect();
            for _ in 0..50 {
                // SAFETY: the child allocates, as it may here, and ends.
                match unsafe { nix::unistd::fork() }.unwrap() {
                    nix::unistd::ForkResult::Child => {
                        let sum: usize = (0..100).map(|i| vec![1u8; i].len()).sum();
                        // SAFETY: ends this process.
                        unsafe { libc::_exit((sum != 4950).into()) }
                    }
                    nix::unistd::ForkResult::Parent { child } => {
                        let status = nix::sys::wait::waitpid(child, None).unwrap();
                        assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
                    }
                }
            }
            assert!(others.into_iter().all(|other| other.join().unwrap() == busy()));
        });
    }
}
