// Linux AIO: contexts with the ids they had, events that wait, in rings that have gone round; a thread that waits for
// one; a context from which nothing has been asked yet.
#include <linux/aio_abi.h>

#include "guest.h"

static aio_context_t few, many, slept, fresh;
static char got[8];
static int file;

static void setup(unsigned requests, aio_context_t *context) { MUST(syscall(SYS_io_setup, requests, context)); }

static void submit(aio_context_t context, int fd, uint64_t data, int length) {
    static struct iocb request;
    struct iocb *list[] = {&request};
    request = (struct iocb){.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = fd, .aio_buf = (uintptr_t)got, .aio_nbytes = length, .aio_data = data};
    CHECK(syscall(SYS_io_submit, context, 1, list) == 1, "io_submit");
}

// Takes an event, which must be this one.
static void expect(aio_context_t context, uint64_t data, int result) {
    struct timespec now = {0, 0};
    struct io_event event;
    CHECK(syscall(SYS_io_getevents, context, 1, 1, &event, &now) == 1, "event %llx is not there", (unsigned long long)data);
    CHECK(event.data == data && event.res == result && event.obj, "event %llx with %lld instead of %llx with %d", (unsigned long long)event.data,
          (long long)event.res, (unsigned long long)data, result);
}

static void none(aio_context_t context) {
    struct timespec now = {0, 0};
    struct io_event event;
    CHECK(syscall(SYS_io_getevents, context, 0, 1, &event, &now) == 0, "an event %llx from nowhere", (unsigned long long)event.data);
}

static void spoil(void) {
    struct timespec now = {0, 0};
    struct io_event event;
    MUST(syscall(SYS_io_getevents, few, 1, 1, &event, &now));
}

static void *sleeper(void *unused) {
    (void)unused;
    struct io_event event;
    CHECK(syscall(SYS_io_getevents, slept, 1, 1, &event, NULL) == 1, "waiting for an event");
    CHECK(told("go") && event.data == 99, "the sleeper woke up early");
    return NULL;
}

int main(void) {
    setup(4, &few), setup(500, &many), setup(1, &slept), setup(30, &fresh);
    file = MUST(syscall(SYS_memfd_create, "read", 1));
    CHECK(write(file, "content", 7) == 7, "write");
    // Past the end of the ring, and back to its beginning.
    uint64_t made = 0, taken = 0, others = 0;
    for (; made < 1000; made++) {
        submit(few, file, mix(made), made % 8);
        if (made >= 3) expect(few, mix(taken), taken % 8), taken++;
    }
    for (; others < 700; others++) {
        submit(many, file, others, 7);
        if (others >= 5) expect(many, others - 5, 7);
    }
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, sleeper, NULL));
    ready();
    while (go_on()) {
        // Three events always wait.
        for (int more = made % 3 + 1; more > 0; more--) {
            expect(few, mix(taken), taken % 8), taken++;
            submit(few, file, mix(made), made % 8), made++;
        }
        none(fresh);
    }
    while (taken < made) expect(few, mix(taken), taken % 8), taken++;
    none(few);
    for (uint64_t i = others - 5; i < others; i++) expect(many, i, 7);
    none(many);
    memset(got, 0, sizeof got);
    submit(many, file, 1, 7), submit(fresh, file, 2, 7);
    expect(many, 1, 7), expect(fresh, 2, 7);
    CHECK(!strcmp(got, "content"), "\"%s\"", got);
    submit(slept, file, 99, 1);
    PTHREAD(pthread_join(thread, NULL));
    MUST(syscall(SYS_io_destroy, fresh));
    CHECK(syscall(SYS_io_destroy, fresh) == -1 && errno == EINVAL, "destroyed twice");
    return pass();
}
