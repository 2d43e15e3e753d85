//! The last member, `END.json`: it marks an image as complete and holds the digest of everything before it.

use serde::{Deserialize, Serialize};

use super::digest::{self, Digest};
use super::schema;

/// The last member.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) schema: String,
    /// Bytes of a page member that share one digest.
    pub(super) chunk: u64,
    /// Bytes in all page members.
    pub(super) pages: u64,
    /// Every member before this one, in order.
    pub(super) members: Vec<Listed>,
}

/// One member, as `END.json` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) size: u64,
    /// Absent for page members, which have a digest for every chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<Digest>,
}

/// What stands between the digested bytes and the digest, and after it.
const BEFORE: &[u8] = b",\"digest\":\"";
const AFTER: &[u8] = b"\"}\n";
const HEX: usize = 2 * digest::LEN;

/// The bytes of the member; its last field is the digest of all bytes before that field.
pub(super) fn encode(end: &End) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(end)?;
    bytes.pop();
    let seal = Digest::of(&bytes).to_string();
    bytes.extend_from_slice(BEFORE);
    bytes.extend_from_slice(seal.as_bytes());
    bytes.extend_from_slice(AFTER);
    Ok(bytes)
}

/// Reads the member back; `None` if its digest is wrong or it is no such member.
pub(super) fn decode(bytes: &[u8]) -> Option<End> {
    let (body, seal) = bytes.split_at_checked(bytes.len().checked_sub(BEFORE.len() + HEX + AFTER.len())?)?;
    let digits = std::str::from_utf8(seal.strip_prefix(BEFORE)?.strip_suffix(AFTER)?).ok()?;
    if Digest::from_hex(digits)? != Digest::of(body) {
        return None;
    }
    let end: End = serde_json::from_slice(bytes).ok()?;
    (end.schema == schema::END).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_shows() {
        let listed = Listed { name: "ckpt.json".into(), size: 3, digest: Some(Digest::of(b"abc")) };
        let end = End { schema: schema::END.into(), chunk: 4096, pages: 0, members: vec![listed.clone()] };
        let bytes = encode(&end).unwrap();
        assert_eq!(decode(&bytes).unwrap().members, [listed]);
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(decode(&other).is_none(), "byte {at}");
            assert!(decode(&bytes[..at]).is_none(), "cut at {at}");
        }
    }
}
