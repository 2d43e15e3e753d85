# make -j2 compiling and linking a program of many C files, which is then run.
set -eu
files=$1
mkdir -p src
for i in $(seq "$files"); do
    {
        echo "#include <stdio.h>"
        echo "#include <stdlib.h>"
        echo "#include <string.h>"
        for f in $(seq 12); do
            echo "static unsigned step_${i}_$f(unsigned x) { for (int k = 0; k < 100; k++) { x = x * 1664525u + ${i}u * $f; if (x % 7 == 3) x ^= x >> 5; } return x; }"
        done
        echo "unsigned part_$i(unsigned x) {"
        for f in $(seq 12); do echo "    x = step_${i}_$f(x);"; done
        echo "    return x;"
        echo "}"
    } >"src/part_$i.c"
done
{
    echo "#include <stdio.h>"
    for i in $(seq "$files"); do echo "unsigned part_$i(unsigned);"; done
    echo "int main(void) {"
    echo "    unsigned x = 1;"
    for i in $(seq "$files"); do echo "    x = part_$i(x); printf(\"%u\\n\", x);"; done
    echo "    return 0;"
    echo "}"
} >src/main.c
cat >Makefile <<'MAKE'
objects := $(patsubst src/%.c,%.o,$(sort $(wildcard src/*.c)))
program: $(objects)
	@gcc -o $@ $^
	@echo linked >>build.log
%.o: src/%.c
	@gcc -O2 -c -o $@ $<
	@echo $@ >>build.log
MAKE
make -s -j2 program
wc -l <build.log
./program
