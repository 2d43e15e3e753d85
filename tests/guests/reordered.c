// Windows into shared anonymous memory that are moved about in it (remap_file_pages(2)): most of its pages are mapped by nobody at
// any one time, and all are there when somebody comes back to them, in two processes.
#include "guest.h"

#define PAGE 4096
#define PAGES 64
#define WINDOWS 12
struct page {
    uint64_t number, visits;
    unsigned char rest[PAGE - 16];
};
static struct page *windows;
static int shown[WINDOWS];
static uint64_t visits[PAGES];
static void spoil(void) { windows[0].visits++; }

static void look(const struct page *window, uint64_t page) {
    CHECK(window->number == page, "page %llu instead of %llu", (unsigned long long)window->number, (unsigned long long)page);
    for (size_t i = 0; i < sizeof window->rest; i += 97) CHECK(window->rest[i] == (unsigned char)mix(page * PAGE + i), "byte %zu of page %llu", i, (unsigned long long)page);
}

// Takes all windows to other pages.
static void move(uint64_t turn) {
    for (int i = 0; i < WINDOWS; i++) {
        shown[i] = mix(turn * WINDOWS + i) % PAGES;
        MUST(remap_file_pages(windows + i, PAGE, 0, shown[i], 0));
    }
}

int main(void) {
    windows = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(windows != MAP_FAILED, "mmap");
    for (int page = 0; page < PAGES; page++) {
        windows[page].number = page;
        for (size_t i = 0; i < sizeof windows->rest; i++) windows[page].rest[i] = mix(page * PAGE + i);
    }
    MUST(munmap(windows + WINDOWS, (PAGES - WINDOWS) * PAGE));
    move(0);
    pid_t child = MUST(fork());
    if (!child) {
        for (uint64_t turn = 1000000; wait_on(); turn++) {
            move(turn);
            nap(100);
            for (int i = 0; i < WINDOWS; i++) look(windows + i, shown[i]);
        }
        _exit(0);
    }
    ready();
    for (uint64_t turn = 1; go_on(); turn++) {
        for (int i = 0; i < WINDOWS; i++) {
            look(windows + i, shown[i]);
            CHECK(windows[i].visits == visits[shown[i]], "visits of page %d", shown[i]);
            windows[i].visits = ++visits[shown[i]];
        }
        move(turn);
    }
    join_child(child);
    for (int page = 0; page < PAGES; page++) {
        MUST(remap_file_pages(windows, PAGE, 0, page, 0));
        look(windows, page);
        CHECK(windows->visits == visits[page], "visits of page %d at the end", page);
    }
    return pass();
}
