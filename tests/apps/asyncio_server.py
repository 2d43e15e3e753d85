# An asyncio server and 200 clients in a process of its own: each sends numbers and gets their running sums back.
import asyncio
import os
import sys

rounds = int(sys.argv[1])
CLIENTS = 200


async def serve(reader, writer):
    total = 0
    while line := await reader.readline():
        total += int(line)
        writer.write(b"%d %s\n" % (total, b"x" * (total % 4096)))
        await writer.drain()
    writer.close()


async def server(write_port):
    listener = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=CLIENTS)
    os.write(write_port, b"%d\n" % listener.sockets[0].getsockname()[1])
    os.close(write_port)
    async with listener:
        await listener.serve_forever()


async def client(port, number):
    return (number, *await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))


async def clients(port):
    all = await asyncio.gather(*(client(port, n) for n in range(CLIENTS)))
    totals = [0] * CLIENTS

    async def ask(number, reader, writer, value):
        totals[number] += value
        writer.write(b"%d\n" % value)
        total, filler = (await reader.readline()).split(b" ")
        assert int(total) == totals[number], (number, total, totals[number])
        assert len(filler) == 1 + totals[number] % 4096

    for i in range(rounds):
        await asyncio.gather(*(ask(n, r, w, (i * 31 + n) % 1009) for n, r, w in all))
        print(i, sum(totals), flush=True)
    for _, _, writer in all:
        writer.close()
        await writer.wait_closed()


read_port, write_port = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(read_port)
    asyncio.run(server(write_port))
os.close(write_port)
with os.fdopen(read_port) as f:
    port = int(f.readline())
try:
    asyncio.run(clients(port))
finally:
    os.kill(pid, 15)
    os.waitpid(pid, 0)
