# A TCP port of 127.0.0.1 that nobody has. Read by scripts of this directory.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
# Waits until a command succeeds.
until_ok() {
    local tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -gt 1000 ]; then
            echo "never came up: $*"
            exit 1
        fi
        sleep 0.02
    done
}
