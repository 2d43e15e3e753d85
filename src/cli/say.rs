//! Words to people, on standard error, and data, on standard output.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;

use clap::Args;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::exit::{Exit, Outcome};
use crate::supervise::Failure;
use crate::sys::tty;

/// How much to say.
#[derive(Debug, Clone, Copy, Args)]
pub struct Talk {
    /// Say nothing on success
    #[arg(short, long, env = "CKPT_QUIET", value_parser = clap::builder::FalseyValueParser::new())]
    pub quiet: bool,
    /// Say what is being done
    #[arg(short, long, env = "CKPT_VERBOSE", value_parser = clap::builder::FalseyValueParser::new())]
    pub verbose: bool,
}

impl Talk {
    /// Sets up what `--verbose` shows. Call it once.
    pub fn start(self) {
        if self.verbose {
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::DEBUG)
                .with_writer(|| Lines)
                .event_format(Plain)
                .init();
        }
    }

    /// Says a line, unless it is to be quiet.
    pub fn line(self, text: impl fmt::Display) {
        if !self.quiet {
            line(text);
        }
    }
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
    raw(&format!("ckpt: {text}\n")); // one write: several of us may share a terminal
}

/// Writes whole lines to standard error.
pub fn raw(text: &str) {
    let _ = Lines.write_all(text.as_bytes());
}

/// Says what failed, and the way out.
pub fn failure(failure: &Failure) {
    for message in &failure.messages {
        line(&message.text);
        if !message.hint.is_empty() {
            raw(&format!("hint: {}\n", message.hint));
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
