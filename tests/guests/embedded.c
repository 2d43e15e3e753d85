// Works with a library of its own. Its program and that library are taken away while it is dead.
#include "guest.h"

uint64_t library_step(uint64_t x);
extern const unsigned char library_table[65536];
extern uint64_t library_steps;

static void spoil(void) { library_steps++; }

static void exe_is(const char *expected) {
    char link[PATH_MAX] = "";
    CHECK(readlink("/proc/self/exe", link, sizeof link - 1) > 0 && !strcmp(link, expected), "exe is %s", link);
}

int main(void) {
    char path[PATH_MAX] = "", gone[PATH_MAX + 16];
    MUST(readlink("/proc/self/exe", path, sizeof path - 1));
    snprintf(gone, sizeof gone, "%s (deleted)", path);
    uint64_t x = 1, steps = 0;
    ready();
    while (go_on()) {
        uint64_t next = library_step(x);
        CHECK(next == mix(x) && library_steps == ++steps, "step %llu", (unsigned long long)steps);
        x = next;
        // A page that nobody has touched before: it comes from the file.
        unsigned at = x % sizeof library_table;
        CHECK(library_table[at] == (unsigned char)(at * 7 + at / 256), "byte %u of the table", at);
    }
    exe_is(access(path, F_OK) ? gone : path);
    return pass();
}
