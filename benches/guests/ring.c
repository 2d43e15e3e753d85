/* 20 processes in a ring of pipes hand on one byte; the first ticks whenever it comes around, so an answer says that
   all of them move. When it ends, the others find their pipes closed one after the other. */
#include "tick.h"

enum { COUNT = 20 };

int main(void)
{
	int pipes[COUNT][2], me = 0;
	char byte = 'x';
	for (int i = 0; i < COUNT; i++)
		if (pipe(pipes[i]))
			return 1;
	for (int i = 1; i < COUNT && me == 0; i++) {
		int pid = fork();
		if (pid < 0)
			return 1;
		if (pid == 0)
			me = i;
	}
	int next = (me + 1) % COUNT;
	for (int i = 0; i < COUNT; i++) {
		if (i != me)
			close(pipes[i][0]);
		if (i != next)
			close(pipes[i][1]);
	}
	if (me == 0 && write(pipes[next][1], &byte, 1) != 1)
		return 1;
	while (read(pipes[me][0], &byte, 1) == 1) {
		if (me == 0)
			tick();
		if (write(pipes[next][1], &byte, 1) != 1)
			return 1;
	}
	return 0;
}
