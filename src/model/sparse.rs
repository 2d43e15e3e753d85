//! Contents of files with holes, which are left out.

use serde::{Deserialize, Serialize};

/// What of a file is in its member; the rest of it is zeros.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sparse {
    /// Number of its content, see [`super::files::Content::id`]; the size there is that of the file.
    pub content: u32,
    /// The pieces that are there, in ascending order and not overlapping: the member has their bytes one after the other.
    pub pieces: Vec<Piece>,
}

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// First byte.
    pub start: u64,
    /// Bytes, not 0.
    pub len: u64,
}

impl Sparse {
    /// Bytes of its member, and of a file that ends with the last piece; `None` if the pieces cannot be.
    pub fn sizes(&self) -> Option<(u64, u64)> {
        self.pieces.iter().try_fold((0u64, 0u64), |(bytes, end), piece| {
            let bytes = bytes.checked_add(piece.len)?;
            let next = piece.start.checked_add(piece.len)?;
            (piece.len > 0 && piece.start >= end).then_some((bytes, next))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_that_can_be() {
        let sizes = |pieces: &[(u64, u64)]| {
            let pieces = pieces.iter().map(|&(start, len)| Piece { start, len }).collect();
            Sparse { content: 0, pieces }.sizes()
        };
        assert_eq!(sizes(&[]), Some((0, 0)));
        assert_eq!(sizes(&[(0, 5), (5, 1), (100, 7)]), Some((13, 107)));
        for wrong in [&[(0, 5), (4, 1)][..], &[(5, 1), (0, 1)], &[(3, 0)], &[(u64::MAX, 1)], &[(0, u64::MAX), (9, 1)]] {
            assert_eq!(sizes(wrong), None, "{wrong:?}");
        }
    }
}
