//! Numbers and lines in bytes.

/// A decimal number, perhaps with a sign, and nothing else.
pub fn decimal<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// A hexadecimal number without prefix or sign, and nothing else.
pub fn hex(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || bytes.len() > 16 {
        return None;
    }
    bytes.iter().try_fold(0u64, |sum, b| Some(sum << 4 | u64::from((*b as char).to_digit(16)?)))
}

/// An octal number without prefix or sign, and nothing else.
pub fn octal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u64, |sum, b| sum.checked_mul(8)?.checked_add(u64::from((*b as char).to_digit(8)?)))
}

/// The two sides of the first `by`.
pub fn split_once(bytes: &[u8], by: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|b| *b == by)?;
    Some((bytes.get(..at)?, bytes.get(at + 1..)?))
}

/// Lines without their ends; no empty last one.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty())
}

/// Words between spaces and tabs.
pub fn words(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// A name from `seq_path`, with `\012` turned back into a newline. (A name that really holds `\012` looks the same.)
pub fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, more)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\\012") {
            out.push(b'\n');
            rest = after;
        } else {
            out.push(*first);
            rest = more;
        }
    }
    out
}

/// A name from `seq_path` that has spaces, tabs, newlines and backslashes escaped: nothing else looks like it.
pub fn unescape_octal(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, more)) = rest.split_first() {
        let digits = rest.strip_prefix(b"\\").and_then(|rest| rest.split_at_checked(3));
        let escaped = digits.and_then(|(digits, after)| Some((u8::try_from(octal(digits)?).ok()?, after)));
        let (byte, after) = escaped.unwrap_or((*first, more));
        out.push(byte);
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_strict() {
        assert_eq!(decimal::<i32>(b"-5"), Some(-5));
        assert_eq!(decimal::<i32>(b"5 "), None);
        assert_eq!(hex(b"ffffffffffffffff"), Some(u64::MAX));
        assert_eq!(hex(b"1ffffffffffffffff"), None);
        assert_eq!(hex(b"+1"), None);
        assert_eq!(octal(b"0100001"), Some(0o100001));
        assert_eq!(octal(b"7777777777777777777777777"), None);
        assert_eq!(octal(b"8"), None);
    }

    #[test]
    fn newlines_come_back() {
        assert_eq!(unescape(b"/a\\012b\\01"), b"/a\nb\\01");
    }
}
