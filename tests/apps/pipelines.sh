# A shell with a loop of pipelines, variables, a function, a trap.
set -u
steps=$1
sum=0
trap 'echo "end $sum"' EXIT
collect() { sort -rn | awk -v k="$1" '{ s = (s * 31 + $1 * k) % 1000003 } END { print s }'; }
for ((i = 1; i <= steps; i++)); do
    line=$(seq $((i * 200)) | collect "$i")
    words=$(seq 1 300 | sed "s/\$/ $i/" | tr ' ' '\n' | sort | uniq -c | awk '{ n += $1 * length($2) } END { print n }')
    sum=$(((sum + line + words) % 1000003))
    echo "$i $line $words $sum"
done
