//! Counts, one line per step with its process id: the smallest program to try `ckpt` on.
//!
//! ```text
//! ckpt-run -n counter -- target/x86_64-unknown-linux-musl/debug/examples/counter 1000
//! ckpt save counter --kill          # in another terminal
//! ckpt-resume counter-*.ckpt.tar    # goes on with the next number, under the same pid
//! ```
//!
//! The first argument is the number of steps (default 100), the second the milliseconds between them (default 100).

use std::time::Duration;

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("a number"));
    let steps = args.next().unwrap_or(100);
    let pause = Duration::from_millis(args.next().unwrap_or(100));
    for step in 1..=steps {
        println!("pid {} step {step} of {steps}", std::process::id());
        std::thread::sleep(pause);
    }
}
