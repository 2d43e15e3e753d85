//! A dry run: what a save would hold, and what stands in its way.

use std::sync::Arc;

use crate::model::{Name, Pid, Refusal};
use crate::net::outside;
use crate::tracer::{HeldProcess, apart, hold};

use super::look::look;
use super::{Error, Request};

/// What a save would find.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// The processes, parents first; zombies have no threads.
    pub processes: Vec<Surveyed>,
    /// Each thing that can't be saved.
    pub refusals: Vec<Refusal>,
    /// What a person should know: what leads outside.
    pub notes: Vec<String>,
}

/// One process of a survey.
#[derive(Debug, Clone, PartialEq)]
pub struct Surveyed {
    /// Its pid as it sees it.
    pub pid: Pid,
    /// Its pid as we see it.
    pub host: i32,
    /// Its command name.
    pub comm: Name,
    /// Its threads.
    pub threads: usize,
    /// Bytes of private memory, with what it shares with its parent since a fork: of that the image holds less.
    pub memory: u64,
    /// Open descriptors.
    pub fds: usize,
}

/// Holds the tree for a moment and says what a save would do. Writes nothing, runs nothing in the program.
///
/// # Errors
/// If the tree can't be held or looked at. Things that can't be saved are no error but in the survey.
pub fn check(request: &Request<'_>) -> Result<Survey, Error> {
    super::make_room()?;
    apart(|| survey(request))?
}

fn survey(request: &Request<'_>) -> Result<Survey, Error> {
    let held = hold(&request.hold())?;
    let looked = look(&held, request, &Arc::default(), true)?;
    let mut processes = Vec::new();
    for (index, p) in held.processes.iter().enumerate() {
        if !super::tree::belongs(&held, p) {
            continue;
        }
        let memory = looked.processes.iter().find(|l| l.index == index).map_or(&[][..], |l| &l.memory.runs);
        processes.push(Surveyed {
            pid: p.pid,
            host: p.host,
            comm: p.comm.clone(),
            threads: p.threads.len(),
            memory: memory.iter().map(|run| run.len).sum(),
            fds: looked.fds.descriptors.iter().filter(|((of, _), _)| *of == index).map(|(_, fds)| fds.len()).sum(),
        });
    }
    let holder = |file: u32| {
        let of = |(index, p): (usize, &HeldProcess)| {
            let mut tables = looked.fds.descriptors.iter().filter(|((of, _), _)| *of == index);
            Some((p.pid, tables.find_map(|(_, fds)| fds.iter().find(|d| d.file == file))?.fd))
        };
        held.processes.iter().enumerate().find_map(of)
    };
    // Indices are those of all descriptions: without a gap only if nothing is refused.
    let complete = looked.refusals.0.is_empty();
    let files = if complete { looked.fds.files.as_slice() } else { &[] };
    let root = processes.first().map_or(Pid(request.root), |p| p.pid);
    let mut notes: Vec<_> = outside::among(files, root, holder).iter().map(outside::Lead::sentence).collect();
    notes.extend(super::unix::unfound(files, holder));
    held.release()?;
    Ok(Survey { processes, refusals: looked.refusals.0, notes })
}
