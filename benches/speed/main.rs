//! How long saving and resuming take, beside what the machine itself takes to move the same bytes.
//!
//! `cargo bench --bench speed [-- DIR]` measures with images in DIR (or `CKPT_BENCH_DIR`, or the current directory),
//! then once more in /dev/shm, and prints Markdown tables; curves also go to `docs/scaling.svg` (or `CKPT_BENCH_PLOT`).
//! `CKPT_BENCH_RUNS` (7), `CKPT_BENCH_MIB` (1024) and `CKPT_BENCH_CASES` make it shorter; the cases are memory, small,
//! python, numpy, ring, threads, scale (or of that many-threads, processes, maps, fds, unix, tcp) and idle. It needs cc,
//! python3 with numpy, and memory for four times the MiB.

mod floor;
mod guest;
mod place;
mod plot;
mod sample;
mod scale;
mod stops;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use guest::{Guest, timed};
use place::Place;
use sample::Sample;
use table::{Bound, Table};

const CKPT: &str = env!("CARGO_BIN_EXE_ckpt");
const RUN: &str = env!("CARGO_BIN_EXE_ckpt-run");
const ATTACH: &str = env!("CARGO_BIN_EXE_ckpt-attach");
const RESUME: &str = env!("CARGO_BIN_EXE_ckpt-resume");

const MEMORY: &str = "much random memory";
const SMALL: &str = "a small C program";
const IDLE: &str = "no save at all";
/// 1.00, and the noise of a machine with nothing else to do.
const NATIVE: f64 = 1.02;

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

type Case = fn(&Bench, &Place, &mut Column<'_>) -> Result<()>;

/// What is measured in each place.
const CASES: [(&str, Case); 6] = [
    ("memory", Bench::memory),
    ("small", Bench::small),
    ("python", Bench::python),
    ("numpy", Bench::numpy),
    ("ring", Bench::ring),
    ("threads", Bench::threads),
];

fn measure() -> Result<()> {
    guest::close_inherited()?;
    let only = std::env::var("CKPT_BENCH_CASES").ok();
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only.split(',').any(|w| w == name));
    // cargo passes `--bench`.
    let argument = std::env::args_os().skip(1).find(|a| !a.as_encoded_bytes().starts_with(b"-"));
    let dir = argument.or_else(|| std::env::var_os("CKPT_BENCH_DIR")).unwrap_or_else(|| ".".into());
    let mut places = vec![Place::below(Path::new(&dir))?];
    let shm = Path::new("/dev/shm");
    if shm.is_dir() && places.iter().all(|p| p.name != "tmpfs") {
        places.push(Place::below(shm)?);
    }
    let bench = Bench {
        runs: number_from("CKPT_BENCH_RUNS", 7)?,
        mib: number_from("CKPT_BENCH_MIB", 1024)?,
        tools: Rc::new(tempfile::tempdir()?),
    };
    println!("{}", place::machine());
    println!("{} runs each, median [min–max]; {MEMORY}: {} MiB", bench.runs, bench.mib);
    println!("times in ms where nothing else is said\n");
    let mut table = Table::new(places.iter().map(|p| p.name.clone()).collect());
    let mut whole = Ok(());
    for (index, place) in places.iter().enumerate() {
        let mut column = Column { table: &mut table, index };
        for (name, case) in CASES {
            if !wanted(name) {
                continue;
            }
            // What fails is told at once and in the end, and does not keep the rest from being measured.
            let done = case(&bench, place, &mut column);
            whole = whole.and(done.inspect_err(|error| eprintln!("left out: {error:#}")));
        }
    }
    let mut column = Column { table: &mut table, index: 0 };
    let curves = match places.first() {
        Some(place) => scale::all(&bench, place, &mut column, wanted),
        None => Ok(Vec::new()),
    };
    if wanted("idle") {
        bench.idle(&mut column)?;
    }
    println!("{}", table.text());
    match curves {
        Ok(curves) if curves.is_empty() => {}
        Ok(curves) => {
            println!("{}", scale::text(&curves));
            let svg = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scaling.svg");
            let svg = std::env::var_os("CKPT_BENCH_PLOT").map_or(svg, PathBuf::from);
            plot::draw(&curves, &svg).with_context(|| format!("cannot draw to {}", svg.display()))?;
        }
        Err(error) => whole = whole.and(Err(error)),
    }
    whole
}

fn number_from(variable: &str, otherwise: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(otherwise),
    }
}

