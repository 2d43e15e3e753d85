//! Servers with their clients in one tree (`tests/apps/`), saved under load, killed and resumed for several generations: every
//! answer is right, nothing is lost, nothing is done twice.

mod harness;

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use harness::app::{App, go_program, have, java_archive, script, text};
use harness::{made_of, skip};

/// One at a time from start to end: the ports of one that is dead are there for anybody who asks for some port.
fn survives(app: &App) {
    static PORTS: Mutex<()> = Mutex::new(());
    let _alone = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    harness::app::survives(app);
}

fn all_there(programs: &[&str], test: &str) -> bool {
    programs.iter().all(|p| have(p, test))
}

/// A script for python3.
fn python(name: &'static str, file: &str, rounds: &str) -> App {
    App::new(name, &[&"/usr/bin/python3", &script(file), &rounds])
}

#[test]
fn redis() {
    if all_there(&["redis-server", "redis-benchmark", "redis-cli", "python3"], "redis") {
        survives(&App::new("redis", &[&"bash", &script("redis.sh"), &"12"]));
    }
}

#[test]
fn memcached() {
    if all_there(&["memcached", "python3"], "memcached") {
        survives(&python("memcached", "memcached.py", "60"));
    }
}

#[test]
fn nginx() {
    if all_there(&["nginx", "python3"], "nginx") {
        survives(&App::new("nginx", &[&"bash", &script("nginx.sh"), &"1500"]));
    }
}

#[test]
fn asyncio() {
    if have("python3", "asyncio") {
        survives(&python("asyncio", "asyncio_server.py", "100"));
    }
}

#[test]
fn busy_server() {
    if have("python3", "busy_server") {
        survives(&python("busy_server", "busy_server.py", "25"));
    }
}

#[test]
fn node_http() {
    if have("node", "node_http") {
        survives(&App::new("node_http", &[&"node", &script("http.js"), &"250"]));
    }
}

#[test]
fn go_http() {
    if have("go", "go_http") {
        survives(&App::new("go_http", &[&go_program("server.go"), &"1200"]));
    }
}

#[test]
fn java_sockets() {
    if have("javac", "java_sockets") {
        let mut app =
            App::new("java_sockets", &[&"java", &"-Xmx256m", &"-cp", &java_archive("Echo.java"), &"Echo", &"200"]);
        app.between = &["java", "-version"];
        survives(&app);
    }
}

#[test]
fn git_daemon() {
    if all_there(&["git", "python3"], "git_daemon") {
        survives(&App::new("git_daemon", &[&"bash", &script("gitdaemon.sh"), &"10"]));
    }
}

#[test]
fn socat_chain() {
    if all_there(&["socat", "python3"], "socat_chain") {
        let mut app = App::new("socat_chain", &[&"bash", &script("socat.sh")]);
        app.inputs = vec![("text", text(600))];
        app.grows = "arrived";
        survives(&app);
    }
}

#[test]
fn python_manager() {
    if have("python3", "python_manager") {
        survives(&python("python_manager", "manager.py", "150"));
    }
}

#[test]
fn dbus() {
    if all_there(&["dbus-daemon", "dbus-monitor", "dbus-send", "python3"], "dbus") {
        survives(&python("dbus", "dbus.py", "150"));
    }
}

/// As root it runs as nobody: the server refuses to be root.
#[test]
fn postgres() {
    let installed = std::path::Path::new("/usr/lib/postgresql").exists();
    if !installed {
        return skip("postgres", "PostgreSQL is not installed");
    }
    if have("python3", "postgres") {
        survives(&App::new("postgres", &[&"bash", &script("postgres.sh"), &"20"]));
    }
}

/// A ring and an allreduce over four ranks.
fn mpi(flavour: &'static str, options: &[&str], rounds: &str) {
    let (compiler, runner) = (format!("mpicc.{flavour}"), format!("mpirun.{flavour}"));
    if all_there(&[&compiler, &runner], flavour) {
        let source = script("ring.c");
        let program = made_of(&[&source], &format!("ring.{flavour}"), |out| {
            let mut command = Command::new(&compiler);
            command.args(["-O2", "-o"]).arg(out).arg(&source).env("PATH", harness::PATH);
            command
        });
        let mut app = App::new(flavour, &[&runner]);
        app.argv.extend(options.iter().map(Into::into));
        app.argv.extend([program.into(), rounds.into()]);
        survives(&app);
    }
}

#[test]
fn openmpi() {
    mpi("openmpi", &["--oversubscribe", "--allow-run-as-root", "-n", "4"], "2500");
}

#[test]
fn mpich() {
    mpi("mpich", &["-n", "4"], "20");
}
