//! The memory of the held tree as the image writer asks for it.

use std::io;

use crate::image::{PageSource, Run};
use crate::model::Addr;
use crate::tracer::HeldProcess;

use super::forked;
use super::memory::Sharer;
use super::shared::locate;

/// Where the pages of a part of the image come from.
#[derive(Debug)]
pub(super) enum Origin {
    /// The address space of a held process.
    Process {
        /// Its index.
        index: usize,
        /// Which of its pages others have mapped too.
        shared: Vec<Run>,
        /// Which may be so as well: huge ones.
        huge: Vec<Run>,
    },
    /// A shared object, through these mappings.
    Shared(Vec<Sharer>),
    /// A shared object that a process of ours, by its pid, has attached here.
    Agent(i32, Addr),
}

/// All parts.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    pub processes: &'a [HeldProcess],
    pub origins: Vec<Origin>,
}

impl Pages<'_> {
    fn process(&self, index: usize) -> io::Result<&HeldProcess> {
        self.processes.get(index).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl PageSource for Pages<'_> {
    fn fill(&self, part: usize, addr: u64, buf: &mut [u8]) -> io::Result<()> {
        match self.origins.get(part).ok_or(io::ErrorKind::NotFound)? {
            Origin::Process { index, shared, huge } => {
                let apart = [shared, huge].iter().all(|runs| !forked::touches(runs, addr, buf.len() as u64));
                let process = self.process(*index)?;
                if apart { process.read_exclusive(Addr(addr), buf) } else { process.read(Addr(addr), buf) }
            }
            &Origin::Agent(pid, at) => match crate::sys::mem::read(pid, Addr(at.0 + addr), buf)? {
                n if n == buf.len() => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            },
            Origin::Shared(cover) => {
                let mut offset = addr;
                let mut rest = buf;
                while !rest.is_empty() {
                    let (process, at, room) = locate(cover, offset).ok_or(io::ErrorKind::UnexpectedEof)?;
                    let len = rest.len().min(usize::try_from(room).unwrap_or(usize::MAX));
                    let (now, later) = rest.split_at_mut(len);
                    self.process(process)?.read_exclusive(at, now)?;
                    offset += len as u64;
                    rest = later;
                }
                Ok(())
            }
        }
    }
}
