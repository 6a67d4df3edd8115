/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The load of trap_cost: opens and closes one file N times, and tells how long that took. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words)
{
	int opens = count > 1 ? atoi(words[1]) : 2000;
	int rounds = count > 2 ? atoi(words[2]) : 1;
	const char *path = count > 3 ? words[3] : "/etc/hosts";
	struct timespec begin, end;

	for (int round = 0; round < rounds; round++) {
		clock_gettime(CLOCK_MONOTONIC, &begin);
		for (int i = 0; i < opens; i++) {
			int file = open(path, O_RDONLY);
			if (file < 0)
				return 1;
			close(file);
		}
		clock_gettime(CLOCK_MONOTONIC, &end);
		printf("opens %d ns %lld\n", opens,
		       (end.tv_sec - begin.tv_sec) * 1000000000LL + (end.tv_nsec - begin.tv_nsec));
		fflush(stdout);
	}
	return 0;
}
