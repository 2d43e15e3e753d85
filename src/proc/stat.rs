//! `/proc/PID/stat`. See proc_pid_stat(5), whose numbering of the fields is used here.

use super::Malformed;
use super::text::{decimal, words};

/// What `/proc/PID/stat` says, as far as somebody here needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// (1) Process or thread id.
    pub pid: i32,
    /// (2) Command name.
    pub comm: Vec<u8>,
    /// (3) State letter.
    pub state: u8,
    /// (4) Parent.
    pub ppid: i32,
    /// (5) Process group.
    pub pgrp: i32,
    /// (6) Session.
    pub session: i32,
    /// (7) Controlling terminal, as a device number; 0: none.
    pub tty_nr: i32,
    /// (8) Foreground group of that terminal.
    pub tpgid: i32,
    /// (9) PF_* flags of the kernel.
    pub flags: u32,
    /// (14) Time in user mode, ticks.
    pub utime: u64,
    /// (15) Time in the kernel, ticks.
    pub stime: u64,
    /// (19) Niceness.
    pub nice: i32,
    /// (20) Threads.
    pub threads: u32,
    /// (22) When it started, ticks after boot.
    pub start_time: u64,
    /// (26) Text.
    pub start_code: u64,
    /// (27) End of text.
    pub end_code: u64,
    /// (28) Bottom of the stack.
    pub start_stack: u64,
    /// (38) Signal to the parent at the end.
    pub exit_signal: i32,
    /// (39) CPU last run on.
    pub processor: i32,
    /// (45) Initialised data.
    pub start_data: u64,
    /// (46) End of it.
    pub end_data: u64,
    /// (47) Start of the heap.
    pub start_brk: u64,
    /// (48) Command line.
    pub arg_start: u64,
    /// (49) End of it.
    pub arg_end: u64,
    /// (50) Environment.
    pub env_start: u64,
    /// (51) End of it.
    pub env_end: u64,
    /// (52) As wait(2) would report it.
    pub exit_code: i32,
}

/// Parses the text of `stat`.
///
/// # Errors
/// If there are fewer than 52 fields or one is not a number.
pub fn parse(bytes: &[u8]) -> Result<Stat, Malformed> {
    // The command name may hold spaces and parentheses: it ends at the last one.
    let open = bytes.iter().position(|b| *b == b'(').ok_or(Malformed("no command name"))?;
    let close = bytes.iter().rposition(|b| *b == b')').ok_or(Malformed("no command name"))?;
    let pid = bytes.get(..open).map(<[u8]>::trim_ascii).and_then(decimal).ok_or(Malformed("no pid"))?;
    let comm = bytes.get(open + 1..close).ok_or(Malformed("no command name"))?.to_vec();
    let rest = bytes.get(close + 1..).unwrap_or_default();
    let fields: Vec<&[u8]> = words(rest).collect();
    let field = Fields(&fields);
    Ok(Stat {
        pid,
        comm,
        state: fields.first().and_then(|state| state.first()).copied().ok_or(Malformed("no state"))?,
        ppid: field.get(4)?,
        pgrp: field.get(5)?,
        session: field.get(6)?,
        tty_nr: field.get(7)?,
        tpgid: field.get(8)?,
        flags: field.get(9)?,
        utime: field.get(14)?,
        stime: field.get(15)?,
        nice: field.get(19)?,
        threads: field.get(20)?,
        start_time: field.get(22)?,
        start_code: field.get(26)?,
        end_code: field.get(27)?,
        start_stack: field.get(28)?,
        exit_signal: field.get(38)?,
        processor: field.get(39)?,
        start_data: field.get(45)?,
        end_data: field.get(46)?,
        start_brk: field.get(47)?,
        arg_start: field.get(48)?,
        arg_end: field.get(49)?,
        env_start: field.get(50)?,
        env_end: field.get(51)?,
        exit_code: field.get(52)?,
    })
}

/// The fields from the third on.
struct Fields<'a>(&'a [&'a [u8]]);

impl Fields<'_> {
    fn get<T: std::str::FromStr>(&self, number: usize) -> Result<T, Malformed> {
        let text = number.checked_sub(3).and_then(|at| self.0.get(at)).ok_or(Malformed("a field is missing"))?;
        decimal(text).ok_or(Malformed("a field is not a number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: &[u8] = b"6467 (a) (b) R 6464 6463 4344 34816 -1 4194304 3014 6564 13 0 6 2 5 3 20 -5 7 0 160076 \
17412096 3467 18446744073709551615 94110427082752 94110427083093 140737238658240 0 0 0 0 16781312 2 0 0 0 17 1 0 0 0 \
0 0 94110427094448 94110427095064 94110872113152 140737238660191 140737238661416 140737238661417 140737238663119 256\n";

    #[test]
    fn golden() {
        let stat = parse(GOLDEN).unwrap();
        assert_eq!((stat.pid, stat.comm.as_slice(), stat.state), (6467, &b"a) (b"[..], b'R'));
        assert_eq!((stat.ppid, stat.pgrp, stat.session, stat.tty_nr, stat.tpgid), (6464, 6463, 4344, 34816, -1));
        assert_eq!((stat.nice, stat.threads, stat.start_time), (-5, 7, 160076));
        assert_eq!(stat.start_code, 94_110_427_082_752);
        assert_eq!(stat.start_stack, 140_737_238_658_240);
        assert_eq!((stat.exit_signal, stat.processor), (17, 1));
        assert_eq!(stat.start_data, 94_110_427_094_448);
        assert_eq!(stat.arg_start, 140_737_238_660_191);
        assert_eq!(stat.env_start, 140_737_238_661_417);
        assert_eq!(stat.exit_code, 256);
    }

    #[test]
    fn short_texts_are_errors() {
        assert!(parse(b"").is_err());
        assert!(parse(b"12 (x) R 1 2").is_err());
        assert!(parse(b"12 )x( R 1 2").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>, cut in 0..GOLDEN.len()) {
            let _ = parse(&bytes);
            let _ = parse(&GOLDEN[..cut]);
        }
    }
}
