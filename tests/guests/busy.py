# Threads that do arithmetic, system calls and allocation, and check every result: what a save that is cut off in the middle
# would hurt first. Talks with the harness as tests/guests/guest.h does.
import hashlib, os, sys, threading, traceback

HERE = os.getcwd()
PIDS = (os.getpid(), os.getppid())


def told(name):
    return os.path.exists(os.path.join(HERE, name))


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def busy(me):
    try:
        tid = threading.get_native_id()
        r, w = os.pipe()
        n = 0
        while not told("go"):
            for _ in range(20):
                n += 1
                data = n.to_bytes(8, "little") * 64
                check(os.write(w, data) == 512 and os.read(r, 512) == data, "pipe")
                check(threading.get_native_id() == tid and (os.getpid(), os.getppid()) == PIDS, "ids")
                check(hashlib.sha256(data).digest() == hashlib.sha256(bytes(data)).digest(), "hash")
                check(sum(i * i for i in range(200)) == 2646700, "sum")
                check(abs((n % 1000) * 1.5 / 3 - (n % 1000) / 2) < 1e-9, "floats")
                try:
                    os.lseek(r, 0, os.SEEK_CUR)
                    check(False, "a pipe that can be positioned")
                except OSError as error:
                    check(error.errno == 29, f"errno {error.errno}")
    except BaseException:
        with open(os.path.join(HERE, "fails.log"), "a") as log:
            traceback.print_exc(file=log)
        os._exit(1)


threads = [threading.Thread(target=busy, args=(i,)) for i in range(3)]
for thread in threads:
    thread.start()
os.write(1, b"ready\n")
beats, beat = 0, os.open("beat", os.O_WRONLY | os.O_CREAT, 0o644)
pause = threading.Event()
while not told("go"):
    beats += 1
    os.pwrite(beat, b"%020d\n" % beats, 0)
    pause.wait(0.001)
for thread in threads:
    thread.join()
os.write(1, b"PASS\n")
