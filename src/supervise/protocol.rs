//! What is said over a control socket: one JSON object a line, a request and then its reply.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Failure;
use crate::capture::{self, SaveFiles};
use crate::model::{Name, Refusal};

/// Longest line a supervisor reads, in bytes.
pub const LONGEST_REQUEST: usize = 64 << 10;

/// Longest line a client reads, in bytes: refusals can be many.
pub const LONGEST_REPLY: usize = 16 << 20;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// How the job is.
    Status,
    /// Save it.
    Save(SaveRequest),
    /// Give up the save that this connection asked for.
    Cancel,
    /// Send a signal to every process of the job.
    Kill {
        /// 1..=64.
        signal: i32,
    },
}

/// What to save and where to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SaveRequest {
    /// Absolute path or template; without one the job's own.
    pub output: Option<Name>,
    /// The image goes to the descriptor that came along with the request.
    #[serde(default)]
    pub stream: bool,
    /// Contents of which files go into the image; without it as the job has it.
    #[serde(default)]
    pub save_files: Option<SaveFiles>,
    /// So do files that memory is mapped from; they do anyway if the job has it so.
    #[serde(default)]
    pub embed_files: bool,
    /// What becomes of the program.
    #[serde(default)]
    pub after: After,
    /// Seconds the tree may take to stand still.
    #[serde(default = "default_timeout")]
    pub timeout: f64,
    /// Save the tree below this process of the job only.
    #[serde(default)]
    pub pid: Option<i32>,
    /// Only look what would be saved, and what stands in the way.
    #[serde(default)]
    pub dry_run: bool,
}

/// Seconds a tree may take to stand still, where nothing else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

fn default_timeout() -> f64 {
    DEFAULT_TIMEOUT.as_secs_f64()
}

impl SaveRequest {
    /// The time-out; whatever makes no sense or is above a day is a day.
    pub fn timeout(&self) -> Duration {
        const DAY: Duration = Duration::from_secs(86_400);
        Duration::try_from_secs_f64(self.timeout).map_or(DAY, |timeout| timeout.min(DAY))
    }
}

/// What becomes of the program after a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// It goes on.
    #[default]
    Continue,
    /// It is left stopped.
    Stop,
    /// It is killed.
    Kill,
}

impl From<After> for capture::After {
    fn from(after: After) -> capture::After {
        match after {
            After::Continue => capture::After::Continue,
            After::Stop => capture::After::Stop,
            After::Kill => capture::After::Kill,
        }
    }
}

/// What a supervisor answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To `status`.
    Status(Status),
    /// To `save`.
    Saved(Saved),
    /// To `save` as a dry run.
    Surveyed(Survey),
    /// To `kill`: how many processes got the signal.
    Signalled {
        /// Their number.
        processes: usize,
    },
    /// To anything.
    Failed(Failure),
}

/// How a job is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Its root process.
    pub pid: i32,
    /// Its supervisor.
    pub supervisor: i32,
    /// What was started; of a resumed program, what it showed as its command line then.
    pub command: Vec<Name>,
    /// Whether it was resumed from an image.
    pub resumed: bool,
    /// The path of that image; `-` for one that came through a pipe.
    #[serde(default)]
    pub image: Option<Name>,
    /// `running`, `saving` or `stopped`.
    pub state: String,
    /// When it was started or resumed (RFC 3339, UTC).
    pub started: String,
    /// How many processes it has.
    pub processes: usize,
    /// Where its images go, as a template.
    pub output: Name,
    /// Successful saves since then.
    pub saves: u64,
    /// The last of them.
    pub last: Option<LastSave>,
}

/// When a job was last saved, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastSave {
    /// When it was done (RFC 3339, UTC).
    pub time: String,
    /// What it did.
    pub saved: Saved,
}

/// What a save would save.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// The root of the tree.
    pub pid: i32,
    /// Its processes.
    pub processes: Vec<SurveyProcess>,
    /// What stands in the way.
    pub refusals: Vec<Refusal>,
    /// What a person should know.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One process of a [`Survey`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SurveyProcess {
    /// Its id, as it sees it.
    pub pid: i32,
    /// Its id on this host; another one for a program resumed with pids of its own.
    pub host: i32,
    /// Its command name.
    pub comm: String,
    /// Its threads.
    pub threads: usize,
    /// Bytes of memory that the image would hold.
    pub memory: u64,
    /// Its open descriptors.
    pub fds: usize,
}

/// What a save did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Name of the job or program.
    pub name: String,
    /// Its root process.
    pub pid: i32,
    /// The image; none if it went to a stream.
    pub path: Option<Name>,
    /// Bytes of the image.
    pub bytes: u64,
    /// Processes in it.
    pub processes: usize,
    /// Threads in it.
    pub threads: usize,
    /// Seconds the tree stood still.
    pub stopped: f64,
    /// Seconds the save took.
    pub took: f64,
    /// What became of the program.
    pub after: After,
    /// What a person should know of the image.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One line: the JSON of `message` and a newline.
pub fn line<T: Serialize>(message: &T) -> Vec<u8> {
    // Plain data with string keys cannot fail to serialise.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_read_as_documented() {
        let parse = |text: &str| serde_json::from_str::<Request>(text).unwrap();
        assert_eq!(parse(r#"{"request":"status","future":1}"#), Request::Status);
        assert_eq!(parse(r#"{"request":"kill","signal":15}"#), Request::Kill { signal: 15 });
        let Request::Save(save) = parse(r#"{"request":"save","output":"/x/{name}","after":"kill"}"#) else {
            panic!("not a save")
        };
        assert_eq!((save.after, save.timeout(), save.stream), (After::Kill, DEFAULT_TIMEOUT, false));
    }

    #[test]
    fn odd_timeouts_are_harmless() {
        for timeout in [f64::NAN, -1.0, f64::INFINITY, 1e300] {
            let parsed = serde_json::from_str(r#"{"output":null}"#);
            let request = SaveRequest { timeout, ..parsed.unwrap() };
            assert_eq!(request.timeout().as_secs(), 86_400);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(bytes: Vec<u8>) {
            let _ = serde_json::from_slice::<Request>(&bytes);
        }
    }
}
