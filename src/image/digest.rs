//! Digests as the image keeps them: XXH3 of 128 bits. It finds damage as surely as a cryptographic one and costs a fifth:
//! an image that somebody has changed on purpose can carry any digest.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use twox_hash::XxHash3_128;

/// Bytes of a digest.
pub const LEN: usize = 16;

/// A digest; 32 hexadecimal digits in JSON, the first of its bytes in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; LEN]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        XxHash3_128::oneshot(bytes).into()
    }

    /// The digest that these digits write.
    pub fn from_hex(digits: &str) -> Option<Digest> {
        let plain = digits.len() == 2 * LEN && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        u128::from_str_radix(digits, 16).ok().filter(|_| plain).map(Digest::from)
    }
}

impl From<u128> for Digest {
    fn from(hash: u128) -> Self {
        Digest(hash.to_be_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The digest of bytes that come piece by piece.
#[derive(Default)]
pub struct Hasher(XxHash3_128);

impl Hasher {
    /// What comes next.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.write(piece);
    }

    /// The digest of all that came.
    pub fn finish(&self) -> Digest {
        self.0.finish_128().into()
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        Digest::from_hex(&text).ok_or_else(|| de::Error::custom("not a digest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_specification() {
        // XXH128 of nothing and of the letter "a", as `xxhsum -H2` prints them.
        assert_eq!(Digest::of(b"").to_string(), "99aa06d3014798d86001c324468d497f");
        assert_eq!(Digest::of(b"a").to_string(), "a96faf705af16834e6c632b61e964e1f");
    }

    #[test]
    fn pieces_make_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (0..5000u32).map(|i| (i % 251) as u8).collect();
        let mut hasher = Hasher::default();
        bytes.chunks(777).for_each(|piece| hasher.update(piece));
        assert_eq!(hasher.finish(), Digest::of(&bytes));
    }

    #[test]
    fn digits_are_read_as_they_are_written() {
        let digest = Digest::of(b"x");
        assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
        for wrong in ["", "0", "+0aa06d3014798d86001c324468d497f", "99AA06d3014798d86001c324468d497f", &"0".repeat(33)]
        {
            assert_eq!(Digest::from_hex(wrong), None);
        }
    }
}
