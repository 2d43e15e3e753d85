//! What a POSIX message queue says when it is read. See mq_overview(7).

use super::Malformed;
use super::text::{decimal, split_once, words};

/// The state of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Bytes in all its messages.
    pub bytes: u64,
    /// A process is registered to be notified (mq_notify(3)).
    pub notifies: bool,
}

/// `QSIZE:129 NOTIFY:2 SIGNO:0 NOTIFY_PID:8260`
///
/// # Errors
/// If there is no size.
pub fn parse(bytes: &[u8]) -> Result<Status, Malformed> {
    let (mut size, mut notifies) = (None, false);
    for (name, value) in words(bytes).filter_map(|word| split_once(word, b':')) {
        match name {
            b"QSIZE" => size = decimal(value),
            b"NOTIFY" | b"SIGNO" | b"NOTIFY_PID" => notifies |= value != b"0",
            _ => {}
        }
    }
    Ok(Status { bytes: size.ok_or(Malformed("no size"))?, notifies })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn with_and_without_somebody_to_notify() {
        let quiet = b"QSIZE:4          NOTIFY:0     SIGNO:0     NOTIFY_PID:0     \n";
        assert_eq!(parse(quiet), Ok(Status { bytes: 4, notifies: false }));
        for word in ["NOTIFY:1", "SIGNO:10", "NOTIFY_PID:6935"] {
            let text = format!("QSIZE:0          {word:<12}\n");
            assert_eq!(parse(text.as_bytes()), Ok(Status { bytes: 0, notifies: true }));
        }
        assert!(parse(b"NOTIFY:0\n").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
