#!/bin/bash
# The main job on a real program: run it, save it and end it, start it again, and see it go on where it was.
# Needs a Rust toolchain and python3; no root. Everything stays in a temporary directory.
set -eu
cd "$(dirname "$0")/.."
# Linked with musl, or with glibc where the toolchain can't get that target.
target=x86_64-unknown-linux-musl
[ -d "$(rustc --print target-libdir --target $target)" ] || rustup target add $target || target=x86_64-unknown-linux-gnu
cargo build --release --bins --target $target
PATH=$PWD/target/$target/release:$PATH
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

# Descriptors that lead out of a program cannot be saved with it: a shell may have left us some.
for fd in /proc/$$/fd/*; do
    fd=${fd##*/}
    if [ "$fd" -gt 2 ] && [ "$fd" -ne 255 ]; then eval "exec $fd>&-"; fi
done

cat >sum.py <<'PY'
import hashlib, os, threading, time

digest, lock = hashlib.sha256(), threading.Lock()

def work(name):  # two threads take turns at one digest
    for i in range(15):
        with lock:
            digest.update(b"%d" % i)
            print("pid", os.getpid(), name, "step", i, flush=True)
        time.sleep(0.1)

threads = [threading.Thread(target=work, args=(name,)) for name in ("left", "right")]
[t.start() for t in threads]
[t.join() for t in threads]
print("sum", digest.hexdigest()[:16])
PY

echo '$ ckpt-run -n demo -- python3 sum.py >log &'
ckpt-run -n demo -- python3 sum.py >log &
while [ "$(wc -l <log)" -lt 8 ]; do sleep 0.05; done
echo '$ ckpt save demo --kill -o demo.tar'
ckpt save demo --kill -o demo.tar
wait || true
echo '$ tail -n 2 log'
tail -n 2 log
echo '$ ckpt show demo.tar | head -n 8'
ckpt show demo.tar | head -n 8
echo '$ ckpt-resume demo.tar'
ckpt-resume demo.tar
echo '$ tail -n 3 log'
tail -n 3 log

# Undisturbed, its output is the same but for the pid.
python3 sum.py >plain
steps() { sed 's/^pid [0-9]* //' "$1" | sort; }
test "$(sed -n 's/^pid \([0-9]*\).*/\1/p' log | sort -u | wc -l)" = 1
test "$(steps log | grep -v sum)" = "$(steps plain | grep -v sum)"
echo "one pid throughout, every step once: the program noticed nothing"
