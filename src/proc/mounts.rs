//! `/proc/PID/mountinfo`. See proc_pid_mountinfo(5).

use super::Malformed;
use super::text::{decimal, lines, split_once, unescape_octal, words};

/// One mount that a process sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its number.
    pub id: i32,
    /// Device of its file system, as the kernel's own number (minor in the low 20 bits).
    pub sdev: u64,
    /// Where it is, from the root directory of the process.
    pub point: Vec<u8>,
}

/// Parses the whole file.
///
/// # Errors
/// If a line is not `id parent major:minor root point …`.
pub fn parse(bytes: &[u8]) -> Result<Vec<Mount>, Malformed> {
    lines(bytes).map(|line| mount(line).ok_or(Malformed("a mount is odd"))).collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut words = words(line);
    let id = decimal(words.next()?)?;
    let (major, minor) = split_once(words.nth(1)?, b':')?;
    let sdev = u64::from(decimal::<u32>(major)?) << 20 | u64::from(decimal::<u32>(minor)?);
    Some(Mount { id, sdev, point: unescape_octal(words.nth(1)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_a_process() {
        let text = b"25 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            30 25 0:27 /a /dev/sh\\040m rw shared:1 - tmpfs tmpfs rw,size=1k\n";
        let mount = |id, sdev, point: &[u8]| Mount { id, sdev, point: point.to_vec() };
        assert_eq!(parse(text), Ok(vec![mount(25, 0xfe0_0000, b"/"), mount(30, 0x1b, b"/dev/sh m")]));
        assert!(parse(b"25 1 254 / /\n").is_err());
    }
}
