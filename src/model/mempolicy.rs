//! On which nodes memory is to be (NUMA).

use serde::{Deserialize, Serialize};

use super::Hex;
use super::memory::Span;

/// A policy as set_mempolicy(2) takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `MPOL_*` with its flags; never `MPOL_DEFAULT` (0).
    pub mode: u32,
    /// Nodes as a bit set, lowest first: a multiple of 8 bytes.
    pub nodes: Hex,
}

/// A policy of a piece of memory (mbind(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Which.
    pub span: Span,
    /// Its policy.
    pub policy: Policy,
}
