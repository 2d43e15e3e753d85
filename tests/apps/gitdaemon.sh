# A repository that grows, served by git daemon and cloned and fetched through it.
set -eu
. "$(dirname "$0")/ports.sh"
rounds=$1
port=$(free_port)
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org
export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org GIT_AUTHOR_DATE='1700000000 +0000' GIT_COMMITTER_DATE='1700000000 +0000'
mkdir -p serve
git init -q -b main serve/origin
git daemon --listen=127.0.0.1 --port="$port" --base-path="$PWD/serve" --export-all --reuseaddr 2>daemon.log &
daemon=$!
commit() {
    for ((k = 0; k < 8; k++)); do seq "$(($1 * 100 + k))" "$(($1 * 101 + k * 50 + 2000))" >"serve/origin/file-$k"; done
    git -C serve/origin add .
    git -C serve/origin commit -q -m "step $1"
}
commit 0
until_ok git ls-remote "git://127.0.0.1:$port/origin"
git clone -q "git://127.0.0.1:$port/origin" kept
for ((i = 1; i <= rounds; i++)); do
    commit "$i"
    git -C kept pull -q
    git clone -q "git://127.0.0.1:$port/origin" "fresh-$i"
    git -C "fresh-$i" fsck --no-progress 2>&1
    echo "$i $(git -C kept rev-parse HEAD) $(git -C "fresh-$i" rev-parse HEAD)"
    rm -rf "fresh-$i"
done
kill "$daemon"
wait "$daemon" || true
