/* 64 threads: 63 that mostly sleep, and one that ticks. */
#include "tick.h"
#include <pthread.h>

static void *nap(void *counter)
{
	for (;;) {
		usleep(10000);
		++*(volatile unsigned long *)counter;
	}
}

int main(void)
{
	static unsigned long counters[63];
	for (int i = 0; i < 63; i++) {
		pthread_t thread;
		if (pthread_create(&thread, NULL, nap, &counters[i]))
			return 1;
	}
	for (;;)
		tick();
}
