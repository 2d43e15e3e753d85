//! The small types everything else is made of.

use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A process or thread id as the program sees it, in its own pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pid(pub i32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address in the program's memory. Never a pointer of ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr(pub u64);

impl Addr {
    /// The address `bytes` further on; `None` past the end of the address space.
    pub fn checked_add(self, bytes: u64) -> Option<Addr> {
        self.0.checked_add(bytes).map(Addr)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Addr {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{:#x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Addr {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        let digits = text.strip_prefix("0x").ok_or_else(|| de::Error::custom("an address starts with 0x"))?;
        u64::from_str_radix(digits, 16).map(Addr).map_err(de::Error::custom)
    }
}

/// Bytes kept as hexadecimal text: register areas, signal information.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hex(pub Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&to_hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        from_hex(&text).map(Hex).ok_or_else(|| de::Error::custom("not hexadecimal"))
    }
}

/// Bytes of which many are zero (an xsave area), as hexadecimal text in which `(N)` stands for N of these.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Area(pub Vec<u8>);

impl Area {
    /// More than any area the kernel knows of.
    const MAX: usize = 64 * 1024;

    fn text(&self) -> String {
        let mut out = String::with_capacity(self.0.len());
        let mut zeros = 0;
        // Registers are words.
        for word in self.0.chunks(8) {
            if word.iter().all(|b| *b == 0) {
                zeros += word.len();
                continue;
            }
            if zeros > 0 {
                out.push_str(&format!("({zeros})"));
                zeros = 0;
            }
            out.push_str(&to_hex(word));
        }
        if zeros > 0 {
            out.push_str(&format!("({zeros})"));
        }
        out
    }

    fn parse(text: &str) -> Option<Area> {
        let mut out = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (bytes, zeros) = rest.split_once('(').unwrap_or((rest, "0)"));
            let (zeros, after) = zeros.split_once(')')?;
            out.append(&mut from_hex(bytes)?);
            out.resize(
                zeros.parse::<usize>().ok().and_then(|n| n.checked_add(out.len())).filter(|n| *n <= Area::MAX)?,
                0,
            );
            rest = after;
        }
        Some(Area(out))
    }
}

impl Serialize for Area {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Area {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        Area::parse(&text).ok_or_else(|| de::Error::custom("not hexadecimal with zeros"))
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = vec![0; bytes.len() * 2];
    for (pair, b) in out.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
    }
    String::from_utf8(out).unwrap_or_default()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() % 2 != 0 {
        return None;
    }
    let digit = |d: u8| match d {
        b'0'..=b'9' => Some(d - b'0'),
        b'a'..=b'f' => Some(d - b'a' + 10),
        b'A'..=b'F' => Some(d - b'A' + 10),
        _ => None,
    };
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// A path or name as the kernel has it: any bytes. In JSON a string where it is UTF-8, else `{"hex": "…"}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Name(pub Vec<u8>);

impl Name {
    /// The same bytes as a path.
    pub fn as_path(&self) -> &Path {
        Path::new(std::ffi::OsStr::from_bytes(&self.0))
    }

    /// What to show a person: invalid UTF-8 replaced.
    pub fn display(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl From<PathBuf> for Name {
    fn from(path: PathBuf) -> Self {
        Name(path.into_os_string().into_vec())
    }
}

impl From<&Path> for Name {
    fn from(path: &Path) -> Self {
        Name(path.as_os_str().as_bytes().to_vec())
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Name(text.as_bytes().to_vec())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NameRepr<'a> {
    Text(std::borrow::Cow<'a, str>),
    Bytes { hex: Hex },
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => NameRepr::Text(text.into()).serialize(s),
            Err(_) => NameRepr::Bytes { hex: Hex(self.0.clone()) }.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(match NameRepr::deserialize(d)? {
            NameRepr::Text(text) => Name(text.into_owned().into_bytes()),
            NameRepr::Bytes { hex } => Name(hex.0),
        })
    }
}

/// A duration or a moment in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nanos(pub i64);

impl Nanos {
    /// Nanoseconds in a second.
    pub const PER_SECOND: i64 = 1_000_000_000;

    /// From the two halves of a `timespec`; saturates where it would not fit (292 years).
    pub fn from_parts(seconds: i64, nanos: i64) -> Nanos {
        Nanos(seconds.saturating_mul(Self::PER_SECOND).saturating_add(nanos))
    }

    /// The same, `time` later: of what was left until a moment.
    #[must_use]
    pub fn less(self, time: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(time.0))
    }

    /// The two halves of a `timespec`, the second in 0..1e9.
    pub fn parts(self) -> (i64, i64) {
        (self.0.div_euclid(Self::PER_SECOND), self.0.rem_euclid(Self::PER_SECOND))
    }
}

/// One thing that stands in the way of a save or a resume: what, of whom, why, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Whose it is (inside pid).
    pub pid: Pid,
    /// The object: `fd 7 (io_uring)`, `/data/log`, `thread 4712`.
    pub object: String,
    /// Why it cannot be done.
    pub reason: String,
    /// What the user can do about it; may be empty.
    pub hint: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} {}: {}", self.pid, self.object, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_utf8_survive() {
        for bytes in [&b"/tmp/plain"[..], b"/tmp/\xff\xfe x", b"", b"a \"quoted\"\nname (deleted)"] {
            let json = serde_json::to_string(&Name(bytes.to_vec())).unwrap();
            assert_eq!(serde_json::from_str::<Name>(&json).unwrap().0, bytes, "{json}");
        }
    }

    #[test]
    fn addresses_and_bytes_round_trip() {
        let json = serde_json::to_string(&(Addr(0x7fff_0000_1000), Hex(vec![0, 0xab, 0xff]))).unwrap();
        assert_eq!(json, r#"["0x7fff00001000","00abff"]"#);
        let back: (Addr, Hex) = serde_json::from_str(&json).unwrap();
        assert_eq!(back, (Addr(0x7fff_0000_1000), Hex(vec![0, 0xab, 0xff])));
    }

    #[test]
    fn areas_round_trip() {
        for bytes in [vec![], vec![0; 3], vec![7; 20], [vec![0; 64], vec![1; 9], vec![0; 17], vec![2]].concat()] {
            let json = serde_json::to_string(&Area(bytes.clone())).unwrap();
            assert_eq!(serde_json::from_str::<Area>(&json).unwrap(), Area(bytes), "{json}");
        }
        assert_eq!(
            serde_json::to_string(&Area([vec![1; 8], vec![0; 24]].concat())).unwrap(),
            r#""0101010101010101(24)""#
        );
        for bad in ["(", "(1", "1)", "(-1)", "(70000)", "(9999999999999999999999)", "0(1)", "(1)(65536)", "((1))"] {
            assert!(serde_json::from_str::<Area>(&format!("\"{bad}\"")).is_err(), "{bad}");
        }
    }

    #[test]
    fn hostile_text_is_an_error() {
        assert!(serde_json::from_str::<Addr>("\"0x\"").is_err());
        assert!(serde_json::from_str::<Addr>("\"0x1ffffffffffffffff\"").is_err());
        assert!(serde_json::from_str::<Hex>("\"abc\"").is_err());
        assert!(serde_json::from_str::<Hex>("\"zz\"").is_err());
        assert!(serde_json::from_str::<Hex>("\"é\"").is_err());
    }

    #[test]
    fn nanos_split_towards_the_past() {
        assert_eq!(Nanos(-1).parts(), (-1, 999_999_999));
        assert_eq!(Nanos::from_parts(i64::MAX, 0), Nanos(i64::MAX));
    }
}
