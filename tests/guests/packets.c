// Packet pipes (O_DIRECT): one read takes one packet, before and after; packets among a stream's bytes; a full pipe of packets.
#include "guest.h"

#define FLAGS(fd, on) MUST(fcntl(fd, F_SETFL, (fcntl(fd, F_GETFL) & ~O_DIRECT) | ((on) ? O_DIRECT : 0)))
static int queue[2];
static void spoil(void) {
    char c[8];
    CHECK(read(queue[0], c, 1) == 1, "read");
}

static unsigned length(uint64_t packet) { return packet % 5 == 4 ? 4096 : 1 + mix(packet) % 900; }

static void put(uint64_t packet) {
    unsigned char b[4096];
    for (unsigned i = 0; i < length(packet); i++) b[i] = mix(packet * 5000 + i);
    CHECK(write(queue[1], b, length(packet)) == length(packet), "write");
}

static void get(uint64_t packet) {
    unsigned char b[8192];
    ssize_t n = MUST(read(queue[0], b, sizeof b));
    CHECK(n == length(packet), "packet %lu has %zd bytes instead of %u", packet, n, length(packet));
    for (int i = 0; i < n; i++) CHECK(b[i] == (unsigned char)mix(packet * 5000 + i), "packet %lu, byte %d", packet, i);
}

static ssize_t take(int fd, char *to) { return read(fd, to, 8192); }

int main(void) {
    int mixed[2], full[2], one[2], stream_now[2];
    MUST(pipe2(queue, O_DIRECT)), MUST(pipe2(mixed, 0)), MUST(pipe2(full, O_DIRECT | O_NONBLOCK | O_CLOEXEC)), MUST(pipe2(one, O_DIRECT));
    MUST(pipe(stream_now));
    MUST(mkfifo("fifo", 0600));
    int fifo = MUST(open("fifo", O_RDWR | O_NONBLOCK));
    FLAGS(fifo, 1);
    CHECK(write(fifo, "ab", 2) == 2 && write(fifo, "c", 1) == 1 && write(fifo, "def", 3) == 3, "write");
    for (uint64_t i = 0; i < 9; i++) put(i);
    static char block[5000];
    memset(block, 'B', sizeof block);
    CHECK(write(mixed[1], block, 5000) == 5000, "write");
    FLAGS(mixed[1], 1);
    CHECK(write(mixed[1], block, 4000) == 4000, "write"); // a packet, as it does not fit behind those bytes in their page
    FLAGS(mixed[1], 0);
    CHECK(write(mixed[1], block, 4096) == 4096, "write");
    FLAGS(mixed[1], 1);
    CHECK(write(mixed[1], "packet", 6) == 6 && write(mixed[1], "p", 1) == 1, "write");
    FLAGS(mixed[1], 0);
    CHECK(write(mixed[1], "tail", 4) == 4 && write(mixed[1], "s", 1) == 1, "write");
    MUST(fcntl(full[1], F_SETPIPE_SZ, 1 << 20));
    int packets = 0;
    while (write(full[1], block, 1 + packets % 3) > 0) packets++;
    CHECK(errno == EAGAIN && packets == 256, "%d packets", packets);
    CHECK(write(one[1], "1", 1) == 1, "write");
    FLAGS(stream_now[1], 1);
    CHECK(write(stream_now[1], "x", 1) == 1, "write");
    FLAGS(stream_now[1], 0);
    int flags[] = {fcntl(queue[0], F_GETFL), fcntl(queue[1], F_GETFL), fcntl(full[1], F_GETFL), fcntl(fifo, F_GETFL), fcntl(mixed[1], F_GETFL), fcntl(stream_now[1], F_GETFL)};
    ready();
    uint64_t turn = 0;
    for (; go_on(); turn++) {
        get(turn), put(turn + 9);
        CHECK(fcntl(queue[0], F_GETFL) == flags[0] && fcntl(queue[1], F_GETFL) == flags[1] && fcntl(full[1], F_GETFL) == flags[2] &&
                  fcntl(fifo, F_GETFL) == flags[3] && fcntl(mixed[1], F_GETFL) == flags[4] && fcntl(stream_now[1], F_GETFL) == flags[5],
              "flags");
        CHECK(write(full[1], "x", 1) == -1 && errno == EAGAIN, "the full pipe takes more");
        int n;
        MUST(ioctl(full[0], FIONREAD, &n));
        CHECK(n == 85 * 6 + 1, "%d bytes in the full pipe", n);
    }
    for (uint64_t i = 0; i < 9; i++) get(turn + i);
    static char b[16384];
    CHECK(take(fifo, b) == 2 && !memcmp(b, "ab", 2) && take(fifo, b) == 1 && b[0] == 'c' && take(fifo, b) == 3 && !memcmp(b, "def", 3), "packets of the FIFO");
    CHECK(read(mixed[0], b, 16384) == 9000 && b[0] == 'B' && b[8999] == 'B', "a stream up to the first packet");
    CHECK(read(mixed[0], b, 16384) == 4102 && b[4095] == 'B' && !memcmp(b + 4096, "packet", 6), "a page up to the second packet");
    CHECK(take(mixed[0], b) == 1 && b[0] == 'p' && take(mixed[0], b) == 5 && !memcmp(b, "tails", 5), "what follows the packets");
    for (int i = 0; i < packets; i++) CHECK(take(full[0], b) == 1 + i % 3, "packet %d of the full pipe", i);
    CHECK(write(one[1], "22", 2) == 2 && take(one[0], b) == 1 && take(one[0], b) == 2, "two packets");
    CHECK(write(stream_now[1], "y", 1) == 1 && take(stream_now[0], b) == 1 && take(stream_now[0], b) == 1, "a packet, then a stream");
    return pass();
}
