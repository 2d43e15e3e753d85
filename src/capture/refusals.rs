//! Collecting what stands in the way, all of it, before anything is disturbed.

use crate::model::{Pid, Refusal};

/// Everything refused so far.
#[derive(Debug, Default)]
pub(super) struct Refusals(pub Vec<Refusal>);

impl Refusals {
    pub fn add(&mut self, pid: Pid, object: impl Into<String>, reason: impl Into<String>, hint: &str) {
        let refusal = Refusal { pid, object: object.into(), reason: reason.into(), hint: hint.to_owned() };
        // Mappings of one file come in bunches.
        if self.0.last() != Some(&refusal) {
            self.0.push(refusal);
        }
    }
}
