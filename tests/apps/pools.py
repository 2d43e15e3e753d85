# Processes by fork that talk over pipes: one-way Pipes, SimpleQueues, a Pool with its locks.
import multiprocessing as mp
import sys

STEPS = int(sys.argv[1])
ctx = mp.get_context("fork")


def squares(job):
    n, rounds = job
    for _ in range(rounds):
        n = (n * n + 12345) % 1000003
    return n


def stage(source, sink, key):
    while True:
        item = source.recv()
        sink.put(None if item is None else (item * key) % 1000000007)
        if item is None:
            return


if __name__ == "__main__":
    here, there = ctx.Pipe(duplex=False)
    back = ctx.SimpleQueue()
    worker = ctx.Process(target=stage, args=(here, back, 48271))
    worker.start()
    counter = ctx.Value("q", 0)
    with ctx.Pool(3) as pool:
        for step in range(STEPS):
            results = pool.map(squares, [(step * 10 + i, 12000) for i in range(9)], chunksize=1)
            there.send(sum(results))
            with counter.get_lock():
                counter.value += 1
            print(step, sum(results), back.get(), flush=True)
    there.send(None)
    assert back.get() is None
    worker.join()
    print("exit", worker.exitcode, counter.value)
