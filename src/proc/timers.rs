//! `/proc/PID/timers`: POSIX timers. See proc_pid_timers(5).

use super::Malformed;
use super::text::{decimal, hex, lines, split_once};

/// One POSIX timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    /// The kernel's id.
    pub id: i32,
    /// `sigev_signo`.
    pub signal: i32,
    /// `sigev_value`.
    pub sigval: u64,
    /// `sigev_notify`: SIGEV_SIGNAL 0, SIGEV_NONE 1, SIGEV_THREAD 2, with SIGEV_THREAD_ID 4 added.
    pub notify: i32,
    /// Who is signalled: a thread if `notify` has SIGEV_THREAD_ID, else a process.
    pub target: i32,
    /// Clock id.
    pub clock: i32,
}

/// Parses the text of `timers`; they come newest first, as the kernel lists them.
///
/// # Errors
/// If a line makes no sense.
pub fn parse(bytes: &[u8]) -> Result<Vec<Timer>, Malformed> {
    let mut out: Vec<Timer> = Vec::new();
    for line in lines(bytes) {
        let (key, value) = split_once(line, b':').ok_or(Malformed("a line without a colon"))?;
        let value = value.trim_ascii();
        if key == b"ID" {
            let id = decimal(value).ok_or(Malformed("an id is not a number"))?;
            out.push(Timer { id, signal: 0, sigval: 0, notify: 0, target: 0, clock: 0 });
            continue;
        }
        let timer = out.last_mut().ok_or(Malformed("a line before the first id"))?;
        fill(timer, key, value).ok_or(Malformed("a timer's line is odd"))?;
    }
    Ok(out)
}

fn fill(timer: &mut Timer, key: &[u8], value: &[u8]) -> Option<()> {
    match key {
        b"signal" => {
            let (signal, sigval) = split_once(value, b'/')?;
            timer.signal = decimal(signal)?;
            // Old kernels print a null pointer as "(null)".
            let sigval = sigval.strip_prefix(b"0x").unwrap_or(sigval).trim_ascii();
            timer.sigval = if sigval == b"(null)" { 0 } else { hex(sigval)? };
        }
        b"notify" => {
            let (how, whom) = split_once(value, b'/')?;
            let (kind, id) = split_once(whom, b'.')?;
            timer.notify = match how {
                b"signal" => 0,
                b"none" => 1,
                b"thread" => 2,
                _ => return None,
            } | match kind {
                b"tid" => 4,
                b"pid" => 0,
                _ => return None,
            };
            timer.target = decimal(id)?;
        }
        b"ClockID" => timer.clock = decimal(value)?,
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: &[u8] = b"ID: 1\nsignal: 34/0000000000000000\nnotify: signal/tid.6468\nClockID: -6\n\
ID: 0\nsignal: 10/0000000000001234\nnotify: signal/pid.6467\nClockID: 1\n";

    #[test]
    fn golden() {
        assert_eq!(
            parse(GOLDEN).unwrap(),
            [
                Timer { id: 1, signal: 34, sigval: 0, notify: 4, target: 6468, clock: -6 },
                Timer { id: 0, signal: 10, sigval: 0x1234, notify: 0, target: 6467, clock: 1 },
            ]
        );
        assert_eq!(parse(b"").unwrap(), []);
    }

    #[test]
    fn an_old_kernel_and_other_ways_to_notify() {
        let timers = parse(b"ID: 3\nsignal: 0/          (null)\nnotify: none/pid.5\nClockID: 0\n").unwrap();
        assert_eq!(timers, [Timer { id: 3, signal: 0, sigval: 0, notify: 1, target: 5, clock: 0 }]);
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(parse(b"signal: 1/0\n").is_err());
        assert!(parse(b"ID: 1\nnotify: signal/gid.4\n").is_err());
        assert!(parse(b"ID: x\n").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>, at in 0..GOLDEN.len(), byte: u8) {
            let _ = parse(&bytes);
            let mut broken = GOLDEN.to_vec();
            broken[at] = byte;
            let _ = parse(&broken);
        }
    }
}
