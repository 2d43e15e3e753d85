# One text through all the compressors, several at a time, and back.
set -eu -o pipefail
gzip -nc text | tee text.gz | gzip -dc | xz -1 -T2 --block-size=262144 -c | tee text.xz | xz -dc |
    zstd -9 -T2 -q -c | tee text.zst | zstd -dc | cmp - text
sha256sum text.gz text.xz text.zst
