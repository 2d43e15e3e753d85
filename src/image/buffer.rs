//! Page-aligned buffers, which the kernel copies from and to fastest.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::PAGE;

#[derive(Clone, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(4096))]
struct Page([u8; PAGE as usize]);

/// A page-aligned buffer.
pub(super) struct Buffer(Vec<Page>);

impl Buffer {
    /// One of at least `bytes` bytes.
    pub(super) fn new(bytes: usize) -> Buffer {
        Buffer(vec![Page([0; PAGE as usize]); bytes.div_ceil(PAGE as usize)])
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
