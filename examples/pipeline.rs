//! A pipeline of processes: a source, three filters and a sink, each a process of its own, joined by pipes.
//!
//! A save takes the whole tree at one moment, what is under way in the pipes included; `ckpt-resume` brings it back with
//! the same process ids. The argument is how many numbers to send down the pipeline (default 20000).

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("source") => source(args[1].parse().expect("a number")),
        Some("filter") => filter(args[1].parse().expect("a number")),
        count => pipeline(count.unwrap_or("20000")),
    }
}

fn source(count: u64) {
    let mut out = std::io::stdout().lock();
    for n in 0..count {
        writeln!(out, "{n}").expect("the pipe");
    }
}

/// Sends every number on, changed by some arithmetic that takes a while.
fn filter(key: u64) {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let n: u64 = line.expect("the pipe").parse().expect("a number");
        let n = (0..3000).fold(n, |x, i| (x.wrapping_mul(key) + i) % 1_000_000_007);
        writeln!(out, "{n}").expect("the pipe");
    }
}

fn pipeline(count: &str) {
    let me = std::env::current_exe().expect("our own path");
    let mut stages: Vec<Child> = Vec::new();
    for stage in [["source", count], ["filter", "48271"], ["filter", "16807"], ["filter", "69621"]] {
        let input = stages.last_mut().and_then(|s| s.stdout.take()).map_or_else(Stdio::null, Stdio::from);
        stages.push(Command::new(&me).args(stage).stdin(input).stdout(Stdio::piped()).spawn().expect("a stage"));
    }
    let output = stages.last_mut().and_then(|s| s.stdout.take()).expect("the end of the pipeline");
    let mut sum = 0u64;
    for (index, line) in BufReader::new(output).lines().enumerate() {
        sum = sum.wrapping_mul(31).wrapping_add(line.expect("the pipe").parse().expect("a number"));
        if index % 100 == 99 {
            println!("{} numbers, checksum {sum:016x}", index + 1);
        }
    }
    for mut stage in stages {
        assert!(stage.wait().expect("the end of a stage").success());
    }
}
