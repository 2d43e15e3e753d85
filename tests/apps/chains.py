# Threads that hash in chains and hand their results over a queue; the main thread prints them in order.
import hashlib
import queue
import sys
import threading

STEPS = int(sys.argv[1])
THREADS = 4
inbox = [queue.Queue(maxsize=2) for _ in range(THREADS)]
lock = threading.Lock()
total = 0


def chain(me):
    global total
    value = b"seed %d" % me
    for step in range(STEPS):
        for _ in range(1500):
            value = hashlib.sha256(value + bytes(64)).digest()
        with lock:
            total += 1
        inbox[me].put((step, value.hex()))


workers = [threading.Thread(target=chain, args=(i,), name=f"chain-{i}") for i in range(THREADS)]
for w in workers:
    w.start()
for step in range(STEPS):
    for me in range(THREADS):
        got, value = inbox[me].get(timeout=60)
        assert got == step, (got, step)
        print(step, me, value[:16], flush=True)
for w in workers:
    w.join()
assert total == STEPS * THREADS
print("sum", total)
