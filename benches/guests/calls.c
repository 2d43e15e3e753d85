/* calls exec|fork|open|malloc|pipe COUNT: nanoseconds that one fork + exec + wait of /bin/true takes, one fork + wait, one
   open + close, one malloc + free (of 16 bytes to 64 KiB in turn), or one byte through a pipe. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void start_one(void)
{
	int pid = fork();
	if (pid == 0) {
		execl("/bin/true", "true", (char *)NULL);
		_exit(127);
	}
	int status;
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		exit(1);
}

static void open_one(void)
{
	int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || close(fd))
		exit(1);
}

static void fork_one(void)
{
	int status, pid = fork();
	if (pid == 0)
		_exit(0);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		exit(1);
}

static void malloc_one(void)
{
	static unsigned turn;
	char *volatile bytes = malloc((size_t)16 << (turn++ % 13));
	if (!bytes)
		exit(1);
	*bytes = 1;
	free(bytes);
}

static void pipe_one(void)
{
	static int ends[2];
	char byte = 1;
	if (!ends[1] && pipe(ends))
		exit(1);
	if (write(ends[1], &byte, 1) != 1 || read(ends[0], &byte, 1) != 1)
		exit(1);
}

static const struct {
	const char *name;
	void (*one)(void);
} kinds[] = { { "exec", start_one }, { "fork", fork_one }, { "open", open_one }, { "malloc", malloc_one }, { "pipe", pipe_one } };

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	long count = atol(argv[2]);
	void (*one)(void) = NULL;
	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
		if (!strcmp(argv[1], kinds[i].name))
			one = kinds[i].one;
	if (!one)
		return 2;
	struct timespec from, to;
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (long i = 0; i < count; i++)
		one();
	clock_gettime(CLOCK_MONOTONIC, &to);
	double ns = (to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec);
	printf("%.2f\n", ns / count);
	return 0;
}
