//! A failure in the words a person reads, as it also travels over a control socket.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::model::Refusal;
use crate::{capture, image, restore, tracer};

/// What kind of failure it is; the command line turns it into an exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// None of the others.
    Failed,
    /// None at all: the save was made, and who asked for it is in the image.
    Resumed,
    /// Asked for wrongly.
    Usage,
    /// Something unsupported, or in conflict.
    Refused,
    /// The image is bad or truncated.
    Image,
    /// This host lacks a feature.
    Host,
    /// Not permitted.
    Permission,
    /// The process is not there, or vanished.
    Vanished,
}

/// One thing to tell, and the way out of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// What happened to what.
    pub text: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

/// A failure: never without a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its kind.
    pub kind: FailureKind,
    /// What to tell, in order.
    pub messages: Vec<Message>,
    /// The objects that stand in the way, if that is the kind.
    #[serde(default)]
    pub refusals: Vec<Refusal>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, message) in self.messages.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            f.write_str(&message.text)?;
        }
        Ok(())
    }
}

impl Failure {
    /// A failure with one message.
    pub fn new(kind: FailureKind, text: impl ToString, hint: impl Into<String>) -> Failure {
        let message = Message { text: text.to_string(), hint: hint.into() };
        Failure { kind, messages: vec![message], refusals: Vec::new() }
    }

    /// One message for each thing that stands in the way of `verb` ("save", "resume").
    pub fn refused(verb: &str, refusals: Vec<Refusal>) -> Failure {
        let messages = refusals
            .iter()
            .map(|refusal| Message { text: format!("cannot {verb} {refusal}"), hint: refusal.hint.clone() })
            .collect();
        Failure { kind: FailureKind::Refused, messages, refusals }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        use FailureKind as Kind;
        let text = error.to_string();
        match error {
            Error::Remote(failure) => failure,
            Error::Capture(error) => error.into(),
            Error::Restore(error) => error.into(),
            Error::Image(error) => error.into(),
            Error::BadName { .. } | Error::BadTemplate { .. } => {
                let hint = match error {
                    Error::BadTemplate { .. } => {
                        "the parts are {name} {utc} {pid} {host} {seq}; {{ and }} stand for braces"
                    }
                    _ => "",
                };
                Failure::new(Kind::Usage, text, hint)
            }
            Error::NameTaken { name, .. } => {
                Failure::new(Kind::Failed, text, format!("choose another name with -n, or end it: ckpt kill {name}"))
            }
            Error::NoSuchJob { .. } => Failure::new(Kind::Failed, text, "`ckpt ls` shows the jobs that are running"),
            Error::NoAnswer { hint, .. } => Failure::new(Kind::Failed, text, hint),
            Error::Directory { .. } => {
                Failure::new(Kind::Permission, text, "set XDG_RUNTIME_DIR to a directory that only you can enter")
            }
            Error::Resumed { .. } => Failure::new(Kind::Resumed, text, ""),
            Error::Start { .. } => Failure::new(Kind::Failed, text, ""),
            Error::Io { ref source, .. } => {
                let kind = match source.kind() {
                    std::io::ErrorKind::PermissionDenied => Kind::Permission,
                    _ => Kind::Failed,
                };
                Failure::new(kind, text, "")
            }
        }
    }
}

/// What to do where there is no thread to be had.
pub(super) const MORE_THREADS: &str = "raise the limits of processes and memory (ulimit -u, -v, -d) of this command";

/// What to do where an error comes from a limit that is too low; else nothing is known.
fn want_of_room(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let causes = std::iter::successors(Some(error), |e| e.source());
    let mut codes = causes.filter_map(|e| e.downcast_ref::<std::io::Error>()?.raw_os_error());
    match codes.find_map(|code| (code != 0).then(|| nix::errno::Errno::from_raw(code))) {
        Some(nix::errno::Errno::EMFILE) => "raise the hard limit of open files (ulimit -Hn) of this command",
        Some(nix::errno::Errno::ENFILE) => "raise fs.file-max, or end other programs",
        _ => "",
    }
}

