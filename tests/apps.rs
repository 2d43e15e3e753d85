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
    /// A command that runs between each save and its resume.
    between: &'static [&'static str],
}

impl App {
    fn new(name: &'static str, argv: &[&dyn AsRef<OsStr>]) -> App {
        let argv = argv.iter().map(|a| a.as_ref().to_owned()).collect();
        App { name, argv, inputs: Vec::new(), makes: &[], grows: "out", between: &[] }
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
        if let [program, args @ ..] = app.between {
            scene.must(program, scene.command(program).args(args));
        }
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

#[test]
fn ruby() {
    if have("ruby", "ruby") {
        survives(&App::new("ruby", &[&"ruby", &script("queues.rb"), &"600"]));
    }
}

#[test]
fn lua() {
    if have("lua5.4", "lua") {
        survives(&App::new("lua", &[&"lua5.4", &script("coroutines.lua"), &"400"]));
    }
}

#[test]
fn java() {
    if have("javac", "java") {
        let source = script("Collections.java");
        let archive = made_of(&[&source], "collections.jar", |out| {
            let mut command = Command::new("sh");
            let classes = out.with_extension("classes");
            command.args(["-c", "javac -d \"$1\" \"$2\" && jar --create --file \"$3\" -C \"$1\" .", "sh"]);
            command.arg(&classes).arg(&source).arg(out).env("PATH", harness::PATH);
            command
        });
        let mut app = App::new("java", &[&"java", &"-Xmx256m", &"-cp", &archive, &"Collections", &"300"]);
        // Every Java machine clears away the performance data of those that are dead.
        app.between = &["java", "-version"];
        survives(&app);
    }
}

/// Started from its source, which goes through the compiler; its machine keeps a pair of sockets for good.
#[test]
fn java_source() {
    if have("java", "java") {
        let mut app = App::new("java_source", &[&"java", &"-Xmx256m", &script("Collections.java"), &"200"]);
        app.between = &["java", "-version"];
        survives(&app);
    }
}

#[test]
fn node() {
    if have("node", "node") {
        survives(&App::new("node", &[&"node", &script("workers.js"), &"300"]));
    }
}

#[test]
fn numpy() {
    if Path::new("/usr/lib/python3/dist-packages/numpy").exists() {
        survives(&App::new("numpy", &[&"/usr/bin/python3", &script("arrays.py"), &"500", &"24"]));
    } else {
        skip("numpy", "python3-numpy is not installed");
    }
}

#[test]
fn r() {
    if have("Rscript", "r") {
        survives(&App::new("r", &[&"Rscript", &"--vanilla", &script("model.R"), &"300"]));
    }
}

#[test]
fn octave() {
    if have("octave-cli", "octave") {
        let quiet: [&str; 3] = ["--norc", "--no-history", "-q"];
        survives(&App::new("octave", &[&"octave-cli", &quiet[0], &quiet[1], &quiet[2], &script("matrices.m"), &"200"]));
    }
}

#[test]
fn imagemagick() {
    if have("convert-im6.q16", "imagemagick") {
        survives(&App::new("imagemagick", &[&"bash", &script("frames.sh"), &"8"]));
    }
}

#[test]
fn gcc() {
    if have("gcc", "gcc") {
        let mut app = App::new("gcc", &[&"bash", &script("compile.sh"), &"400"]);
        app.makes = &["large.s", "large.o", "large"];
        app.grows = "large.s";
        survives(&app);
    }
}

#[test]
fn rustc() {
    // The compiler itself: what is on the path may be a proxy that looks into its owner's home.
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().ok().filter(|o| o.status.success());
    let Some(sysroot) = sysroot else { return skip("rustc", "rustc is not on the path") };
    let rustc = Path::new(String::from_utf8_lossy(&sysroot.stdout).trim()).join("bin/rustc");
    let mut app = App::new("rustc", &[&"bash", &script("crate.sh"), &rustc, &"8"]);
    app.makes = &["program-0", "program-3"];
    survives(&app);
}

#[test]
fn sqlite() {
    if have("sqlite3", "sqlite") {
        let mut app = App::new("sqlite", &[&"bash", &script("ledger.sh"), &"2500"]);
        app.makes = &["book.db"];
        survives(&app);
    }
}

#[test]
fn compressor_pipeline() {
    if have("xz", "compressor_pipeline") && have("zstd", "compressor_pipeline") {
        let mut app = App::new("compressor_pipeline", &[&"bash", &script("compressors.sh")]);
        app.inputs = vec![("text", text(160))];
        app.makes = &["text.gz", "text.xz", "text.zst"];
        app.grows = "text.zst";
        survives(&app);
    }
}

/// A shell that forks all the time, saved without a pause from its start to its end, every fifth time resumed from the
/// image: no child is lost, none is doubled.
#[test]
fn forks_saved_without_a_pause() {
    let app = App::new("forks", &[&"bash", &script("forks.sh"), &"400"]);
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = app.scene();
    let mut alone = scene.start_alone(&app.argv());
    assert!(scene.end_of(&mut alone).success());
    let expected = app.product(&scene);
    drop(scene);

    let scene = app.scene();
    let image = scene.image("last.ckpt.tar");
    let mut job = scene.start_run(&app.argv());
    let (mut saves, mut resumes) = (0, 0);
    loop {
        let before = size(&scene.work("out"));
        let ended = scene.wait("progress", || {
            job.ended().map(|_| true).or_else(|| (size(&scene.work("out")) > before).then_some(false))
        });
        if ended {
            break;
        }
        let end_it = saves % 5 == 4;
        let mut save = scene.ckpt("ckpt", &["save", &scene.name, "-o"]);
        save.arg(&image).args(end_it.then_some("--kill"));
        let output = scene.output("ckpt save", &mut save);
        if !output.status.success() {
            // Rightly only where the script was just done.
            scene.must_have_ended(&mut job, &String::from_utf8_lossy(&output.stderr));
            break;
        }
        saves += 1;
        if end_it {
            assert_eq!(scene.end_of(&mut job).code(), Some(85));
            scene.nobody_left();
            resumes += 1;
            job = scene.start_resume(&image, &[]);
        }
    }
    let status = scene.end_of(&mut job);
    if !status.success() || app.product(&scene) != expected {
        scene.fail(&format!("after {saves} saves and {resumes} resumes it ended with {status}, or something is lost"));
    }
    println!("forks: {saves} saves, {resumes} resumes");
    assert!(resumes >= 5, "only {saves} saves and {resumes} resumes: make it run longer");
    scene.nobody_left();
}
