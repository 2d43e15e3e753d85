//! Tar headers.

use tar::{EntryType, Header};

use super::PAGE;

/// Bytes in a tar block.
pub(super) const BLOCK: u64 = 512;

/// Sizes from here on do not fit into the size field of a POSIX header.
const BIG: u64 = 8 << 30;

/// `bytes` rounded up to whole blocks; `None` beyond 64 bits.
pub(super) fn padded(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(BLOCK)
}

/// What a member starts with.
pub(super) struct Start<'a> {
    pub(super) name: &'a str,
    pub(super) size: u64,
    /// Seconds since 1970.
    pub(super) mtime: u64,
    /// Whether its first byte must be at a multiple of 4096.
    pub(super) aligned: bool,
}

impl Start<'_> {
    /// The headers of the member when they begin at `at`, a multiple of 512.
    ///
    /// # Errors
    /// A name that does not fit into a header.
    pub(super) fn encode(&self, at: u64) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(BLOCK as usize);
        let unaligned = self.aligned && (at + BLOCK) % PAGE != 0;
        if unaligned || self.size >= BIG {
            let mut records = if self.size >= BIG { record("size", &self.size.to_string()) } else { Vec::new() };
            let mut len = (records.len() as u64 + COMMENT).next_multiple_of(BLOCK);
            if self.aligned {
                let start = at + BLOCK + len + BLOCK;
                len += start.next_multiple_of(PAGE) - start;
            }
            comment(&mut records, len as usize);
            out.extend(self.header(&format!("pax/{}", self.name), len, EntryType::XHeader)?.as_bytes());
            out.append(&mut records);
        }
        out.extend(self.header(self.name, self.size, EntryType::Regular)?.as_bytes());
        Ok(out)
    }

    fn header(&self, name: &str, size: u64, kind: EntryType) -> std::io::Result<Header> {
        let mut header = Header::new_ustar();
        header.set_path(name)?;
        header.set_entry_type(kind);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.mtime);
        header.set_size(size);
        header.set_cksum();
        Ok(header)
    }
}

/// A pax record: its own length in decimal, a blank, `key=value`, a newline.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len += 1;
    }
    format!("{len} {key}={value}\n").into_bytes()
}

/// Room that a comment of any length needs at least.
const COMMENT: u64 = 16;

/// Lengthens `records` to exactly `len` bytes with a comment.
fn comment(records: &mut Vec<u8>, len: usize) {
    let own = len - records.len();
    records.extend(format!("{own} comment=").into_bytes());
    records.resize(len - 1, b' ');
    records.push(b'\n');
}

/// Whether the checksum of a header is right.
pub(super) fn is_sound(block: &[u8; BLOCK as usize]) -> bool {
    let sum: u32 =
        block.iter().enumerate().map(|(i, &b)| u32::from(if (148..156).contains(&i) { b' ' } else { b })).sum();
    Header::from_byte_slice(block).cksum().is_ok_and(|stored| stored == sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_start_where_they_must() {
        for at in (0..3 * PAGE).step_by(BLOCK as usize) {
            for size in [0, 4096, BIG - 1, BIG, 1 << 50] {
                for aligned in [false, true] {
                    let bytes = Start { name: "mem/1.pages", size, mtime: 7, aligned }.encode(at).unwrap();
                    assert_eq!(bytes.len() as u64 % BLOCK, 0);
                    if aligned {
                        assert_eq!((at + bytes.len() as u64) % PAGE, 0, "at {at}");
                    }
                    let last: &[u8; 512] = bytes.last_chunk().unwrap();
                    assert!(is_sound(last));
                    assert_eq!(Header::from_byte_slice(last).entry_size().unwrap(), size);
                    if size >= BIG {
                        let pax: Vec<_> = tar::PaxExtensions::new(&bytes[512..bytes.len() - 512])
                            .map(|r| r.unwrap())
                            .map(|r| (r.key().unwrap(), r.value().unwrap().trim()))
                            .collect();
                        assert_eq!(pax, [("size", size.to_string().as_str()), ("comment", "")]);
                    }
                }
            }
        }
    }

    #[test]
    fn records_count_themselves() {
        for digits in 1..200 {
            let bytes = record("size", &"1".repeat(digits));
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert_eq!(text.split(' ').next().unwrap(), bytes.len().to_string());
        }
    }
}
