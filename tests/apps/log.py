# One process, a generator, and a log it appends to and reads back in the end.
import sys
import zlib

STEPS = int(sys.argv[1])


def primes():
    found = []
    n = 2
    while True:
        if all(n % p for p in found if p * p <= n):
            found.append(n)
            yield n
        n += 1


crc = 0
with open("primes.log", "a") as log:
    for index, prime in enumerate(primes()):
        if index % 20 == 0:
            crc = zlib.crc32(str(prime).encode(), crc)
            log.write(f"{index} {prime} {crc:08x}\n")
            log.flush()
            print(index, flush=True)
        if index == STEPS:
            break
with open("primes.log") as log:
    lines = log.readlines()
print(len(lines), zlib.crc32("".join(lines).encode()))
