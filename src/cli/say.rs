//! Words to people, on standard error, and data, on standard output.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{ArgAction, Args};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, layer};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::exit::{Exit, Outcome};
use super::switch;
use super::table::harmless;
use crate::supervise::{Failure, FailureKind, plain};
use crate::sys::tty;

/// How much to say.
#[derive(Debug, Clone, Args)]
pub struct Talk {
    /// Say nothing on success
    #[arg(short, long, env = "CKPT_QUIET", value_parser = switch::parse)]
    pub quiet: bool,
    /// Say what is being done; twice: and how long its steps take
    #[arg(short, long, env = "CKPT_VERBOSE", action = ArgAction::Count)]
    pub verbose: u8,
    /// Append to this file all that is said, and all that -vv would say, with the time and our pid
    #[arg(long, value_name = "FILE", env = "CKPT_LOG")]
    pub log: Option<PathBuf>,
}

/// Marks what has been said to people already.
const SAID: &str = "said";

impl Talk {
    /// Sets up what `--verbose` and `--log` show. Call it once.
    pub fn start(&self) -> Result<(), Failure> {
        let level = match self.verbose {
            0 => LevelFilter::OFF,
            1 => LevelFilter::INFO,
            _ => LevelFilter::DEBUG,
        };
        let log = self.log.as_deref().map(open_log).transpose()?;
        if level == LevelFilter::OFF && log.is_none() {
            return Ok(());
        }
        let shown = filter_fn(move |about| about.target() != SAID && *about.level() <= level);
        let people = layer().with_writer(|| Lines).event_format(Plain).with_filter(shown);
        let log = log.map(|file| {
            let all = filter_fn(|about| *about.level() <= LevelFilter::DEBUG);
            layer().with_writer(Arc::new(file)).event_format(Dated).with_filter(all)
        });
        tracing_subscriber::registry().with(people).with(log).init();
        Ok(())
    }

    /// Says a line, unless it is to be quiet.
    pub fn line(&self, text: impl fmt::Display) {
        if self.quiet {
            note(&text);
        } else {
            line(text);
        }
    }

    /// Says a line, unless standard error is a file: what we have started writes there, too, and goes on where it was
    /// when it is resumed.
    pub fn line_to_people(&self, text: impl fmt::Display) {
        let is_file = io::stderr().as_fd().try_clone_to_owned().is_ok_and(|error| {
            let meta = File::from(error).metadata();
            meta.is_ok_and(|meta| meta.is_file())
        });
        if is_file {
            note(&text);
        } else {
            self.line(text);
        }
    }
}

/// As it was at first only its owner may read it: command lines are in it.
fn open_log(path: &Path) -> Result<File, Failure> {
    let open = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    open.map_err(|error| {
        let text = format!("cannot open {}: {}", path.display(), plain(&error));
        Failure::new(FailureKind::Failed, text, "choose another file with --log")
    })
}

/// For the log alone.
fn note(text: &impl fmt::Display) {
    tracing::info!(target: SAID, "{text}");
}

struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        writer.write_str("ckpt: ")?;
        ctx.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// As in the log.
struct Dated;

impl<S, N> FormatEvent<S, N> for Dated
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "{:.6} ckpt[{}]: ", jiff::Timestamp::now(), std::process::id())?;
        ctx.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Standard error, for whole lines.
struct Lines;

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let error = io::stderr();
        if tty::takes_lines(error.as_fd()) {
            return error.lock().write(text);
        }
        error.lock().write_all(&with_returns(text)).map(|()| text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// With a return in front of each newline: a terminal that is raw (we hand a program's own through, or it has set ours so) does
/// not go back to the first column by itself.
fn with_returns(text: &[u8]) -> Vec<u8> {
    text.split_inclusive(|&b| b == b'\n')
        .flat_map(|line| match line {
            [.., b'\r', b'\n'] => [line, &b""[..]],
            [start @ .., b'\n'] => [start, b"\r\n"],
            _ => [line, b""],
        })
        .flatten()
        .copied()
        .collect()
}

/// Says a line. That nobody listens is no reason to fail.
pub fn line(text: impl fmt::Display) {
    note(&text);
    raw(&format!("ckpt: {text}\n")); // one write: several of us may share a terminal
}

/// Writes whole lines to standard error.
pub fn raw(text: &str) {
    let _ = Lines.write_all(text.as_bytes());
}

/// Says what failed, and the way out, each in one line: names in it may be anything.
pub fn failure(failure: &Failure) {
    for message in &failure.messages {
        line(harmless(&message.text));
        if !message.hint.is_empty() {
            let hint = format!("hint: {}", harmless(&message.hint));
            note(&hint);
            raw(&format!("{hint}\n"));
        }
    }
}

/// Writes data to standard output. Ends quietly if the reader has gone (`ckpt show … | head`).
pub fn data(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Outcome::Ours(Exit::Ok).end();
        }
        line(format_args!("cannot write to standard output: {error}"));
        Outcome::Ours(Exit::Failed).end();
    }
}

/// Writes one JSON value and a newline to standard output.
pub fn json(value: &serde_json::Value) {
    data(&format!("{value:#}\n"));
}

/// `value` as a JSON object that names its schema.
pub fn with_schema<T: serde::Serialize>(schema: &str, value: &T) -> serde_json::Value {
    let mut object = serde_json::Map::from_iter([("schema".to_owned(), schema.into())]);
    // Plain data with string keys cannot fail to serialise.
    if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(value) {
        object.extend(fields);
    }
    object.into()
}

#[cfg(test)]
mod tests {
    use super::with_returns;

    #[test]
    fn every_newline_has_one_return() {
        for (text, expected) in [("", ""), ("a", "a"), ("a\nb\n", "a\r\nb\r\n"), ("\n\r\n", "\r\n\r\n")] {
            assert_eq!(with_returns(text.as_bytes()), expected.as_bytes());
        }
    }
}
