//! Numbers measured several times.

use std::time::Duration;

/// Measurements of one thing, all in the same unit.
#[derive(Debug, Clone, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Takes one in, in milliseconds.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e3);
    }

    /// Takes one in.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut all = self.0.clone();
        all.sort_unstable_by(f64::total_cmp);
        all
    }

    /// The one in the middle; of an even number the higher one.
    pub fn median(&self) -> f64 {
        let all = self.sorted();
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The least, which nothing else on the machine has disturbed.
    pub fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    /// `median [min–max]`.
    pub fn text(&self) -> String {
        let all = self.sorted();
        match (all.first(), all.last()) {
            (Some(&least), Some(&most)) => {
                format!("{} [{}–{}]", number(self.median()), number(least), number(most))
            }
            _ => "–".to_owned(),
        }
    }
}

/// Three digits that count, as few as that can be.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
