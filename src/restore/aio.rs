//! Linux AIO: a context is made, its ring moved to where the program knows it, and its place for the next event brought
//! forward by requests that do nothing.

use std::io;

use crate::model::Addr;
use crate::model::aio::{Context, UNIT};
use crate::model::process::Process;
use crate::sys::mem;

use super::Error;
use super::fd::Sources;
use super::stub::{Expect, Puppet};

/// Requests made in one call.
const AT_ONCE: u32 = 1024;
const MREMAP_MAYMOVE_FIXED: u64 = 1 | 2;
/// Byte offsets in a ring (struct aio_ring in fs/aio.c).
const PLACES: u64 = 4;
const HEAD: u64 = 8;
const TAIL: u64 = 12;

/// Makes the contexts of a process. Something keeps the places of their rings.
pub fn make(puppet: &mut Puppet, process: &Process, sources: &Sources) -> Result<(), Error> {
    for context in &process.memory.aio {
        let host = puppet.host();
        let failed = |e| Error::step("making an AIO context", host, e);
        let mut batch = puppet.batch();
        let room = batch.data(&[0; 8]);
        batch.call("io_setup", libc::SYS_io_setup, &[requests(context.places).into(), room.0]);
        puppet.run(batch)?;
        let mut at = [0; 8];
        puppet.read(room, &mut at)?;
        let at = Addr(u64::from_ne_bytes(at));
        let places = word(host, Addr(at.0 + PLACES)).map_err(failed)?;
        if places != context.places {
            return Err(Error::Host {
                feature: format!("its AIO contexts have {places} places, the program's has {}", context.places),
                hint: "resume on a host with fewer processors".to_owned(),
            });
        }
        let len = (u64::from(places) + 1) * UNIT as u64;
        let mut batch = puppet.batch();
        let args = [at.0, len, len, MREMAP_MAYMOVE_FIXED, context.ring.0];
        batch.call_expecting(Expect::Exactly(context.ring.0), "mremap", libc::SYS_mremap, &args);
        puppet.run(batch)?;
        advance(puppet, context, sources)?;
        fill(host, context).map_err(failed)?;
    }
    Ok(())
}

/// How many requests at a time to ask for, so that a ring of so many places comes of it: twice as many, 2 more, and then
/// as many as fit into its pages (fs/aio.c, `ioctx_alloc` and `aio_setup_ring`).
fn requests(places: u32) -> u32 {
    (places.saturating_sub(2) / 2).max(1)
}

/// Has events happen until the next one's place is the right one.
fn advance(puppet: &mut Puppet, context: &Context, sources: &Sources) -> Result<(), Error> {
    let (host, ring) = (puppet.host(), context.ring.0);
    let failed = |e| Error::step("filling an AIO context", host, e);
    let mut done = 0;
    while done < context.tail {
        let mut batch = puppet.batch();
        // struct iocb: reads nothing (IOCB_CMD_PREAD, 0) from the image.
        let mut request = [0u64; 8];
        request[2] = (sources.image as u64) << 32;
        let request: Vec<u8> = request.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let request = batch.data(&request);
        let some = (context.tail - done).min(AT_ONCE);
        let pointers: Vec<u8> = (0..some).flat_map(|_| request.0.to_ne_bytes()).collect();
        let pointers = batch.data(&pointers);
        batch.call("io_submit", libc::SYS_io_submit, &[ring, some.into(), pointers.0]);
        puppet.run(batch)?;
        let tail = word(host, Addr(ring + TAIL)).map_err(failed)?;
        if tail <= done || tail > context.tail {
            return Err(failed(io::Error::other(format!("{tail} events instead of {}", done + some))));
        }
        // Taken, so that there is room for more.
        mem::write(host, Addr(ring + HEAD), &tail.to_ne_bytes()).map_err(failed)?;
        done = tail;
    }
    Ok(())
}

/// Puts the events that waited.
fn fill(host: i32, context: &Context) -> io::Result<()> {
    let ring = context.ring.0;
    for (event, number) in context.events.0.chunks_exact(UNIT).zip(0u32..) {
        let place = (context.head + number) % context.places;
        mem::write(host, Addr(ring + (u64::from(place) + 1) * UNIT as u64), event)?;
    }
    mem::write(host, Addr(ring + HEAD), &context.head.to_ne_bytes()).map(drop)
}

fn word(host: i32, at: Addr) -> io::Result<u32> {
    let mut bytes = [0; 4];
    mem::read(host, at, &mut bytes)?;
    Ok(u32::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::aio::places;

    #[test]
    fn a_ring_gets_as_many_pages() {
        for pages in [1, 2, 5, 8, 4097] {
            let asked = u64::from(requests(places(pages * 4096) as u32));
            let bytes = (2 * asked + 2 + 1) * UNIT as u64;
            assert_eq!(bytes.div_ceil(4096), pages);
        }
    }
}
