//! Lines of `/proc/locks` and of `lock:` in fdinfo. See proc_locks(5).

use super::text::{decimal, hex, lines, split_once, words};
use crate::model::locks::LockKind;

/// One lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// What it is.
    pub kind: LockKind,
    /// A lease that somebody waits to see given up.
    pub breaking: bool,
    /// For writing.
    pub write: bool,
    /// Who took it, as we see it; -1: belongs to no process, 0: out of sight.
    pub pid: i32,
    /// Major and minor number of the file system.
    pub dev: (u64, u64),
    /// Inode of the file.
    pub ino: u64,
    /// First byte.
    pub start: u64,
    /// Last byte; none: to the end of the file.
    pub end: Option<u64>,
}

/// `/proc/locks`: the locks held; those waited for (`->`) and kinds that are none of ours are left out.
pub(super) fn parse(bytes: &[u8]) -> Vec<Lock> {
    lines(bytes).filter_map(|line| lock(split_once(line, b':')?.1)).collect()
}

/// A lock without its number: `FLOCK  ADVISORY  WRITE 6467 fe:00:10010638 0 EOF`.
pub(super) fn lock(line: &[u8]) -> Option<Lock> {
    let mut words = words(line);
    let kind = match words.next()? {
        b"FLOCK" => LockKind::Flock,
        b"POSIX" => LockKind::Posix,
        b"OFDLCK" => LockKind::Ofd,
        b"LEASE" => LockKind::Lease,
        _ => return None,
    };
    let breaking = matches!(words.next()?, b"BREAKING" | b"BREAKER");
    let write = match words.next()? {
        b"WRITE" => true,
        b"READ" | b"UNLCK" => false,
        _ => return None,
    };
    let pid = decimal(words.next()?)?;
    let (major, rest) = split_once(words.next()?, b':')?;
    let (minor, ino) = split_once(rest, b':')?;
    let dev = (hex(major)?, hex(minor)?);
    let ino = decimal(ino)?;
    let start = decimal(words.next()?)?;
    let end = match words.next()? {
        b"EOF" => None,
        number => Some(decimal(number)?),
    };
    Some(Lock { kind, breaking, write, pid, dev, ino, start, end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kind() {
        let text = b"1: FLOCK  ADVISORY  WRITE 13954 fe:00:10510714 0 EOF\n\
            2: POSIX  ADVISORY  READ 13954 fe:00:10510714 5 14\n\
            2: -> POSIX  ADVISORY  WRITE 13960 fe:00:10510714 5 14\n\
            3: OFDLCK ADVISORY  READ -1 fe:00:10510714 100 EOF\n\
            4: LEASE  ACTIVE    WRITE 13954 fe:00:10510717 0 EOF\n\
            5: LEASE  BREAKING  READ 13954 fe:00:10510717 0 EOF\n";
        let found = parse(text);
        let short: Vec<_> = found.iter().map(|l| (l.kind, l.write, l.pid, l.start, l.end, l.breaking)).collect();
        assert_eq!(
            short,
            [
                (LockKind::Flock, true, 13954, 0, None, false),
                (LockKind::Posix, false, 13954, 5, Some(14), false),
                (LockKind::Ofd, false, -1, 100, None, false),
                (LockKind::Lease, true, 13954, 0, None, false),
                (LockKind::Lease, false, 13954, 0, None, true),
            ]
        );
        assert_eq!((found[0].dev, found[0].ino), ((0xfe, 0), 10_510_714));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
