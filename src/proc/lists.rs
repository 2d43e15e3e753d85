//! Small texts: lists of numbers, namespace links, time offsets.

use super::Malformed;
use super::text::{decimal, lines, words};

/// Numbers between white space, as `children` has them.
///
/// # Errors
/// If one is not a number.
pub fn numbers(bytes: &[u8]) -> Result<Vec<i32>, Malformed> {
    words(bytes).map(|word| decimal(word).ok_or(Malformed("not a number"))).collect()
}

/// The number in `pipe:[123]`, `socket:[123]` or `pid:[123]`.
pub fn bracketed(link: &[u8]) -> Option<u64> {
    let open = link.iter().position(|b| *b == b'[')?;
    decimal(link.get(open + 1..)?.strip_suffix(b"]")?)
}

/// Offsets of a time namespace, in nanoseconds ahead of the host's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeOffsets {
    /// Of `CLOCK_MONOTONIC`.
    pub monotonic: i64,
    /// Of `CLOCK_BOOTTIME`.
    pub boottime: i64,
}

/// `/proc/PID/timens_offsets`; old kernels name the clocks by number.
///
/// # Errors
/// If a line is not `clock seconds nanoseconds`.
pub fn timens_offsets(bytes: &[u8]) -> Result<TimeOffsets, Malformed> {
    let mut out = TimeOffsets::default();
    for line in lines(bytes) {
        let mut words = words(line);
        let (Some(clock), Some(seconds), Some(nanos)) = (words.next(), words.next(), words.next()) else {
            return Err(Malformed("a line lacks a clock or its offset"));
        };
        let (Some(seconds), Some(nanos)) = (decimal::<i64>(seconds), decimal::<i64>(nanos)) else {
            return Err(Malformed("an offset is not a number"));
        };
        let offset = seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        match clock {
            b"monotonic" | b"1" => out.monotonic = offset,
            b"boottime" | b"7" => out.boottime = offset,
            _ => {}
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_and_links() {
        assert_eq!(numbers(b"12 13 \n"), Ok(vec![12, 13]));
        assert_eq!(numbers(b""), Ok(vec![]));
        assert!(numbers(b"12 x").is_err());
        assert_eq!(bracketed(b"pipe:[11625]"), Some(11625));
        assert_eq!(bracketed(b"anon_inode:[eventfd]"), None);
        assert_eq!(bracketed(b"]["), None);
    }

    #[test]
    fn offsets_of_both_spellings() {
        let want = TimeOffsets { monotonic: -1_500_000_000, boottime: 7 };
        assert_eq!(timens_offsets(b"monotonic          -2 500000000\nboottime            0         7\n"), Ok(want));
        assert_eq!(timens_offsets(b"1          -2 500000000\n7            0         7\n"), Ok(want));
        assert!(timens_offsets(b"monotonic 1\n").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = numbers(&bytes);
            let _ = bracketed(&bytes);
            let _ = timens_offsets(&bytes);
        }
    }
}
