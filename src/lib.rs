//! `ckpt` saves a running tree of processes to one tar file and starts it again, from outside and without privilege.
//!
//! The rooms, and where to look for what:
//!
//! | room | what is in it |
//! |---|---|
//! | [`cli`] | arguments, messages, tables and JSON, exit status; one file per verb |
//! | [`supervise`] | keeping a job: start it, its control socket, signals → actions |
//! | [`model`] | what a checkpoint says: plain serde data, no I/O, no libc types |
//! | [`proc`] | pure parsers of `/proc` text (bytes in, values out) and thin readers on top |
//! | [`sys`] | the only unsafe code: one wrapper per system call that nix lacks; our own heap and helping threads |
//! | [`tracer`] | holding a live tree still: find, seize, run single system calls in it, let go |
//! | [`capture`] | held tree → model; one file per kind of state |
//! | [`image`] | model and pages ↔ one tar file |
//! | [`restore`] | model → plan → live tree; mirrors capture file by file |
//! | [`net`] | sockets: what a socket is, and naming it |
//!
//! Flow of a save: `tracer` (hold) → `capture` (read) → `image` (write) → `tracer` (let go).
//! Flow of a resume: `image` (read, verify) → `restore::plan` (every conflict before a process exists) → `restore`
//! (build, let go) → `supervise`.
//!
//! Who may use whom: `cli → supervise → {capture, restore, net} → {tracer, image} → {proc, sys, model}`; nothing points
//! up, `capture` and `restore` never use each other, `image` knows nothing of processes. `tests/house.rs` checks it.
#![deny(unsafe_code)]

pub mod capture;
pub mod cli;
pub mod image;
pub mod model;
pub mod net;
pub mod proc;
pub mod restore;
pub mod supervise;
pub mod sys;
pub mod tracer;
