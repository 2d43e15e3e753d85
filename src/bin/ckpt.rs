//! `ckpt`: save a running tree of processes to one file, and start it again from there.

fn main() {
    ckpt::cli::main(ckpt::cli::Program::Ckpt)
}
