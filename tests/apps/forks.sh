# Thousands of children that live for a moment: substitutions, subshells, pipes, background jobs with their statuses.
set -u
steps=$1
sum=0
for ((i = 1; i <= steps; i++)); do
    name=$(basename "/some/where/$i")
    (exit $((i % 7)))
    status=$?
    /bin/true
    (exit $((i % 5))) & one=$!
    sleep 0 & two=$!
    sum=$(echo "$sum $name $status" | { read -r a b c; echo $(((a * 31 + b + c) % 1000003)); })
    wait "$one"
    one=$?
    wait "$two"
    echo "$i $status $one $? $sum"
done
