# A redis server with a load of redis-benchmark, all in one tree. Every increment must be counted once, in memory and in the
# append-only file from which a second server starts.
set -eu
. "$(dirname "$0")/ports.sh"
rounds=$1
port=$(free_port)
cli() { redis-cli -p "$port" "$@"; }
pong() { [ "$(cli ping)" = PONG ]; }
start() {
    redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly yes --appendfsync everysec --dir "$PWD" >redis.log 2>&1 &
    server=$!
    until_ok pong
}
books() {
    cli dbsize
    cli get counter:__rand_int__
    cli llen mylist
    for key in 70 77 $((rounds * 40 + 7)); do cli get "key:$key"; done
}
start
for ((i = 1; i <= rounds; i++)); do
    redis-benchmark -p "$port" -q -c 20 -n 4000 -t incr >/dev/null
    redis-benchmark -p "$port" -q -c 5 -P 8 -n 800 -t lpush >/dev/null
    for ((k = 0; k < 40; k++)); do echo "set key:$((i * 40 + k)) $((i * 7919 + k))"; done | cli >/dev/null
    cli get counter:__rand_int__
done
books
cli shutdown >/dev/null
wait "$server"
start
books
cli shutdown >/dev/null
wait "$server"
