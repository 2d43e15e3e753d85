//! Signals to a supervisor → what it does.

use nix::sys::signal::{SigSet, Signal};

/// What a supervisor does about a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Looks after its children.
    Reap,
    /// Nothing: the terminal has sent it to the program, too.
    Drop,
    /// Sends it on to the root.
    Forward,
    /// Sends it on to the root's process group: no terminal does.
    ForwardToGroup,
    /// The same, and stops itself, so that the shell that waits for us notices.
    ForwardToGroupAndStop,
}

/// Where the program is, seen from the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In our own process group: started by us.
    WithUs,
    /// In a session of its own: resumed.
    Apart,
}

const WATCHED: [Signal; 10] = [
    Signal::SIGCHLD,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTSTP,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// The signals a supervisor takes for itself instead of dying of them.
pub fn watched() -> SigSet {
    WATCHED.into_iter().collect()
}

/// What to do about `signal`; one that isn't watched is dropped.
pub fn action(signal: Signal, place: Place) -> Action {
    match (signal, place) {
        (Signal::SIGCHLD, _) => Action::Reap,
        (Signal::SIGTERM | Signal::SIGHUP | Signal::SIGUSR1 | Signal::SIGUSR2, _) => Action::Forward,
        (Signal::SIGCONT, Place::WithUs) => Action::Forward,
        (Signal::SIGINT | Signal::SIGQUIT | Signal::SIGWINCH | Signal::SIGCONT, Place::Apart) => Action::ForwardToGroup,
        (Signal::SIGTSTP, Place::Apart) => Action::ForwardToGroupAndStop,
        _ => Action::Drop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_reaches_a_started_program_and_we_reach_a_resumed_one() {
        for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGWINCH] {
            assert_eq!(action(signal, Place::WithUs), Action::Drop);
            assert_ne!(action(signal, Place::Apart), Action::Drop);
        }
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2] {
            assert_eq!(action(signal, Place::WithUs), Action::Forward);
            assert_eq!(action(signal, Place::Apart), Action::Forward);
        }
    }
}
