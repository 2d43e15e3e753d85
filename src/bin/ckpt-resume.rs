//! `ckpt-resume`: the same as `ckpt resume`.

fn main() {
    ckpt::cli::main(ckpt::cli::Program::Resume)
}
