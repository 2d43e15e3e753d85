# A memcached server and four clients over TCP, each adding to counters of its own and to one of all; a value of each size.
import os
import socket
import subprocess
import sys
import threading
import time

rounds = int(sys.argv[1])
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
server = subprocess.Popen(["memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-t", "2", "-u", "root"])


class Client:
    def __init__(self):
        for _ in range(1000):
            try:
                self.socket = socket.create_connection(("127.0.0.1", port))
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        self.file = self.socket.makefile("rb")

    def ask(self, request):
        self.socket.sendall(request)
        return self.file.readline().strip()

    def set(self, key, value):
        answer = self.ask(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value))
        assert answer == b"STORED", answer

    def get(self, key):
        head = self.ask(b"get %s\r\n" % key).split()
        assert head[0] == b"VALUE", head
        value = self.file.read(int(head[3]) + 2)[:-2]
        assert self.file.readline() == b"END\r\n"
        return value

    def add(self, key):
        return int(self.ask(b"incr %s 1\r\n" % key))


def load(number, go, done):
    client = Client()
    mine = b"mine%d" % number
    client.set(mine, b"0")
    for i in range(rounds):
        go.wait()
        for k in range(50):
            assert client.add(mine) == i * 50 + k + 1
            client.add(b"all")
        value = bytes([65 + i % 26]) * (1 + (i * 7919 + number) % 100000)
        client.set(b"value%d" % number, value)
        assert client.get(b"value%d" % number) == value
        done.wait()


first = Client()
first.set(b"all", b"0")
go, done = threading.Barrier(5), threading.Barrier(5)
threads = [threading.Thread(target=load, args=(n, go, done)) for n in range(4)]
for t in threads:
    t.start()
for i in range(rounds):
    go.wait()
    done.wait()
    print(i, first.get(b"all").decode().strip(), flush=True)
for t in threads:
    t.join()
server.terminate()
server.wait()
