"""Four threads of Python: three that work and sleep in turn, and one that ticks."""
import threading
import time

from tick import tick


def work():
    total = 0
    while True:
        total += sum(range(200))
        time.sleep(0.001)


for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
tick()
