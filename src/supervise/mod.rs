//! Keeping a job: start it, its control socket, signals → actions.
//!
//! A job is a program together with the supervisor that is its parent (`ckpt-run`) or that resumed it
//! (`ckpt-resume`). The supervisor waits in one poll(2) loop ([`keep`]); a save runs on a thread of its own, because
//! ptrace belongs to one thread and nobody else must wait for it.

pub mod client;
pub mod directory;
pub mod engine;
mod error;
mod failure;
pub mod keep;
pub mod members;
pub mod name;
mod peer;
pub mod protocol;
pub mod relay;
mod saves;
mod signals;
pub mod start;
pub mod template;

pub use error::{Error, plain};
pub use failure::{Failure, FailureKind, Message};
