//! What a POSIX message queue says when it is read. See mq_overview(7).

use super::Malformed;
use super::text::{decimal, split_once, words};

/// The state of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Bytes in all its messages.
    pub bytes: u64,
    /// The process that is registered to be notified (mq_notify(3)).
    pub notifies: Option<Notified>,
}

/// Who is told of a message, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notified {
    /// Its pid; 0 if we don't see it.
    pub pid: i32,
    /// SIGEV_SIGNAL 0, SIGEV_NONE 1, SIGEV_THREAD 2.
    pub how: i32,
    /// The signal of SIGEV_SIGNAL.
    pub signal: i32,
}

/// `QSIZE:129 NOTIFY:2 SIGNO:0 NOTIFY_PID:8260`
///
/// # Errors
/// If there is no size.
pub fn parse(bytes: &[u8]) -> Result<Status, Malformed> {
    let (mut size, mut notified) = (None, Notified::default());
    let number =
        |value: &[u8]| decimal(value).and_then(|n: u64| i32::try_from(n).ok()).ok_or(Malformed("an odd number"));
    for (name, value) in words(bytes).filter_map(|word| split_once(word, b':')) {
        match name {
            b"QSIZE" => size = decimal(value),
            b"NOTIFY" => notified.how = number(value)?,
            b"SIGNO" => notified.signal = number(value)?,
            b"NOTIFY_PID" => notified.pid = number(value)?,
            _ => {}
        }
    }
    let notifies = (notified != Notified::default()).then_some(notified);
    Ok(Status { bytes: size.ok_or(Malformed("no size"))?, notifies })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn with_and_without_somebody_to_notify() {
        let quiet = b"QSIZE:4          NOTIFY:0     SIGNO:0     NOTIFY_PID:0     \n";
        assert_eq!(parse(quiet), Ok(Status { bytes: 4, notifies: None }));
        let some = b"QSIZE:0          NOTIFY:0     SIGNO:10    NOTIFY_PID:6935  \n";
        let notifies = Some(Notified { pid: 6935, how: 0, signal: 10 });
        assert_eq!(parse(some), Ok(Status { bytes: 0, notifies }));
        // Of a process in another namespace.
        let notifies = Some(Notified { pid: 0, how: 1, signal: 0 });
        assert_eq!(parse(b"QSIZE:0 NOTIFY:1 SIGNO:0 NOTIFY_PID:0\n"), Ok(Status { bytes: 0, notifies }));
        assert!(parse(b"QSIZE:0 NOTIFY:-1\n").is_err());
        assert!(parse(b"NOTIFY:0\n").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
