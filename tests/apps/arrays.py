# numpy at work on arrays of so many megabytes, threads of its linear algebra included.
import sys
import zlib

import numpy as np

megabytes, steps = int(sys.argv[1]), int(sys.argv[2])
random = np.random.default_rng(7)
table = random.random((megabytes, 1 << 17))  # a megabyte each row
square = random.random((400, 400))
for step in range(steps):
    rows = slice(step * 7 % megabytes, step * 7 % megabytes + 24)
    table[rows] = np.sqrt(table[rows] * 0.75 + table[(step * 13 + 5) % megabytes] * 0.25)
    square = square @ square
    square /= np.abs(square).max()
    print(step, f"{table[rows].sum():.6f} {np.linalg.norm(square):.6f}", flush=True)
print("all", zlib.crc32(table), zlib.crc32(square))
