//! Names of jobs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Error;

/// Longest name, in bytes: with `.sock` it stays far below what a directory entry may hold.
pub const LONGEST: usize = 100;

/// Checks that `name` can be a job's: it becomes a file name, and must not look like a pid.
///
/// # Errors
/// [`Error::BadName`].
pub fn check(name: &str) -> Result<(), Error> {
    let bad = |reason| Err(Error::BadName { name: name.to_owned(), reason });
    if name.is_empty() {
        bad("it is empty")
    } else if name.len() > LONGEST {
        bad("it is longer than 100 bytes")
    } else if name.starts_with(['.', '-']) {
        bad("it starts with a dot or a dash")
    } else if name.contains(|c: char| c == '/' || c.is_control()) {
        bad("it contains a slash or a control character")
    } else if name.bytes().all(|b| b.is_ascii_digit()) {
        bad("a number is taken for a pid")
    } else {
        Ok(())
    }
}

/// A name that passes [`check`], as much like `text` as can be.
pub fn tame(text: &str) -> String {
    let mut name: String =
        text.trim_start_matches(['.', '-']).chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect();
    let mut end = name.len().min(LONGEST - 8); // room for a "-2" and the like
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    if name.is_empty() || name.bytes().all(|b| b.is_ascii_digit()) {
        name.insert_str(0, "job");
    }
    name
}

/// A name for a job that was given none: base name of the command and a short id that differs from run to run.
pub fn invent(program: &OsStr, attempt: u32) -> String {
    let base = Path::new(program).file_name().unwrap_or(program);
    let base: String = base
        .as_bytes()
        .iter()
        .take(40)
        .map(|&b| if b.is_ascii_alphanumeric() || b"._-".contains(&b) { b as char } else { '_' })
        .collect();
    let base = tame(&base);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mix = (now.as_nanos() as u64)
        .wrapping_add(u64::from(std::process::id()) << 32)
        .wrapping_add(u64::from(attempt))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15); // spreads neighbouring values over the upper bits
    format!("{base}-{:04x}", mix >> 48)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_names_are_refused() {
        for name in ["", ".", "..", "a/b", "123", "a\nb", "-x", &"x".repeat(101)] {
            assert!(check(name).is_err(), "{name:?}");
        }
        for name in ["a", "counter-7f3a", "é", "1a", &"x".repeat(100)] {
            assert!(check(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn invented_names_show_the_command() {
        let name = invent(OsStr::new("/usr/bin/python3"), 0);
        assert!(name.starts_with("python3-") && name.len() == "python3-7f3a".len(), "{name}");
    }

    proptest! {
        #[test]
        fn tamed_and_invented_names_are_good(text in ".{0,200}", bytes: Vec<u8>) {
            prop_assert!(check(&tame(&text)).is_ok());
            prop_assert!(check(&invent(OsStr::from_bytes(&bytes), 0)).is_ok());
        }
    }
}
