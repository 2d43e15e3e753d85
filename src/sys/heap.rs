//! What malloc(3) asks the kernel for.
#![allow(unsafe_code)]

/// Bytes that a heap has ahead of its need; of private memory nobody has touched they cost nothing.
const AHEAD: libc::c_int = 8 << 20;

/// Has the heap of each thread grow in large steps. glibc has that of any but the first thread grow by just what is
/// missing, with a system call each time (malloc/arena.c, `grow_heap`): well over a hundred while 64 threads are held.
pub fn grow_in_large_steps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number inside of malloc, under its lock.
    unsafe {
        libc::mallopt(libc::M_TOP_PAD, AHEAD);
    }
}
