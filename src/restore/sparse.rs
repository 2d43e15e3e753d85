//! Files made from contents that are without their holes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use crate::image::Image;
use crate::model::files::Content;
use crate::model::sparse::Piece;
use crate::sys::mem::Window;

/// Copies content from the image; holes stay holes, and so do runs of zeroes. A file with huge pages can't be written to,
/// but mapped.
pub fn fill(image: &Image, content: &Content, to: &File, huge: Option<u64>) -> io::Result<()> {
    let (mut from, size) = image.blob(content.id).ok_or_else(|| io::Error::other("its content is not in the image"))?;
    to.set_len(content.size)?;
    let whole = [Piece { start: 0, len: size.min(content.size) }];
    let sparse = image.checkpoint().shared.sparse.iter().find(|s| s.content == content.id);
    let mut buf = vec![0u8; 256 * 1024];
    for piece in sparse.map_or(&whole[..], |s| &s.pieces) {
        let mut done = 0;
        while done < piece.len {
            let at = piece.start + done;
            let left = huge.map_or(u64::MAX, |page| page - at % page);
            let want = (buf.len() as u64).min(piece.len - done).min(left) as usize;
            let bytes = buf.get_mut(..want).unwrap_or_default();
            image.file().read_exact_at(bytes, from)?;
            if bytes.iter().any(|&b| b != 0) {
                match huge {
                    None => to.write_all_at(bytes, at)?,
                    Some(page) => Window::new(to.as_fd(), at / page * page, page)?.write((at % page) as usize, bytes),
                }
            }
            done += want as u64;
            from += want as u64;
        }
    }
    Ok(())
}
