# gcc on one large generated file.
set -eu
functions=$1
{
    for i in $(seq "$functions"); do
        echo "unsigned step_$i(unsigned x, unsigned *table) {"
        echo "    for (unsigned k = 0; k < 64; k++) {"
        echo "        x = x * 1664525u + ${i}u; table[(x >> 7) & 255] += x;"
        echo "        switch (x % 11) { case 1: x ^= x >> 5; break; case 3: x += table[k]; break; case 7: x = (x << 3) | (x >> 29); break; default: x -= k; }"
        echo "    }"
        echo "    return x;"
        echo "}"
    done
    echo "int printf(const char *, ...);"
    echo "int main(void) { unsigned x = 1, table[256] = {0};"
    for i in $(seq "$functions"); do echo "    x = step_$i(x, table);"; done
    echo '    printf("%u\n", x); return 0; }'
} >large.c
gcc -O2 -save-temps -o large large.c
./large
