// bareroot DIR [FROM=TO…] -- CMD…   Runs CMD where the root directory is empty but for what is named.
// As an ordinary user, in a user namespace. DIR: an empty directory to build it in.
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        if ((call) == -1) {                                                                                            \
            perror(#call);                                                                                             \
            exit(99);                                                                                                  \
        }                                                                                                              \
    } while (0)

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    MUST(fd);
    MUST(write(fd, text, strlen(text)));
    MUST(close(fd));
}

int main(int argc, char **argv) {
    char map[64], to[8192];
    int uid = getuid(), gid = getgid(), i;
    MUST(unshare(CLONE_NEWUSER | CLONE_NEWNS));
    put("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "%d %d 1", uid, uid);
    put("/proc/self/uid_map", map);
    snprintf(map, sizeof map, "%d %d 1", gid, gid);
    put("/proc/self/gid_map", map);
    MUST(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    MUST(mount("tmpfs", argv[1], "tmpfs", 0, "mode=755"));
    for (i = 2; i < argc && strcmp(argv[i], "--"); i++) {
        char *equals = strchr(argv[i], '='), *slash;
        struct stat what;
        *equals = 0;
        snprintf(to, sizeof to, "%s%s", argv[1], equals + 1);
        MUST(stat(argv[i], &what));
        for (slash = strchr(to + strlen(argv[1]) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
            *slash = 0;
            mkdir(to, 0755);
            *slash = '/';
        }
        if (S_ISDIR(what.st_mode)) {
            if (mkdir(to, 0755) && errno != EEXIST) MUST(-1);
        } else {
            int fd = open(to, O_WRONLY | O_CREAT, 0644);
            MUST(fd);
            MUST(close(fd));
        }
        MUST(mount(argv[i], to, NULL, MS_BIND | MS_REC, NULL));
    }
    char *here = getcwd(NULL, 0);
    MUST(chdir(argv[1]));
    MUST(syscall(SYS_pivot_root, ".", "."));
    MUST(umount2(".", MNT_DETACH));
    MUST(chdir(here));
    execv(argv[i + 1], argv + i + 1);
    perror(argv[i + 1]);
    return 99;
}
