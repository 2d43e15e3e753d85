"""As tick.h: a byte on standard input is answered with the longest time in nanoseconds between two looks at the clock."""
import os
import select
import time


def tick():
    last = time.monotonic_ns()
    longest = 0
    while True:
        asked = select.select([0], [], [], 0.001)[0]
        if asked and not os.read(0, 1):
            os._exit(0)
        # The guest may have been held since it last looked.
        now = time.monotonic_ns()
        longest = max(longest, now - last)
        last = now
        if asked:
            os.write(1, b"%d\n" % longest)
            longest = 0
