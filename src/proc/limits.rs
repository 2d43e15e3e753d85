//! `/proc/PID/limits`. Unlike prlimit(2) it may be read without being the same user.

use super::Malformed;
use super::text::{decimal, lines, words};

/// Names of the resources in the order of `RLIMIT_*`.
pub const NAMES: [&str; 16] = [
    "Max cpu time",
    "Max file size",
    "Max data size",
    "Max stack size",
    "Max core file size",
    "Max resident set",
    "Max processes",
    "Max open files",
    "Max locked memory",
    "Max address space",
    "Max file locks",
    "Max pending signals",
    "Max msgqueue size",
    "Max nice priority",
    "Max realtime priority",
    "Max realtime timeout",
];

/// Soft and hard limit of each resource in the order of `RLIMIT_*`; `u64::MAX` is "unlimited".
///
/// # Errors
/// If a resource is missing or its line makes no sense.
pub fn parse(bytes: &[u8]) -> Result<[(u64, u64); NAMES.len()], Malformed> {
    let mut out = [(0, 0); NAMES.len()];
    for (limit, name) in out.iter_mut().zip(NAMES) {
        let rest =
            lines(bytes).find_map(|line| line.strip_prefix(name.as_bytes())).ok_or(Malformed("a limit is missing"))?;
        let mut values = words(rest).map(value);
        match (values.next().flatten(), values.next().flatten()) {
            (Some(soft), Some(hard)) => *limit = (soft, hard),
            _ => return Err(Malformed("a limit is not a number")),
        }
    }
    Ok(out)
}

fn value(word: &[u8]) -> Option<u64> {
    if word == b"unlimited" { Some(u64::MAX) } else { decimal(word) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: &[u8] = b"\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max file size             unlimited            unlimited            bytes     
Max data size             unlimited            unlimited            bytes     
Max stack size            8388608              unlimited            bytes     
Max core file size        0                    unlimited            bytes     
Max resident set          unlimited            unlimited            bytes     
Max processes             96365                96366                processes 
Max open files            20000                20000                files     
Max locked memory         8388608              8388608              bytes     
Max address space         unlimited            unlimited            bytes     
Max file locks            unlimited            unlimited            locks     
Max pending signals       96365                96365                signals   
Max msgqueue size         819200               819200               bytes     
Max nice priority         0                    0                    
Max realtime priority     0                    0                    
Max realtime timeout      unlimited            5                    us        
";

    #[test]
    fn golden() {
        let limits = parse(GOLDEN).unwrap();
        assert_eq!(limits[3], (8_388_608, u64::MAX));
        assert_eq!(limits[6], (96_365, 96_366));
        assert_eq!((limits[13], limits[15]), ((0, 0), (u64::MAX, 5)));
    }

    #[test]
    fn a_missing_limit_is_an_error() {
        assert!(parse(&GOLDEN[..GOLDEN.len() - 90]).is_err());
        assert!(parse(&String::from_utf8_lossy(GOLDEN).replace("96366", "x").into_bytes()).is_err());
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
