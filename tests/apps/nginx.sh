# nginx, a master and two workers, and four clients that fetch pages over kept-alive and over fresh connections.
set -eu
. "$(dirname "$0")/ports.sh"
rounds=$1
port=$(free_port)
mkdir -p site temp
for ((i = 0; i < 40; i++)); do head -c $((i * i * 97 + 1)) "$0" /dev/zero | tr '\0' "$((i % 10))" >"site/$i"; done
cat >nginx.conf <<END
pid $PWD/nginx.pid;
error_log $PWD/error.log;
worker_processes 2;
daemon off;
events { worker_connections 64; }
http {
    access_log $PWD/access.log;
    client_body_temp_path $PWD/temp/body;
    proxy_temp_path $PWD/temp/proxy;
    fastcgi_temp_path $PWD/temp/fastcgi;
    uwsgi_temp_path $PWD/temp/uwsgi;
    scgi_temp_path $PWD/temp/scgi;
    server {
        listen 127.0.0.1:$port;
        root $PWD/site;
        keepalive_requests 37;
    }
}
END
[ "$(id -u)" != 0 ] || sed -i '1i user root;' nginx.conf
nginx -p "$PWD" -c "$PWD/nginx.conf" -e "$PWD/error.log" &
master=$!
python3 - "$port" "$rounds" <<'END'
import hashlib
import http.client
import pathlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor

port, rounds = map(int, sys.argv[1:])
pages = {n: pathlib.Path(f"site/{n}").read_bytes() for n in range(40)}


class Client:
    def __init__(self):
        self.connection = http.client.HTTPConnection("127.0.0.1", port)

    def fetch(self, page):
        self.connection.request("GET", f"/{page}")
        answer = self.connection.getresponse()
        body = answer.read()
        assert answer.status == 200 and body == pages[page], (answer.status, page, len(body))
        return hashlib.sha256(body).hexdigest()[:8]


for _ in range(1000):
    try:
        Client().fetch(0)
        break
    except ConnectionRefusedError:
        time.sleep(0.02)
clients = [Client() for _ in range(4)]
with ThreadPoolExecutor(4) as pool:
    for i in range(rounds):
        jobs = [pool.submit(clients[n].fetch, (i * 7 + n) % 40) for n in range(4)]
        print(i, *(job.result() for job in jobs), Client().fetch(i % 40), flush=True)
END
kill -QUIT "$master"
wait "$master"
wc -l <access.log
cat error.log