impl From<capture::Error> for Failure {
    fn from(error: capture::Error) -> Failure {
        use FailureKind as Kind;
        let text = error.to_string();
        match error {
            capture::Error::Refused(refusals) => Failure::refused("save", refusals),
            capture::Error::Image(image::Error::Cancelled) => capture::Error::Cancelled.into(),
            capture::Error::Image(error) => error.into(),
            capture::Error::NoSuchProcess { .. } | capture::Error::Vanished { .. } => {
                Failure::new(Kind::Vanished, text, "")
            }
            capture::Error::NotPermitted { hint, .. } => Failure::new(Kind::Permission, text, hint),
            capture::Error::WillNotStop { .. } => {
                let hint = "it waits inside the kernel; try again later, or with a longer --timeout";
                Failure::new(Kind::Failed, text, hint)
            }
            capture::Error::Cancelled => Failure::new(Kind::Failed, "the save was cancelled; nothing was written", ""),
            capture::Error::Tracer(tracer::Error::NoThread(_)) => Failure::new(Kind::Failed, text, MORE_THREADS),
            capture::Error::Tracer(_) | capture::Error::Proc(_) | capture::Error::Io { .. } => {
                Failure::new(Kind::Failed, text, want_of_room(&error))
            }
        }
    }
}

impl From<restore::Error> for Failure {
    fn from(error: restore::Error) -> Failure {
        use FailureKind as Kind;
        let text = error.to_string();
        match error {
            restore::Error::Conflicts(refusals) => Failure::refused("resume", refusals),
            restore::Error::Image(image::Error::Cancelled) => restore::Error::Cancelled.into(),
            restore::Error::Image(error) => error.into(),
            restore::Error::Host { hint, .. } => Failure::new(Kind::Host, text, hint),
            restore::Error::NotPermitted { hint, .. } => Failure::new(Kind::Permission, text, hint),
            restore::Error::Cancelled => {
                Failure::new(Kind::Failed, "the resume was cancelled; nothing is left of it", "")
            }
            restore::Error::Tracer { source: tracer::Error::NoThread(_), .. } => {
                Failure::new(Kind::Failed, text, MORE_THREADS)
            }
            restore::Error::Step { .. } | restore::Error::Tracer { .. } => {
                Failure::new(Kind::Failed, text, want_of_room(&error))
            }
        }
    }
}

impl From<image::Error> for Failure {
    fn from(error: image::Error) -> Failure {
        use FailureKind as Kind;
        use image::Error as E;
        let text = error.to_string();
        match error {
            E::Truncated { .. } | E::Altered { .. } => {
                Failure::new(Kind::Image, text, "use another image, or fetch this one again from where it is whole")
            }
            E::Newer { .. } | E::UnknownFeatures { .. } => Failure::new(Kind::Image, text, "use a newer ckpt"),
            E::NotAnImage { .. } | E::Inconsistent { .. } | E::TooLarge { .. } => Failure::new(Kind::Image, text, ""),
            E::NoSpace { .. } => Failure::new(Kind::Failed, text, "free some space, or choose another place with -o"),
            E::NoRoomToCopy { .. } => {
                let hint = "name a directory with more room in TMPDIR, or raise the limit on file sizes (ulimit -f)";
                Failure::new(Kind::Failed, text, hint)
            }
            E::Busy { .. } => Failure::new(Kind::Failed, text, "wait for it, or choose another name with -o"),
            E::NotAFile { .. } => Failure::new(Kind::Failed, text, "choose another name with -o"),
            E::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Failure::new(Kind::Permission, text, "choose a file or a directory that you may use")
            }
            E::Io { .. } | E::Page { .. } | E::Blob { .. } | E::Cancelled => Failure::new(Kind::Failed, text, ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pid;

    #[test]
    fn a_limit_is_named_however_deep_its_error_is() {
        let full = || std::io::Error::from_raw_os_error(nix::libc::EMFILE);
        let inner = capture::Error::Io { step: "copying a descriptor", object: "of pid 7".into(), source: full() };
        let outer = std::io::Error::other(inner);
        let error = capture::Error::Io { step: "opening", object: "of pid 7".into(), source: outer };
        assert!(Failure::from(error).messages[0].hint.contains("ulimit -Hn"));
        let error = restore::Error::Step { step: "making", object: "x".into(), source: full() };
        assert!(Failure::from(error).messages[0].hint.contains("ulimit -Hn"));
    }

    #[test]
    fn refusals_name_pid_object_reason_and_way_out() {
        let refusal = Refusal {
            pid: Pid(4711),
            object: "fd 7 (io_uring)".into(),
            reason: "not supported".into(),
            hint: "close it".into(),
        };
        let failure = Failure::from(capture::Error::Refused(vec![refusal.clone()]));
        assert_eq!(failure.kind, FailureKind::Refused);
        assert_eq!(failure.messages[0].text, "cannot save pid 4711 fd 7 (io_uring): not supported");
        assert_eq!(failure.messages[0].hint, "close it");
        assert_eq!(failure.refusals, [refusal]);
    }
}