/// What is measured goes to one column of the table.
struct Column<'a> {
    table: &'a mut Table,
    index: usize,
}

impl Column<'_> {
    fn sample(&mut self, case: &'static str, what: &'static str, sample: &Sample, bound: Bound) {
        self.table.sample(self.index, case, what, sample, bound);
    }

    fn value(&mut self, case: &'static str, what: &'static str, value: f64, bound: Bound) {
        self.table.value(self.index, case, what, value, bound);
    }
}

struct Bench {
    runs: usize,
    mib: usize,
    /// Guests and control sockets.
    tools: Rc<TempDir>,
}

/// What saves of one guest took.
#[derive(Default)]
struct Saves {
    /// By the tool's own account.
    held: Sample,
    /// By the program's.
    paused: Sample,
    /// The command, from its start to its end.
    command: Sample,
    /// kB (1000 bytes) of the last image.
    size: f64,
}

impl Bench {
    /// The same, with another number of runs.
    fn with_runs(&self, runs: usize) -> Bench {
        Bench { runs, mib: self.mib, tools: Rc::clone(&self.tools) }
    }

    /// A command with control sockets where no other job's are.
    fn ckpt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("XDG_RUNTIME_DIR", self.tools.path());
        command
    }

    fn job(&self, guest: &[PathBuf], place: &Place) -> Result<Guest> {
        let mut command = self.ckpt(RUN);
        command.args(["-q", "-n", "bench", "-d"]).arg(place.path()).arg("--").args(guest);
        let mut guest = Guest::start(command.stderr(Stdio::null()))?;
        guest.ask()?;
        Ok(guest)
    }

    /// Saves a running guest again and again.
    fn saves(&self, guest: &mut Guest, command: impl Fn() -> Command, image: &Path) -> Result<Saves> {
        let mut saves = Saves::default();
        for _ in 0..self.runs {
            let _ = fs::remove_file(image);
            guest.ask()?;
            let (took, json) = timed(command().args(["-q", "--json", "-o"]).arg(image))?;
            saves.command.add(took);
            saves.paused.add(guest.ask()?);
            let told: serde_json::Value = serde_json::from_slice(&json)?;
            let held = told["stopped"].as_f64().context("the command does not say how long it held the program")?;
            saves.held.add(Duration::from_secs_f64(held));
        }
        saves.size = fs::metadata(image)?.len() as f64 / 1e3;
        Ok(saves)
    }

    /// Runs a guest as a job and saves it.
    fn save(&self, guest: &[PathBuf], place: &Place, image: &Path) -> Result<Saves> {
        let mut guest = self.job(guest, place)?;
        let command = || {
            let mut command = self.ckpt(CKPT);
            command.args(["save", "bench"]);
            command
        };
        let saves = self.saves(&mut guest, command, image)?;
        guest.end()?;
        Ok(saves)
    }

    /// From the start of the command until the program answers.
    fn resumes(&self, image: &Path, options: &[&str]) -> Result<Sample> {
        let mut sample = Sample::default();
        for _ in 0..self.runs {
            let mut command = self.ckpt(RESUME);
            command.arg("-q").args(options).arg(image);
            let start = Instant::now();
            let mut guest = Guest::start(&mut command)?;
            guest.ask()?;
            sample.add(start.elapsed());
            // Its supervisor answers when everything has been let go: until then an end would be one under its hands.
            timed(self.ckpt(CKPT).args(["status", "bench"]))?;
            guest.end()?;
        }
        Ok(sample)
    }

    fn memory(&self, place: &Place, column: &mut Column<'_>) -> Result<()> {
        let guest = [guest::build("memory", self.tools.path())?, self.mib.to_string().into()];
        let (image, plain) = (place.file("memory.ckpt.tar"), place.file("plain"));
        let bytes = floor::noise(self.mib << 20);
        let (mut write, mut durable, mut read) = (Sample::default(), Sample::default(), Sample::default());
        for _ in 0..self.runs {
            let _ = fs::remove_file(&plain);
            let (written, all) = floor::write(&bytes, &plain)?;
            write.add(written);
            durable.add(all);
            read.add(floor::read(&plain, bytes.len())?);
        }
        drop(bytes);
        fs::remove_file(&plain)?;
        let saves = self.save(&guest, place, &image)?;
        let resume = self.resumes(&image, &[])?;
        let unchecked = self.resumes(&image, &["--verify", "meta"])?;
        column.sample(MEMORY, "floor: write(2)", &write, Bound::None);
        column.sample(MEMORY, "floor: write(2), fsync, rename", &durable, Bound::None);
        column.sample(MEMORY, "held", &saves.held, Bound::None);
        column.sample(MEMORY, "longest pause the program saw", &saves.paused, Bound::None);
        column.sample(MEMORY, "`ckpt save`", &saves.command, Bound::None);
        let ratio = |a: &Sample, b: &Sample| a.median() / b.median();
        column.value(MEMORY, "held ÷ write(2)", ratio(&saves.held, &write), Bound::AtMost(1.15));
        // The command syncs, the bare write does not: for the reader, without a bound.
        column.value(MEMORY, "`ckpt save` ÷ write(2)", ratio(&saves.command, &write), Bound::None);
        let what = "`ckpt save` ÷ write(2), fsync, rename";
        column.value(MEMORY, what, ratio(&saves.command, &durable), Bound::AtMost(1.15));
        column.sample(MEMORY, "floor: pread(2) into fresh memory", &read, Bound::None);
        column.sample(MEMORY, "`ckpt-resume` until it moves", &resume, Bound::None);
        column.sample(MEMORY, "the same with `--verify meta`", &unchecked, Bound::None);
        column.value(MEMORY, "`ckpt-resume` ÷ pread(2)", ratio(&resume, &read), Bound::AtMost(1.15));
        column.value(MEMORY, "`ckpt-resume --verify meta` ÷ pread(2)", ratio(&unchecked, &read), Bound::None);
        fs::remove_file(&image)?;
        Ok(())
    }

    fn small(&self, place: &Place, column: &mut Column<'_>) -> Result<()> {
        let guest = guest::build("small", self.tools.path())?;
        let image = place.file("small.ckpt.tar");
        let saves = self.save(std::slice::from_ref(&guest), place, &image)?;
        let resume = self.resumes(&image, &[])?;
        let len = (saves.size * 1e3) as usize;
        let bytes = floor::noise(len);
        let mut durable = Sample::default();
        let mut bare = Sample::default();
        for _ in 0..self.runs {
            let plain = place.file("plain");
            let _ = fs::remove_file(&plain);
            durable.add(floor::write(&bytes, &plain)?.1);
            bare.add(timed(self.ckpt(CKPT).arg("--version"))?.0);
        }
        column.sample(SMALL, "floor: write(2), fsync, rename of the image", &durable, Bound::None);
        column.sample(SMALL, "floor: `ckpt --version`", &bare, Bound::None);
        column.sample(SMALL, "held", &saves.held, Bound::AtMost(2.0));
        column.sample(SMALL, "longest pause the program saw", &saves.paused, Bound::None);
        column.sample(SMALL, "`ckpt save`", &saves.command, Bound::AtMost(6.0));
        column.sample(SMALL, "`ckpt-resume` until it moves", &resume, Bound::AtMost(8.0));
        column.value(SMALL, "image, kB", saves.size, Bound::AtMost(200.0));
        // Not a job of ours: its own parent is this program.
        let mut alone = Guest::start(Command::new(&guest).stderr(Stdio::null()))?;
        let pid = alone.pid().to_string();
        let attach = || {
            let mut command = self.ckpt(ATTACH);
            command.arg(&pid);
            command
        };
        match self.saves(&mut alone, attach, &image) {
            Ok(attach) => {
                column.sample(SMALL, "held by `ckpt-attach`", &attach.held, Bound::AtMost(2.0));
                column.sample(SMALL, "`ckpt-attach`", &attach.command, Bound::AtMost(6.0));
            }
            // Where only descendants may be traced (Yama), there is nothing to measure.
            Err(error) => eprintln!("ckpt-attach is left out: {error:#}"),
        }
        alone.end()
    }

    /// `bounds`: ms held, ms resumed, kB of image.
    fn plain(
        &self,
        case: &'static str,
        guest: &[PathBuf],
        bounds: [Bound; 3],
        place: &Place,
        column: &mut Column<'_>,
    ) -> Result<()> {
        let [held, moves, size] = bounds;
        let image = place.file("image.ckpt.tar");
        let saves = self.save(guest, place, &image)?;
        let resume = self.resumes(&image, &[])?;
        let (mut stops, mut reads) = (Sample::default(), Sample::default());
        let plain = place.file("plain");
        let _ = fs::remove_file(&plain);
        let len = (saves.size * 1e3) as usize;
        floor::write(&floor::noise(len), &plain)?;
        let [program, args @ ..] = guest else { bail!("no program") };
        let mut alone = Guest::start(Command::new(program).args(args).stderr(Stdio::null()))?;
        for _ in 0..self.runs {
            alone.ask()?;
            stops.add(stops::once(alone.pid() as i32)?);
            reads.add(floor::read(&plain, len)?);
        }
        alone.end()?;
        fs::remove_file(&plain)?;
        column.sample(case, "floor: to stop all threads and let them go", &stops, Bound::None);
        column.sample(case, "held", &saves.held, held);
        column.sample(case, "longest pause the program saw", &saves.paused, Bound::None);
        column.sample(case, "`ckpt save`", &saves.command, Bound::None);
        column.sample(case, "floor: pread(2) of the image into fresh memory", &reads, Bound::None);
        column.sample(case, "`ckpt-resume` until it moves", &resume, moves);
        column.value(case, "image, kB", saves.size, size);
        Ok(())
    }

    fn python(&self, place: &Place, column: &mut Column<'_>) -> Result<()> {
        self.plain("python3, 4 threads", &guest::python("threads"), [Bound::None; 3], place, column)
    }

    fn numpy(&self, place: &Place, column: &mut Column<'_>) -> Result<()> {
        let bounds = [Bound::AtMost(40.0), Bound::AtMost(50.0), Bound::None];
        self.plain("python3 with 100 MB of numpy", &guest::python("array"), bounds, place, column)
    }

    fn ring(&self, place: &Place, column: &mut Column<'_>) -> Result<()> {
        let bounds = [Bound::AtMost(12.0), Bound::AtMost(25.0), Bound::AtMost(2000.0)];
        let guest = [guest::build("ring", self.tools.path())?];
        self.plain("20 processes in a ring of pipes", &guest, bounds, place, column)
    }

    fn threads(&self, place: &Place, column: &mut Column<'_>) -> Result<()> {
        let bounds = [Bound::AtMost(8.0), Bound::AtMost(15.0), Bound::None];
        self.plain("64 threads", &[guest::build("threads", self.tools.path())?], bounds, place, column)
    }

    /// What a program pays for being a job while nobody saves it.
    fn idle(&self, column: &mut Column<'_>) -> Result<()> {
        let calls = guest::build("calls", self.tools.path())?;
        let cases = [
            ("exec", "1000", "fork + exec + wait of /bin/true, µs", "fork + exec + wait under `ckpt-run` ÷ native"),
            ("fork", "2000", "fork + wait, µs", "fork + wait under `ckpt-run` ÷ native"),
            ("open", "200000", "open + close, µs", "open + close under `ckpt-run` ÷ native"),
            ("malloc", "5000000", "malloc + free, µs", "malloc + free under `ckpt-run` ÷ native"),
            ("pipe", "500000", "a byte through a pipe, µs", "a byte through a pipe under `ckpt-run` ÷ native"),
        ];
        for (which, count, native, under) in cases {
            let (mut alone, mut kept) = (Sample::default(), Sample::default());
            for _ in 0..self.runs {
                let told = timed(Command::new(&calls).args([which, count]))?.1;
                alone.push(micros(&told)?);
                let told = timed(self.ckpt(RUN).args(["-q", "--"]).arg(&calls).args([which, count]))?.1;
                kept.push(micros(&told)?);
            }
            column.sample(IDLE, native, &alone, Bound::None);
            // The least of both: what is more comes from elsewhere.
            column.value(IDLE, under, kept.least() / alone.least(), Bound::AtMost(NATIVE));
        }
        let (mut alone, mut kept) = (Sample::default(), Sample::default());
        for _ in 0..self.runs {
            alone.add(timed(&mut Command::new("/bin/true"))?.0);
            kept.add(timed(self.ckpt(RUN).args(["-q", "--", "/bin/true"]))?.0);
        }
        column.sample(IDLE, "/bin/true", &alone, Bound::None);
        column.sample(IDLE, "`ckpt-run -- /bin/true`", &kept, Bound::None);
        column.value(IDLE, "what `ckpt-run` adds to a start", kept.median() - alone.median(), Bound::AtMost(5.0));
        Ok(())
    }
}

fn micros(nanos: &[u8]) -> Result<f64> {
    let text = std::str::from_utf8(nanos)?.trim();
    Ok(text.parse::<f64>().with_context(|| format!("a guest says {text:?}"))? / 1e3)
}
