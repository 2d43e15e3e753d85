// What belongs to a process as a whole: directory, umask, limits, environment, command line, executable, name, auxv,
// personality, prctl switches, scores.
#include <sys/personality.h>
#include <sys/utsname.h>

#include "guest.h"

static void spoil(void) { umask(0); }

static void remember(const char *path, char **to, size_t *length) {
    static char buffer[1 << 18];
    *length = slurp(path, buffer, sizeof buffer);
    *to = malloc(*length + 1);
    memcpy(*to, buffer, *length + 1);
}

int main(int argc, char **argv) {
    static const char *files[] = {"/proc/self/environ", "/proc/self/cmdline", "/proc/self/comm", "/proc/self/auxv", "/proc/self/coredump_filter",
                                  "/proc/self/oom_score_adj", "/proc/self/personality"};
    enum { FILES = sizeof files / sizeof *files };
    char *before[FILES], *after, exe[PATH_MAX], cwd[PATH_MAX], link[PATH_MAX];
    size_t length[FILES], now;
    MUST(mkdir("deep", 0755));
    MUST(mkdir("deep/er \n dir", 0755));
    MUST(chdir("deep/er \n dir"));
    umask(0127);
    int persona;
    struct rlimit limits[RLIM_NLIMITS], have;
    struct rlimit nofile = {200, 300}, core = {0, 4096}, stack = {4 << 20, 32 << 20}, fsize = {1 << 28, 1 << 29}, cpu = {100000, 200000};
    MUST(setrlimit(RLIMIT_NOFILE, &nofile));
    MUST(setrlimit(RLIMIT_CORE, &core));
    MUST(setrlimit(RLIMIT_STACK, &stack));
    MUST(setrlimit(RLIMIT_FSIZE, &fsize));
    MUST(setrlimit(RLIMIT_CPU, &cpu));
    for (int i = 0; i < RLIM_NLIMITS; i++) MUST(getrlimit(i, &limits[i]));
    MUST(prctl(PR_SET_NAME, "new (name) x"));
    if (argc > 0 && strlen(argv[0]) > 2) argv[0][1] = '~'; // as programs do that change their title
    int fd = MUST(open("/proc/self/coredump_filter", O_WRONLY));
    CHECK(write(fd, "0x11", 4) == 4, "coredump_filter");
    MUST(close(fd));
    fd = MUST(open("/proc/self/oom_score_adj", O_WRONLY));
    CHECK(write(fd, "345", 3) == 3, "oom_score_adj");
    MUST(close(fd));
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_PDEATHSIG, SIGUSR2));
    // Of another user's process that is not, nothing can be read.
    int dumpable = geteuid() != 0;
    MUST(prctl(PR_SET_DUMPABLE, dumpable));
    persona = personality(0xffffffff) | ADDR_NO_RANDOMIZE | ADDR_COMPAT_LAYOUT | READ_IMPLIES_EXEC | UNAME26;
    MUST(personality(persona));
    setenv("ADDED_LATER", "yes", 1);
    for (int i = 0; i < FILES; i++) remember(files[i], &before[i], &length[i]);
    ssize_t n = MUST(readlink("/proc/self/exe", exe, sizeof exe - 1));
    exe[n] = 0;
    CHECK(getcwd(cwd, sizeof cwd), "getcwd");
    ready();
    while (go_on()) {
        CHECK(getcwd(link, sizeof link) && !strcmp(link, cwd), "directory %s is now %s", cwd, link);
        mode_t mask = umask(0127);
        CHECK(mask == 0127, "umask is %#o", mask);
        for (int i = 0; i < RLIM_NLIMITS; i++) {
            MUST(getrlimit(i, &have));
            CHECK(have.rlim_cur == limits[i].rlim_cur && have.rlim_max == limits[i].rlim_max, "limit %d: %lu %lu is now %lu %lu", i,
                  (long)limits[i].rlim_cur, (long)limits[i].rlim_max, (long)have.rlim_cur, (long)have.rlim_max);
        }
        int on = 0, signal = 0;
        MUST(prctl(PR_GET_CHILD_SUBREAPER, &on));
        MUST(prctl(PR_GET_PDEATHSIG, &signal));
        CHECK(on == 1 && signal == SIGUSR2, "subreaper %d, parent-death signal %d", on, signal);
        CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1, "THP switch");
        CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1, "no_new_privs");
        CHECK(prctl(PR_GET_DUMPABLE) == dumpable, "dumpable");
        struct utsname name;
        MUST(uname(&name));
        CHECK(personality(0xffffffff) == persona, "personality %x", personality(0xffffffff));
        CHECK(!strncmp(name.release, "2.6.", 4), "personality: the kernel calls itself %s", name.release);
        CHECK(!strcmp(getenv("ADDED_LATER"), "yes"), "environment");
    }
    for (int i = 0; i < FILES; i++) {
        remember(files[i], &after, &now);
        CHECK(now == length[i] && !memcmp(after, before[i], now), "%s is now %zu bytes: %s", files[i], now, after);
    }
    n = MUST(readlink("/proc/self/exe", link, sizeof link - 1));
    link[n] = 0;
    CHECK(!strcmp(link, exe), "executable %s is now %s", exe, link);
    n = MUST(readlink("/proc/self/cwd", link, sizeof link - 1));
    link[n] = 0;
    CHECK(!strcmp(link, cwd), "/proc/self/cwd is %s", link);
    return pass();
}
