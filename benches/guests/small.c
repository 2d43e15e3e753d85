/* A small program: one thread, nothing but its C library. */
#include "tick.h"

int main(void)
{
	for (;;)
		tick();
}
