//! `ckpt-attach`: the same as `ckpt attach`.

fn main() {
    ckpt::cli::main(ckpt::cli::Program::Attach)
}
