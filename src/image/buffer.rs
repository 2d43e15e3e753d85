//! Page-aligned buffers, which the kernel copies from and to fastest.

use std::alloc::Layout;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::PAGE;

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C, align(4096))]
struct Page([u8; PAGE as usize]);

/// A page-aligned buffer.
pub(super) struct Buffer(Vec<Page>);

impl Buffer {
    /// One of at least `bytes` bytes.
    pub(super) fn new(bytes: usize) -> Buffer {
        let pages = bytes.div_ceil(PAGE as usize);
        Buffer(Page::new_vec_zeroed(pages).unwrap_or_else(|_| std::alloc::handle_alloc_error(Layout::new::<Page>())))
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        self.0.as_mut_slice().as_mut_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_large_enough() {
        let mut buffer = Buffer::new(4097);
        assert_eq!(buffer.bytes().len(), 8192);
        assert_eq!(buffer.bytes().as_ptr().align_offset(4096), 0);
    }
}
