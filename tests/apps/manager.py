# multiprocessing: a Manager with its listener, Queues, Events, and shared_memory that all processes work on.
import multiprocessing as mp
import sys
from multiprocessing import shared_memory

ROUNDS = int(sys.argv[1])
WORKERS = 3
LENGTH = 30000


def work(number, name, jobs, results, books):
    memory = shared_memory.SharedMemory(name)
    while (step := jobs.get()) is not None:
        part = range(number * LENGTH // WORKERS, (number + 1) * LENGTH // WORKERS)
        for i in part:
            memory.buf[i] = (memory.buf[i] * 5 + step + i) % 256
        books[number] = step
        results.put((number, sum(memory.buf[part.start:part.stop])))
    memory.close()


if __name__ == "__main__":
    mp.set_start_method("fork")
    memory = shared_memory.SharedMemory(create=True, size=LENGTH)
    with mp.Manager() as manager:
        books = manager.dict()
        results = mp.Queue()
        jobs = [mp.Queue() for _ in range(WORKERS)]
        workers = [mp.Process(target=work, args=(n, memory.name, jobs[n], results, books)) for n in range(WORKERS)]
        for worker in workers:
            worker.start()
        for step in range(ROUNDS):
            for queue in jobs:
                queue.put(step)
            sums = dict(results.get() for _ in range(WORKERS))
            print(step, sums[0], sums[1], sums[2], sorted(books.values()), flush=True)
        for queue in jobs:
            queue.put(None)
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
    print(sum(memory.buf[:LENGTH]))
    memory.close()
    memory.unlink()
