//! Real programs (`tests/apps/`), saved while busy, killed and resumed for several generations: what they produce in the
//! end is byte for byte what they produce undisturbed.

mod harness;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use harness::{Build, Scene, bin, checkout, compile, installed, made_of, skip};

/// How often each program is saved, killed and resumed.
const GENERATIONS: u64 = 3;

/// A program and what it makes.
struct App {
    name: &'static str,
    argv: Vec<OsString>,
    /// Files in its working directory that it starts from.
    inputs: Vec<(&'static str, Vec<u8>)>,
    /// Files it makes, which count as its output beside its standard output.
    makes: &'static [&'static str],
    /// The file that grows as it gets on; its size is the progress.
    grows: &'static str,
}

impl App {
    fn new(name: &'static str, argv: &[&dyn AsRef<OsStr>]) -> App {
        let argv = argv.iter().map(|a| a.as_ref().to_owned()).collect();
        App { name, argv, inputs: Vec::new(), makes: &[], grows: "out" }
    }

    fn scene(&self) -> Scene {
        let scene = Scene::new(self.name);
        for (file, content) in &self.inputs {
            fs::write(scene.work(file), content).expect("an input file");
        }
        scene
    }

    fn argv(&self) -> Vec<&OsStr> {
        self.argv.iter().map(AsRef::as_ref).collect()
    }

    fn product(&self, scene: &Scene) -> Vec<Vec<u8>> {
        ["out"].iter().chain(self.makes).map(|f| fs::read(scene.work(f)).expect("an output file")).collect()
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// These programs take all the processors there are: two at a time, one could be done before its save comes through.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn survives(app: &App) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = app.scene();
    let mut alone = scene.start_alone(&app.argv());
    let status = scene.end_of(&mut alone);
    assert!(status.success(), "{} undisturbed: {status}", app.name);
    let expected = app.product(&scene);
    let whole = size(&scene.work(app.grows));
    assert!(whole > 0, "{} makes nothing", app.name);
    drop(scene);

    let scene = app.scene();
    let mut job = scene.start_run(&app.argv());
    let mut saved_at = 0;
    for generation in 1..=GENERATIONS {
        // Beyond the last save: then it can be saved again, because it has been let go. And at an eighth, two, three eighths of the work: what is left must last until the last save has come through,
        // however busy the machine is.
        scene.wait("progress", || {
            if let Some(status) = job.ended() {
                scene.fail(&format!("it ended too early: {status}"));
            }
            let now = size(&scene.work(app.grows));
            (now > saved_at && now >= whole * generation / (GENERATIONS + 5)).then_some(())
        });
        let image = scene.image(format!("{generation}.ckpt.tar"));
        scene.save(&image, &["--kill"]);
        let status = scene.end_of(&mut job);
        assert_eq!(status.code(), Some(85), "{}: after a save that ends it: {status}", app.name);
        scene.nobody_left();
        saved_at = size(&scene.work(app.grows));
        assert!(saved_at < whole, "{} was done before generation {generation}: make it run longer", app.name);
        job = scene.start_resume(&image, &[]);
    }
    let status = scene.end_of(&mut job);
    if !status.success() {
        scene.fail(&format!("it ended with {status}"));
    }
    let got = app.product(&scene);
    for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
        if got != expected {
            let at = got.iter().zip(expected).take_while(|(a, b)| a == b).count();
            scene.fail(&format!(
                "output {index} differs from byte {at} on ({} bytes, not {})",
                got.len(),
                expected.len()
            ));
        }
    }
    scene.nobody_left();
}

/// A script of `tests/apps/`.
fn script(file: &str) -> PathBuf {
    checkout().join("tests/apps").join(file)
}

/// Whether a program is there; says that the test is skipped if not.
fn have(program: &str, test: &str) -> bool {
    installed(program) || {
        skip(test, &format!("{program} is not installed"));
        false
    }
}

/// 64 KiB blocks of text that compresses somewhat, the same in every run.
fn text(blocks: u64) -> Vec<u8> {
    let mut numbers = harness::Seeded(7);
    let mut text = Vec::new();
    while text.len() < (blocks << 16) as usize {
        let n = numbers.next();
        text.extend_from_slice(format!("{} {:x}\n", n % 1000, n % 77777).as_bytes());
    }
    text
}

#[test]
fn python_threads() {
    if have("python3", "python_threads") {
        survives(&App::new("python_threads", &[&"/usr/bin/python3", &script("chains.py"), &"300"]));
    }
}

#[test]
fn python_multiprocessing() {
    if have("python3", "python_multiprocessing") {
        survives(&App::new("python_multiprocessing", &[&"/usr/bin/python3", &script("pools.py"), &"120"]));
    }
}

#[test]
fn python_log() {
    if have("python3", "python_log") {
        let mut app = App::new("python_log", &[&"/usr/bin/python3", &script("log.py"), &"9000"]);
        app.makes = &["primes.log"];
        survives(&app);
    }
}

#[test]
fn perl() {
    if have("perl", "perl") {
        survives(&App::new("perl", &[&"perl", &script("words.pl"), &"70"]));
    }
}

#[test]
fn bash_pipelines() {
    if have("bash", "bash_pipelines") && have("awk", "bash_pipelines") {
        survives(&App::new("bash_pipelines", &[&"bash", &script("pipelines.sh"), &"120"]));
    }
}

#[test]
fn make() {
    if have("make", "make") && have("gcc", "make") {
        let mut app = App::new("make", &[&"bash", &script("build.sh"), &"40"]);
        app.grows = "build.log";
        survives(&app);
    }
}

#[test]
fn go() {
    if have("go", "go") {
        let source = script("goroutines.go");
        let program = made_of(&[&source], "goroutines", |out| {
            let mut command = Command::new("/usr/bin/go");
            let cache = out.with_file_name("go-cache");
            command.args(["build", "-o"]).arg(out).arg(&source).env("PATH", harness::PATH).env("GOCACHE", &cache);
            command.envs([("GO111MODULE", "off"), ("CGO_ENABLED", "0"), ("GOFLAGS", ""), ("GOTELEMETRY", "off")]);
            command.env("HOME", std::env::temp_dir());
            command
        });
        survives(&App::new("go", &[&program, &"700"]));
    }
}

fn sieve(name: &'static str, build: Build) {
    match compile("apps/sieve.c", build) {
        Some(program) => survives(&App::new(name, &[&program, &"700"])),
        None => skip(name, "its compiler is not installed"),
    }
}

#[test]
fn static_glibc() {
    sieve("static_glibc", Build::Static);
}

#[test]
fn static_musl() {
    sieve("static_musl", Build::Musl);
}

/// A program of `examples/`, which cargo builds beside ours.
fn example(name: &'static str, count: &str) {
    let program = bin("ckpt").with_file_name("examples").join(name);
    if program.exists() {
        survives(&App::new(name, &[&program, &count]));
    } else {
        skip(name, "examples are not built: cargo build --examples");
    }
}

#[test]
fn rust_workers() {
    example("workers", "6000");
}

#[test]
fn rust_pipeline() {
    example("pipeline", "60000");
}

#[test]
fn xz() {
    if have("xz", "xz") {
        let mut app = App::new("xz", &[&"xz", &"-2", &"-T2", &"--block-size=524288", &"-c", &"text"]);
        app.inputs = vec![("text", text(160))];
        survives(&app);
    }
}

#[test]
fn zstd() {
    if have("zstd", "zstd") {
        let mut app = App::new("zstd", &[&"zstd", &"-12", &"-T2", &"-q", &"-c", &"text"]);
        app.inputs = vec![("text", text(600))];
        survives(&app);
    }
}
