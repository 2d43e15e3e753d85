//! Amounts as people write and read them.

use std::time::Duration;

/// `1.2 GiB`, `17 KiB`, `0 B`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    // What would be shown as 1024.0 is one of the next.
    while amount >= 1023.95 {
        let Some(next) = units.next() else { break };
        amount /= 1024.0;
        unit = next;
    }
    if amount < 10.0 { format!("{amount:.1} {unit}") } else { format!("{amount:.0} {unit}") }
}

/// `0.61 s`; what would round to less than a hundredth has four decimals.
pub fn seconds(seconds: f64) -> String {
    if seconds < 0.00995 { format!("{seconds:.4} s") } else { format!("{seconds:.2} s") }
}

/// `1 process`, `3 processes`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Reads `10s`, `500ms`, `1.5m`, `2h`; a bare number is seconds.
///
/// # Errors
/// A sentence about what it should be.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit {unit:?}; known are ms, s, m and h")),
    };
    let number: f64 = number.parse().map_err(|_| "a duration is a number with a unit, as 10s or 500ms".to_owned())?;
    Duration::try_from_secs_f64(number * factor).map_err(|_| "it is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        let shown = [0, 1023, 1024, 17 << 10, 1023 << 10, (1 << 20) - 1, 1_288_490_189, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "17 KiB", "1023 KiB", "1.0 MiB", "1.2 GiB", "16 EiB"]);
        assert_eq!([0.0031, 0.04, 0.61, 12.0].map(seconds), ["0.0031 s", "0.04 s", "0.61 s", "12.00 s"]);
        assert_eq!(count(1, "process", "processes"), "1 process");
    }

    #[test]
    fn durations_are_read() {
        let read = |text| parse_duration(text).map(|it| it.as_millis());
        assert_eq!(read("10s"), Ok(10_000));
        assert_eq!(read("500ms"), Ok(500));
        assert_eq!(read("1.5m"), Ok(90_000));
        assert_eq!(read("2h"), Ok(7_200_000));
        assert_eq!(read("3"), Ok(3000));
        for bad in ["", "s", "-1s", "1d", "1.2.3s", "1e400s", "nan"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
