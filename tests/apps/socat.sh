# Bytes through a chain of socat: a pipe, TCP, a pipe of two processes, TCP again. What feeds it has some work to do, too,
# or all would be through before the saves.
set -eu
. "$(dirname "$0")/ports.sh"
first=$(free_port)
second=$(free_port)
socat -u "TCP-LISTEN:$second,bind=127.0.0.1,reuseaddr" - >arrived &
end=$!
socat -u "TCP-LISTEN:$first,bind=127.0.0.1,reuseaddr" - | tr 'a-z' 'A-Z' |
    socat -u - "TCP:127.0.0.1:$second,retry=1000,interval=0.02" &
middle=$!
gzip <text | gunzip | socat -u - "TCP:127.0.0.1:$first,retry=1000,interval=0.02"
wait "$middle" "$end"
tr 'a-z' 'A-Z' <text | cmp - arrived
sha256sum <arrived
