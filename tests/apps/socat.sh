# Bytes through a chain of socat: a pipe, TCP, a pipe of two processes, TCP again.
set -eu
. "$(dirname "$0")/ports.sh"
first=$(free_port)
second=$(free_port)
socat -u "TCP-LISTEN:$second,bind=127.0.0.1,reuseaddr" - >arrived &
end=$!
socat -u "TCP-LISTEN:$first,bind=127.0.0.1,reuseaddr" - | tr 'a-z' 'A-Z' |
    socat -u - "TCP:127.0.0.1:$second,retry=1000,interval=0.02" &
middle=$!
socat -u OPEN:text "TCP:127.0.0.1:$first,retry=1000,interval=0.02"
wait "$middle" "$end"
tr 'a-z' 'A-Z' <text | cmp - arrived
sha256sum <arrived
