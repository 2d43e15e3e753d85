//! Credentials that are registered with a ring of io_uring for its requests (IORING_REGISTER_PERSONALITY).

use crate::model::thread::Thread;
use crate::model::uring::Uring;

use super::credentials::{self, Start};
use super::stub::{Expect, Puppet};
use super::{Error, thread};

const REGISTER_PERSONALITY: u64 = 9;
const UNREGISTER_PERSONALITY: u64 = 10;

/// Registers the credentials of `like` under the numbers they had, by a passing thread: those beside it get them only when
/// all else is done. Numbers are given out one after the other (io_uring/register.c, `io_register_personality`), so that
/// those between are registered too, and taken back. `number`: the ring's descriptor there.
pub fn register(user: &mut Puppet, ring: &Uring, like: &Thread, number: i32, start: &Start) -> Result<(), Error> {
    let Some(last) = ring.credentials.last() else { return Ok(()) };
    let mut hand = thread::passing(user, like)?;
    let mut batch = hand.batch();
    credentials::set(&mut batch, &like.credentials, start);
    for id in 1..=u64::from(*last) {
        hand.flush_for(&mut batch, 1, 0)?;
        let args = [number as u64, REGISTER_PERSONALITY, 0, 0];
        batch.call_expecting(Expect::Exactly(id), "io_uring_register", libc::SYS_io_uring_register, &args);
    }
    for id in (1..*last).filter(|id| ring.credentials.binary_search(id).is_err()) {
        hand.flush_for(&mut batch, 1, 0)?;
        let args = [number as u64, UNREGISTER_PERSONALITY, 0, id.into()];
        batch.call("io_uring_register", libc::SYS_io_uring_register, &args);
    }
    hand.run(batch)?;
    hand.end_thread()
}
