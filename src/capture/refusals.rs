//! Collecting what stands in the way, all of it, before anything is disturbed.

use crate::model::{Pid, Refusal};

/// The way out where nothing better is known of a descriptor.
pub(super) const CLOSE: &str = "have it closed before the save, or run the program without what uses it";

/// Everything refused so far.
#[derive(Debug, Default)]
pub(super) struct Refusals(pub Vec<Refusal>);

impl Refusals {
    /// `hint`: the way out, of which there always is one.
    pub fn add(&mut self, pid: Pid, object: impl Into<String>, reason: impl Into<String>, hint: &str) {
        debug_assert!(!hint.is_empty());
        let refusal = Refusal { pid, object: object.into(), reason: reason.into(), hint: hint.to_owned() };
        // Mappings of one file come in bunches.
        if self.0.last() != Some(&refusal) {
            self.0.push(refusal);
        }
    }
}
