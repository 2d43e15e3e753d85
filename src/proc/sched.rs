//! `/proc/TID/sched`, `/proc/TID/schedstat` and `/proc/TID/syscall`: when a thread last ran, how often, and the call it
//! sleeps in.

use super::Malformed;
use super::text::{decimal, hex, lines, split_once, words};

/// What `/proc/TID/sched` says, as far as somebody here needs it (kernel/sched/debug.c, proc_sched_show_task).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sched {
    /// When its time on a processor was last counted: of a sleeper, when it fell asleep. Nanoseconds of the clock of the
    /// processor it ran on; those of two processors differ by what each has lost to interrupts and to the host.
    pub exec_start: u64,
    /// How often it has given up the processor by itself.
    pub voluntary: u64,
}

/// Parses the text of `sched`.
///
/// # Errors
/// If one of the two is missing or is not a number.
pub fn parse(bytes: &[u8]) -> Result<Sched, Malformed> {
    let field = |name: &[u8]| {
        let mut fields = lines(bytes).filter_map(|line| split_once(line, b':'));
        fields.find(|(key, _)| key.trim_ascii() == name).map(|(_, value)| value.trim_ascii())
    };
    let start = field(b"se.exec_start").and_then(milliseconds).ok_or(Malformed("no time of the last run"))?;
    let voluntary = field(b"nr_voluntary_switches").and_then(decimal).ok_or(Malformed("no count of switches"))?;
    Ok(Sched { exec_start: start, voluntary })
}

/// Parses the text of `schedstat`: time on processors, time of waiting for one, and how often it got one
/// (Documentation/scheduler/sched-stats.rst), of which the last is returned.
///
/// # Errors
/// If it makes no sense.
pub fn runs(bytes: &[u8]) -> Result<u64, Malformed> {
    words(bytes).nth(2).and_then(decimal).ok_or(Malformed("no count of runs"))
}

/// Milliseconds with six digits behind the point, as nanoseconds.
fn milliseconds(text: &[u8]) -> Option<u64> {
    let (whole, part) = split_once(text, b'.')?;
    let (whole, part): (u64, u64) = (decimal(whole)?, decimal(part).filter(|_| part.len() == 6)?);
    whole.checked_mul(1_000_000)?.checked_add(part)
}

/// Parses the text of `syscall`: number and arguments of the call that the thread sleeps in, if it does.
///
/// # Errors
/// If it makes no sense.
pub fn blocked_in(bytes: &[u8]) -> Result<Option<(i64, [u64; 6])>, Malformed> {
    const ODD: Malformed = Malformed("not a system call");
    let mut fields = words(bytes);
    let Some(nr) = fields.next().filter(|&word| word != b"running") else { return Ok(None) };
    let nr: i64 = decimal(nr).ok_or(ODD)?;
    if nr < 0 {
        return Ok(None);
    }
    let mut args = [0; 6];
    for arg in &mut args {
        *arg = fields.next().and_then(|word| hex(word.strip_prefix(b"0x")?)).ok_or(ODD)?;
    }
    Ok(Some((nr, args)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: &[u8] = b"sleep (23567, #threads: 1)\n--------------------\n\
se.exec_start                                :       3278000.407336\n\
se.vruntime                                  :        326274.660232\n\
nr_switches                                  :                    3\n\
nr_voluntary_switches                        :                    2\n\
mm->numa_scan_seq                            :                    0\n";

    #[test]
    fn golden() {
        assert_eq!(parse(GOLDEN).unwrap(), Sched { exec_start: 3_278_000_407_336, voluntary: 2 });
        assert!(parse(b"").is_err());
        assert!(parse(b"se.exec_start : 12.3\nnr_voluntary_switches : 1\n").is_err());
    }

    #[test]
    fn calls() {
        let text = b"230 0x1 0x1 0x7ffda0a98ba0 0x0 0x0 0x0 0x7ffda0a98b88 0x7fae882ed503\n";
        assert_eq!(blocked_in(text).unwrap(), Some((230, [1, 1, 0x7ffd_a0a9_8ba0, 0, 0, 0])));
        assert_eq!(blocked_in(b"running\n").unwrap(), None);
        assert_eq!(blocked_in(b"-1 0x7ffda0a98b88 0x7fae882ed503\n").unwrap(), None);
        assert_eq!(blocked_in(b"").unwrap(), None);
        assert!(blocked_in(b"12 0x1\n").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>, cut in 0..GOLDEN.len()) {
            let _ = parse(&bytes);
            let _ = parse(&GOLDEN[..cut]);
            let _ = blocked_in(&bytes);
        }
    }
}
