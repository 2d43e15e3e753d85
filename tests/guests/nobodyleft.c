// Runs a command as the adopter of whatever that leaves behind, and ends as it ended (128 + N for signal N). A process that
// lives on after the command is reported, ended, and makes the exit status 99.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void end_children(void) {
    char path[64];
    int pid;
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    FILE *list = fopen(path, "re");
    while (list && fscanf(list, "%d", &pid) == 1) {
        fprintf(stderr, "left behind: pid %d\n", pid);
        kill(pid, SIGKILL);
    }
    if (list) fclose(list);
}

int main(int argc, char **argv) {
    if (argc < 2 || prctl(PR_SET_CHILD_SUBREAPER, 1)) return 98;
    pid_t command = fork();
    if (command == 0) {
        execv(argv[1], argv + 1);
        perror(argv[1]);
        _exit(97);
    }
    int status;
    if (waitpid(command, &status, 0) != command) return 98;
    // What is being killed when the command ends takes a moment to go.
    int left = 0;
    for (int i = 0; i < 10000; i++) {
        pid_t pid;
        while ((pid = waitpid(-1, NULL, WNOHANG | __WALL)) > 0) {}
        if (pid < 0 && errno == ECHILD) return left ? 99 : WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        if (i >= 5000) {
            left = 1;
            end_children();
        }
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return 99;
}
