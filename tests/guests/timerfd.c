// timerfd_create(2): remaining time, period, ticks nobody has read, absolute deadlines, a blocked reader.
#include <sys/timerfd.h>

#include "guest.h"

#define SECOND 1000000000ll
static int far_off;
static void spoil(void) { MUST(timerfd_settime(far_off, 0, &(struct itimerspec){{0, 0}, {500, 0}}, NULL)); }

static int64_t left(int fd) {
    struct itimerspec t;
    MUST(timerfd_gettime(fd, &t));
    return t.it_value.tv_sec * SECOND + t.it_value.tv_nsec;
}

static int timer(clockid_t clock, int flags, int set_flags, int64_t value, int64_t interval) {
    int fd = MUST(timerfd_create(clock, flags));
    struct itimerspec t = {{interval / SECOND, interval % SECOND}, {value / SECOND, value % SECOND}};
    MUST(timerfd_settime(fd, set_flags, &t, NULL));
    return fd;
}

static volatile uint64_t read_ticks;
static void *reader(void *arg) {
    int fd = *(int *)arg;
    while (!told("go")) {
        uint64_t n;
        CHECK(read(fd, &n, 8) == 8 && n > 0, "blocked read");
        read_ticks += n;
    }
    return NULL;
}

// A moment on the timer's clock. Who looks may be kept waiting between clock and timer.
static void goes_off_at(int fd, clockid_t clock, int64_t earliest, int64_t latest) {
    int64_t before = now_ns(clock), remaining = left(fd), after = now_ns(clock);
    CHECK(remaining > earliest - after - SECOND / 5 && remaining < latest - before + SECOND / 5,
          "clock %d is at %ld to %ld, and %ld ns are left to %ld to %ld", clock, before, after, remaining, earliest, latest);
}

int main(void) {
    int64_t start = now_ns(CLOCK_MONOTONIC);
    far_off = timer(CLOCK_MONOTONIC, TFD_CLOEXEC, 0, 1000 * SECOND, 0);
    int64_t set_by = now_ns(CLOCK_MONOTONIC);
    int64_t deadline = now_ns(CLOCK_MONOTONIC) + 2000 * SECOND, boot = now_ns(CLOCK_BOOTTIME) + 3000 * SECOND;
    int64_t real = now_ns(CLOCK_REALTIME) + 4000 * SECOND;
    int absolute = timer(CLOCK_MONOTONIC, 0, TFD_TIMER_ABSTIME, deadline, 0);
    int boottime = timer(CLOCK_BOOTTIME, TFD_NONBLOCK, TFD_TIMER_ABSTIME, boot, 5 * SECOND);
    int realtime = timer(CLOCK_REALTIME, 0, TFD_TIMER_ABSTIME, real, 0);
    // Whether a clock that is set cancels it, is known by its flags in /proc: see the last check.
    int cancelled = timer(CLOCK_REALTIME, 0, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, real, 0);
    // Which wake a machine that sleeps: not every user may.
    int alarms[2] = {timerfd_create(CLOCK_BOOTTIME_ALARM, TFD_CLOEXEC), timerfd_create(CLOCK_REALTIME_ALARM, TFD_CLOEXEC)};
    for (int i = 0; i < 2 && alarms[i] >= 0; i++)
        MUST(timerfd_settime(alarms[i], TFD_TIMER_ABSTIME, &(struct itimerspec){{0, 0}, {(i ? real : boot) / SECOND + 1, 0}}, NULL));
    int once = timer(CLOCK_MONOTONIC, TFD_NONBLOCK, 0, 1000000, 0);             // runs out, is never read until the end
    int ticking = timer(CLOCK_MONOTONIC, TFD_NONBLOCK, 0, 20000000, 20000000); // ticks, is never read until the end
    int idle = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    int blocked = timer(CLOCK_MONOTONIC, 0, 0, 10000000, 10000000);
    int64_t blocked_from = now_ns(CLOCK_MONOTONIC);
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, reader, &blocked));
    struct pollfd expired = {once, POLLIN, 0};
    CHECK(poll(&expired, 1, 5000) == 1, "set-up");
    ready();
    int64_t last = left(far_off);
    while (go_on()) {
        int64_t remaining = left(far_off);
        CHECK(remaining <= last && remaining > 900 * SECOND, "remaining time went from %ld to %ld", last, remaining);
        last = remaining;
        goes_off_at(far_off, CLOCK_MONOTONIC, start + 1000 * SECOND, set_by + 1000 * SECOND);
        // Absolute deadlines stay what they are on their own clocks.
        goes_off_at(absolute, CLOCK_MONOTONIC, deadline, deadline);
        goes_off_at(boottime, CLOCK_BOOTTIME, boot, boot);
        goes_off_at(realtime, CLOCK_REALTIME, real, real);
        goes_off_at(cancelled, CLOCK_REALTIME, real, real);
        if (alarms[0] >= 0) goes_off_at(alarms[0], CLOCK_BOOTTIME, boot, boot + SECOND);
        if (alarms[1] >= 0) goes_off_at(alarms[1], CLOCK_REALTIME, real, real + SECOND);
        struct itimerspec t;
        MUST(timerfd_gettime(boottime, &t));
        CHECK(t.it_interval.tv_sec == 5 && t.it_interval.tv_nsec == 0, "period");
        MUST(timerfd_gettime(ticking, &t));
        CHECK(t.it_interval.tv_sec == 0 && t.it_interval.tv_nsec == 20000000, "period");
        CHECK(left(once) == 0 && left(idle) == 0, "a timer that had run out is running");
        expired.revents = 0;
        CHECK(poll(&expired, 1, 0) == 1, "the unread tick is lost");
        struct pollfd none = {idle, POLLIN, 0};
        CHECK(poll(&none, 1, 0) == 0, "a tick from nowhere");
        CHECK(fcntl(boottime, F_GETFL) == (O_RDWR | O_NONBLOCK) && fcntl(far_off, F_GETFD) == FD_CLOEXEC && fcntl(absolute, F_GETFL) == O_RDWR, "flags");
    }
    char path[64], info[512];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", cancelled);
    slurp(path, info, sizeof info);
    CHECK(strstr(info, "settime flags: 03"), "it is not cancelled any more when the clock is set: %s", info);
    uint64_t n;
    CHECK(read(once, &n, 8) == 8 && n == 1, "the unread tick");
    CHECK(read(once, &n, 8) == -1 && errno == EAGAIN, "a tick too many");
    struct pollfd next = {ticking, POLLIN, 0}; // (it may not have had the time for its first tick)
    CHECK(poll(&next, 1, 5000) == 1, "no tick");
    CHECK(read(ticking, &n, 8) == 8, "read");
    int64_t due = (now_ns(CLOCK_MONOTONIC) - start) / 20000000;
    CHECK((int64_t)n <= due + 1 && (int64_t)n + 50 > due, "%lu ticks, not %ld", n, due);
    PTHREAD(pthread_join(thread, NULL));
    due = (now_ns(CLOCK_MONOTONIC) - blocked_from) / 10000000;
    CHECK((int64_t)read_ticks <= due + 1 && (int64_t)read_ticks + 100 > due, "the reader saw %lu ticks, not %ld", read_ticks, due);
    return pass();
}
