# rustc compiling a crate of several modules, once for each level of optimisation; what it made is run.
set -eu
rustc=$1
modules=$2
mkdir -p crate
for m in $(seq "$modules"); do
    {
        echo "use std::collections::BTreeMap;"
        for f in $(seq 6); do
            echo "pub fn step_$f(words: &mut BTreeMap<String, u64>, x: u64) -> u64 {"
            echo "    *words.entry(format!(\"{:x}\", x % ${m}7)).or_default() ^= x;"
            echo "    words.iter().filter(|(k, _)| k.len() % 2 == $f % 2).map(|(k, v)| v.rotate_left(k.len() as u32)).fold(x, u64::wrapping_add)"
            echo "}"
        done
    } >"crate/part_$m.rs"
done
{
    for m in $(seq "$modules"); do echo "mod part_$m;"; done
    echo "fn main() {"
    echo "    let (mut x, mut words) = (1, Default::default());"
    for m in $(seq "$modules"); do
        for f in $(seq 6); do echo "    x = part_$m::step_$f(&mut words, x);"; done
    done
    echo "    println!(\"{x:x} {}\", words.len());"
    echo "}"
} >crate/main.rs
for level in 0 1 2 s 3; do
    "$rustc" -C opt-level=$level -C codegen-units=4 -o "program-$level" crate/main.rs
    sha256sum "program-$level"
    ./program-$level
done
