//! Real programs (`tests/apps/`), saved while busy, killed and resumed for several generations: what they produce in the
//! end is byte for byte what they produce undisturbed.

mod harness;

use std::path::Path;
use std::process::Command;
use std::sync::PoisonError;

use harness::app::{App, ONE_AT_A_TIME, go_program, have, java_archive, script, size, survives, text};
use harness::{Build, bin, compile, skip};

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
        survives(&App::new("perl", &[&"perl", &script("words.pl"), &"400"]));
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
        let program = go_program("goroutines.go");
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
    example("workers", "2000");
}

#[test]
fn rust_pipeline() {
    example("pipeline", "60000");
}

#[test]
fn xz() {
    if have("xz", "xz") {
        let mut app = App::new("xz", &[&"xz", &"-2", &"-T2", &"--block-size=524288", &"-c", &"text"]);
        app.inputs = vec![("text", text(110))];
        survives(&app);
    }
}

#[test]
fn zstd() {
    if have("zstd", "zstd") {
        let mut app = App::new("zstd", &[&"zstd", &"-12", &"-T2", &"-q", &"-c", &"text"]);
        app.inputs = vec![("text", text(200))];
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
        let archive = java_archive("Collections.java");
        let mut app = App::new("java", &[&"java", &"-Xmx256m", &"-cp", &archive, &"Collections", &"150"]);
        // Every Java machine clears away the performance data of those that are dead.
        app.between = &["java", "-version"];
        survives(&app);
    }
}

/// Started from its source, which goes through the compiler; its machine keeps a pair of sockets for good.
#[test]
fn java_source() {
    if have("java", "java") {
        let mut app = App::new("java_source", &[&"java", &"-Xmx256m", &script("Collections.java"), &"120"]);
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
        survives(&App::new("numpy", &[&"/usr/bin/python3", &script("arrays.py"), &"500", &"6"]));
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
        let mut app = App::new("gcc", &[&"bash", &script("compile.sh"), &"250"]);
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
    let mut app = App::new("rustc", &[&"bash", &script("crate.sh"), &rustc, &"5"]);
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
        app.inputs = vec![("text", text(110))];
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
