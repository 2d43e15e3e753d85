/* many KIND COUNT: so many threads, processes, maps, fds, unix or tcp pairs of connected sockets, and one thread that
   ticks. Of the pairs every 25th has as much waiting in it as goes in. */
#include "tick.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum { PAGE = 4096 };
static int quiet[2];

static void need(int fine)
{
	if (!fine) {
		perror("many");
		exit(1);
	}
}

static void *nap(void *unused)
{
	char byte;
	while (read(quiet[0], &byte, 1) > 0)
		;
	return unused;
}

static void threads(int count)
{
	pthread_attr_t attr;
	need(pthread_attr_init(&attr) == 0 && pthread_attr_setstacksize(&attr, 64 * 1024) == 0);
	for (int i = 0; i < count; i++) {
		pthread_t thread;
		need(pthread_create(&thread, &attr, nap, NULL) == 0);
	}
}

static void processes(int count)
{
	for (int i = 0; i < count; i++) {
		int pid = fork();
		need(pid >= 0);
		if (pid == 0) {
			close(quiet[1]);
			nap(NULL);
			_exit(0);
		}
	}
}

/* Pages that differ in protection from their neighbours; every eighth has content. */
static void maps(int count)
{
	char *at = mmap(NULL, (size_t)count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	need(at != MAP_FAILED);
	for (int i = 0; i < count; i += 8)
		memset(at + (size_t)i * PAGE, i, PAGE);
	for (int i = 1; i < count; i += 2)
		need(mprotect(at + (size_t)i * PAGE, PAGE, PROT_READ) == 0);
}

static void files(int count)
{
	for (int i = 0; i < count; i++)
		need(open("/etc/passwd", O_RDONLY) >= 0);
}

static void fill(int fd, int index)
{
	static char bytes[65536];
	if (index % 25)
		return;
	while (send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
		;
	need(errno == EAGAIN);
}

static void unix_pairs(int count)
{
	for (int i = 0; i < count; i++) {
		int pair[2];
		need(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
		fill(pair[0], i);
	}
}

static void tcp_pairs(int count)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof at;
	int door = socket(AF_INET, SOCK_STREAM, 0);
	need(door >= 0 && bind(door, (void *)&at, len) == 0 && listen(door, 16) == 0);
	need(getsockname(door, (void *)&at, &len) == 0);
	for (int i = 0; i < count; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		need(fd >= 0 && connect(fd, (void *)&at, len) == 0);
		int far = accept(door, NULL, NULL);
		need(far >= 0);
		/* At their end they are reset: the next to be resumed finds the addresses free. */
		struct linger none = { .l_onoff = 1 };
		need(setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none) == 0);
		need(setsockopt(far, SOL_SOCKET, SO_LINGER, &none, sizeof none) == 0);
		fill(fd, i);
	}
	close(door);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*make)(int);
	} kinds[] = { { "threads", threads }, { "processes", processes }, { "maps", maps },
		      { "fds", files }, { "unix", unix_pairs }, { "tcp", tcp_pairs } };
	struct rlimit limit;
	need(argc == 3 && getrlimit(RLIMIT_NOFILE, &limit) == 0);
	limit.rlim_cur = limit.rlim_max;
	need(setrlimit(RLIMIT_NOFILE, &limit) == 0 && pipe(quiet) == 0);
	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
		if (!strcmp(argv[1], kinds[i].name))
			kinds[i].make(atoi(argv[2]));
	for (;;)
		tick();
}
