//! `ckpt-run`: the same as `ckpt run`.

fn main() {
    ckpt::cli::main(ckpt::cli::Program::Run)
}
