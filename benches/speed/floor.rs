//! What the machine itself takes to move the same bytes: nothing that saves or resumes can be faster.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// Bytes like those of the guest with much memory: no two pages alike.
pub fn noise(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    let mut x = 88_172_645_463_325_252_u64;
    while bytes.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend(x.to_ne_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Writes `bytes` to a new file as one write(2) after the other takes them, and makes it durable under a name: how
/// long the writing took, and all of it.
pub fn write(bytes: &[u8], path: &Path) -> Result<(Duration, Duration)> {
    let partial = path.with_extension("partial");
    let start = Instant::now();
    let mut file = File::create_new(&partial)?;
    file.write_all(bytes)?;
    let written = start.elapsed();
    file.sync_all()?;
    fs::rename(&partial, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok((written, start.elapsed()))
}

/// Reads `len` bytes of a file by pread(2) into memory that nobody has touched yet.
pub fn read(path: &Path, len: usize) -> Result<Duration> {
    let file = File::open(path)?;
    // Zeroed memory of this size comes fresh from mmap(2), page by page when it is first touched.
    let mut memory = vec![0u8; len];
    let start = Instant::now();
    let mut at = 0;
    while let Some(rest) = memory.get_mut(at..).filter(|rest| !rest.is_empty()) {
        let got = file.read_at(rest, at as u64)?;
        ensure!(got > 0, "the file is too short");
        at += got;
    }
    let took = start.elapsed();
    std::hint::black_box(&memory);
    Ok(took)
}
