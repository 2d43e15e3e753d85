# A server that answers one request at a time, and 30 clients in a process of their own, each request over a UNIX connection of
# its own: most have sent theirs long before the server accepts them.
import asyncio
import hashlib
import os
import socket
import sys

rounds = int(sys.argv[1])
CLIENTS = 30


def worked(data, times):
    for _ in range(times):
        data = hashlib.sha256(data).digest()
    return data.hex().encode()


def serve(listener):
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            connection.sendall(worked(lines.readline(), 5000) + b"\n")


async def client(number, turn):
    request = b"%d.%d%s\n" % (number, turn, b"x" * (number * 37))
    reader, writer = await asyncio.open_unix_connection("server")
    writer.write(request)
    await writer.drain()
    answer = await reader.readline()
    assert answer == worked(request, 5000) + b"\n", (number, turn, answer)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def clients():
    for turn in range(rounds):
        await asyncio.gather(*(client(n, turn) for n in range(CLIENTS)))
        print(turn, "all answered", flush=True)


listener = socket.socket(socket.AF_UNIX)
listener.bind("server")
listener.listen(CLIENTS)
pid = os.fork()
if pid == 0:
    serve(listener)
listener.close()
try:
    asyncio.run(clients())
finally:
    os.kill(pid, 15)
    os.waitpid(pid, 0)
    os.unlink("server")
