// Users, groups and capabilities, of each process and each thread: all four ids, supplementary groups, the five capability
// sets, secure bits with their locks, no_new_privs, the parent-death signal that a change of user clears. For root only.
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>

#include "guest.h"

#define BIT(n) (1ull << (n))

struct shown {
    uid_t uid[4];
    gid_t gid[4], groups[64];
    int count, bits, no_new_privs, pdeath;
    uint64_t caps[3], bounding, ambient;
};

static struct shared {
    volatile int finish, damage, up;
} *shared;

static void spoil(void) { shared->damage = 1; }

static void set_caps(uint64_t effective, uint64_t permitted, uint64_t inheritable) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{effective, permitted, inheritable}, {effective >> 32, permitted >> 32, inheritable >> 32}};
    MUST(syscall(SYS_capset, &header, data));
}

static struct shown look(void) {
    struct shown s;
    memset(&s, 0, sizeof s);
    MUST(getresuid(&s.uid[0], &s.uid[1], &s.uid[2]));
    MUST(getresgid(&s.gid[0], &s.gid[1], &s.gid[2]));
    s.uid[3] = setfsuid(-1), s.gid[3] = setfsgid(-1);
    s.count = MUST(getgroups(64, s.groups));
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2];
    MUST(syscall(SYS_capget, &header, d));
    s.caps[0] = d[0].effective | (uint64_t)d[1].effective << 32;
    s.caps[1] = d[0].permitted | (uint64_t)d[1].permitted << 32;
    s.caps[2] = d[0].inheritable | (uint64_t)d[1].inheritable << 32;
    for (int n = 0; n < 64; n++) {
        if (prctl(PR_CAPBSET_READ, n, 0, 0, 0) == 1) s.bounding |= BIT(n);
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, n, 0, 0) == 1) s.ambient |= BIT(n);
    }
    s.bits = MUST(prctl(PR_GET_SECUREBITS));
    s.no_new_privs = MUST(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    MUST(prctl(PR_GET_PDEATHSIG, &s.pdeath));
    return s;
}

static void stay(const struct shown *before) {
    __atomic_add_fetch(&shared->up, 1, __ATOMIC_SEQ_CST);
    while (!shared->finish) {
        nap(1000);
        if (shared->damage && before->ambient) MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
        struct shown now = look();
        for (int i = 0; i < 4; i++) {
            CHECK(now.uid[i] == before->uid[i], "user %d is %d, was %d", i, now.uid[i], before->uid[i]);
            CHECK(now.gid[i] == before->gid[i], "group %d is %d, was %d", i, now.gid[i], before->gid[i]);
        }
        CHECK(now.count == before->count && !memcmp(now.groups, before->groups, sizeof now.groups), "supplementary groups");
        for (int i = 0; i < 3; i++) CHECK(now.caps[i] == before->caps[i], "capabilities %d: %lx, were %lx", i, now.caps[i], before->caps[i]);
        CHECK(now.bounding == before->bounding, "bounding set %lx, was %lx", now.bounding, before->bounding);
        CHECK(now.ambient == before->ambient, "ambient set %lx, was %lx", now.ambient, before->ambient);
        CHECK(now.bits == before->bits, "secure bits %#x, were %#x", now.bits, before->bits);
        CHECK(now.no_new_privs == before->no_new_privs, "no_new_privs %d", now.no_new_privs);
        CHECK(now.pdeath == before->pdeath, "parent-death signal %d", now.pdeath);
    }
}

// A thread that has less than its process: raw calls change the caller alone.
static void *less(void *unused) {
    (void)unused;
    MUST(syscall(SYS_setresgid, 500, 600, 700));
    set_caps(0, BIT(CAP_SETGID), 0);
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_PDEATHSIG, SIGUSR2));
    struct shown before = look();
    stay(&before);
    return NULL;
}

static void many_users(void) {
    gid_t groups[] = {33, 11, 22, 70000};
    MUST(setgroups(4, groups));
    MUST(setresgid(100, 200, 300));
    setfsgid(400);
    MUST(prctl(PR_SET_KEEPCAPS, 1));
    MUST(setresuid(1000, 2000, 3000));
    uint64_t some = BIT(CAP_NET_RAW) | BIT(CAP_SETUID) | BIT(CAP_SETGID) | BIT(CAP_CHOWN);
    set_caps(some, some, BIT(CAP_NET_RAW));
    setfsuid(4000);
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, less, NULL));
    set_caps(BIT(CAP_NET_RAW), some, BIT(CAP_NET_RAW));
    MUST(prctl(PR_SET_PDEATHSIG, SIGUSR1));
    struct shown before = look();
    CHECK(before.uid[3] == 4000 && before.gid[3] == 400 && before.count == 4, "set-up");
    stay(&before);
    PTHREAD(pthread_join(thread, NULL));
}

static void many_capabilities(void) {
    struct shown now = look();
    set_caps(now.caps[0], now.caps[1], BIT(CAP_NET_RAW) | BIT(CAP_KILL));
    MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0));
    MUST(prctl(PR_CAPBSET_DROP, CAP_NET_RAW, 0, 0, 0));
    MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT, 0, 0, 0));
    MUST(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS | SECBIT_NO_CAP_AMBIENT_RAISE |
                                      SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED));
    set_caps(BIT(CAP_NET_RAW), BIT(CAP_NET_RAW) | BIT(CAP_CHOWN), BIT(CAP_NET_RAW) | BIT(CAP_KILL));
    struct shown before = look();
    CHECK(before.ambient == BIT(CAP_NET_RAW) && !(before.bounding & BIT(CAP_NET_RAW)), "set-up");
    stay(&before);
}

int main(void) {
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED, "mmap");
    void (*life[])(void) = {many_users, many_capabilities};
    pid_t child[2];
    for (int i = 0; i < 2; i++) {
        child[i] = MUST(fork());
        if (!child[i]) {
            life[i]();
            _exit(0);
        }
    }
    while (shared->up < 3) sched_yield();
    struct stat meta;
    ready();
    while (go_on()) {
        CHECK(geteuid() == 0, "the first process is no longer root's");
        for (int i = 0; i < 2; i++) CHECK(waitpid(child[i], NULL, WNOHANG) == 0, "child %d has ended", i);
    }
    MUST(stat(guest_path("beat"), &meta));
    CHECK(meta.st_uid == 0, "the file of the beat belongs to %d", meta.st_uid);
    shared->finish = 1;
    for (int i = 0; i < 2; i++) join_child(child[i]);
    return pass();
}
