//! What a thread is under by seccomp(2).

use serde::{Deserialize, Serialize};

use super::Hex;

/// A thread's seccomp mode; none is the usual.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// `SECCOMP_MODE_STRICT`.
    Strict,
    /// `SECCOMP_MODE_FILTER`: indices into the process's filters, the first installed first.
    Filters(Vec<u32>),
}

/// One filter, the same for all threads of a process that have one like it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// `SECCOMP_FILTER_FLAG_LOG`.
    pub log: bool,
    /// The program: `struct sock_filter` after `struct sock_filter`, eight bytes each.
    pub program: Hex,
}
