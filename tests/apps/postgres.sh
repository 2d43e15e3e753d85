# A PostgreSQL cluster made from nothing, pgbench's transactions from four clients, and its books: every transaction is in the
# history once, and all four sums agree.
set -eu
. "$(dirname "$0")/ports.sh"
rounds=$1
if [ "$(id -u)" = 0 ]; then # which the server refuses to be
    chown nobody . && chmod a+x . ..
    exec setpriv --reuid nobody --regid nogroup --clear-groups bash "$0" "$@"
fi
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
port=$(free_port)
export PGHOST=127.0.0.1 PGPORT=$port PGUSER=bench PGDATABASE=postgres
"$bin/initdb" -D data -U bench -A trust --no-sync -E UTF8 --no-locale >initdb.log
"$bin/postgres" -D "$PWD/data" -c port="$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories="$PWD" \
    -c fsync=off -c shared_buffers=32MB -c max_connections=20 >postgres.log 2>&1 &
server=$!
until_ok "$bin/pg_isready"
"$bin/pgbench" -i -q -s 1 >/dev/null 2>&1
ask() { "$bin/psql" -XAtq -c "$1"; }
for ((i = 1; i <= rounds; i++)); do
    "$bin/pgbench" -n -c 4 -j 2 -t 50 >bench.log 2>&1 || { cat bench.log; exit 1; }
    ask "select $i, count(*) from pgbench_history"
    ask "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history),
        (select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers),
        (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)"
done
kill -INT "$server"
wait "$server"
# Whoever asks too early is told so, and whoever is still at work when the server is to end; that is no fault.
grep -E 'PANIC|FATAL|crash|terminated by signal' postgres.log | grep -vcE 'the database system is starting up|due to administrator command' || true
