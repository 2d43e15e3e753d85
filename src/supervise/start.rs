//! Starting a program as a job.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Command;

use super::Error;
use super::directory::{Claim, Directory};
use crate::sys::spawn;

/// Takes `name` for a new job, or invents one.
///
/// # Errors
/// [`Error::NameTaken`], [`Error::BadName`], or what the system says.
pub fn claim(name: Option<&str>, program: &OsString) -> Result<(Claim, String), Error> {
    if let Some(name) = name {
        return claim_exactly(name);
    }
    let mut directory = Directory::ours()?;
    for attempt in 0.. {
        let name = super::name::invent(program, attempt);
        match directory.claim(&name) {
            Ok(claim) => return Ok((claim, name)),
            Err((again, Error::NameTaken { .. })) if attempt < 100 => directory = again,
            Err((_, error)) => return Err(error),
        }
    }
    unreachable!("the last attempt returns")
}

/// Takes `name`.
///
/// # Errors
/// [`Error::NameTaken`], [`Error::BadName`], or what the system says.
pub fn claim_exactly(name: &str) -> Result<(Claim, String), Error> {
    Directory::ours()?.claim(name).map(|claim| (claim, name.to_owned())).map_err(|(_, error)| error)
}

/// Takes `name`, or if a living job has it, `name-2`, `name-3`…
///
/// # Errors
/// What the system says.
pub fn claim_like(name: &str) -> Result<(Claim, String), Error> {
    let mut directory = Directory::ours()?;
    for number in 1.. {
        let candidate = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
        match directory.claim(&candidate) {
            Ok(claim) => return Ok((claim, candidate)),
            Err((again, Error::NameTaken { .. })) if number < 10_000 => directory = again,
            Err((_, error)) => return Err(error),
        }
    }
    unreachable!("the last attempt returns")
}

/// Starts `command` as our child with our own standard streams, descriptors, ignored signals and the mask `mask`.
/// Returns its pid.
///
/// # Errors
/// [`Error::Start`].
pub fn start(command: &[OsString], name: &str, claim: &Claim, mask: u64) -> Result<i32, Error> {
    let Some((program, args)) = command.split_first() else {
        let source = io::Error::from(io::ErrorKind::InvalidInput);
        return Err(Error::Start { program: String::new(), source, missing: true });
    };
    spawn::keep_children().map_err(Error::io("reset", "SIGCHLD"))?;
    let mut child = Command::new(program);
    child.args(args).env("CKPT", "1").env("CKPT_NAME", name).env("CKPT_SOCKET", &claim.path);
    spawn::as_we_were_started(&mut child, mask);
    match child.spawn() {
        Ok(child) => Ok(child.id() as i32),
        Err(source) => {
            // A script whose interpreter is missing gives ENOENT as well.
            let there = Path::new(program).components().count() > 1 && Path::new(program).exists();
            let missing = source.kind() == io::ErrorKind::NotFound && !there;
            let program = program.to_string_lossy().into_owned();
            match source.raw_os_error() {
                Some(code) if code == nix::errno::Errno::EAGAIN as i32 || code == nix::errno::Errno::ENOMEM as i32 => {
                    Err(Error::Io { step: "start a process for", object: program, source })
                }
                _ => Err(Error::Start { program, source, missing }),
            }
        }
    }
}
