/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The loads of execute_cost: each tells how long it took, on one line. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

/* Pages of code that are made and then run for the first time. */
static int fresh(int count)
{
	unsigned char *pages = mmap(NULL, (size_t)count * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
				    MAP_ANONYMOUS | MAP_PRIVATE | MAP_POPULATE, -1, 0);

	if (pages == MAP_FAILED)
		return 1;
	for (int i = 0; i < count; i++)
		pages[i * PAGE] = 0xc3;
	for (int i = 0; i < count; i++) {
		unsigned char *page = pages + i * PAGE;
		void (*code)(void);

		memcpy(&code, &page, sizeof(code));
		code();
	}
	munmap(pages, (size_t)count * PAGE);
	return 0;
}

static int compute(int count)
{
	volatile unsigned long sum = 0;

	for (long i = 0; i < count * 1000000L; i++)
		sum = sum * 31 + i;
	return 0;
}

static int programs(int count)
{
	for (int i = 0; i < count; i++) {
		pid_t child = fork();

		if (!child) {
			execl("/bin/true", "true", (char *)NULL);
			_exit(9);
		}
		waitpid(child, NULL, 0);
	}
	return 0;
}

/* A server that answers each connection with 2 KiB, and a client that makes them one after the other. */
static int web(int count)
{
	static char answer[2048];
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(at);
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(listener, (struct sockaddr *)&at, length) || listen(listener, 8) ||
	    getsockname(listener, (struct sockaddr *)&at, &length))
		return 1;
	pid_t server = fork();

	if (!server) {
		for (int i = 0; i < count; i++) {
			char asked[512];
			int client = accept(listener, NULL, NULL);

			if (read(client, asked, sizeof(asked)) < 0 || write(client, answer, sizeof(answer)) < 0)
				_exit(1);
			close(client);
		}
		_exit(0);
	}
	for (int i = 0; i < count; i++) {
		char got[4096];
		int client = socket(AF_INET, SOCK_STREAM, 0);

		if (connect(client, (struct sockaddr *)&at, length) || write(client, "GET / HTTP/1.0\r\n\r\n", 18) < 0)
			return 1;
		while (read(client, got, sizeof(got)) > 0)
			;
		close(client);
	}
	waitpid(server, NULL, 0);
	return 0;
}

int main(int words, char **word)
{
	static const struct {
		const char *name;
		int (*run)(int);
	} loads[] = { { "fresh", fresh }, { "compute", compute }, { "programs", programs }, { "web", web } };
	struct timespec begin, end;

	for (int i = 1; i + 1 < words; i += 2)
		for (unsigned one = 0; one < sizeof(loads) / sizeof(*loads); one++) {
			if (strcmp(word[i], loads[one].name))
				continue;
			clock_gettime(CLOCK_MONOTONIC, &begin);
			if (loads[one].run(atoi(word[i + 1])))
				return 1;
			clock_gettime(CLOCK_MONOTONIC, &end);
			printf("%s %s %lld\n", word[i], word[i + 1],
			       (end.tv_sec - begin.tv_sec) * 1000000000LL + (end.tv_nsec - begin.tv_nsec));
			fflush(stdout);
		}
	return 0;
}
