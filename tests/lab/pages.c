/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A program that makes code, in phases with known numbers of pages; a marker page is executed behind each. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES 40
#define REWRITTEN 10
#define VERSIONS 8
#define OPENS 25
#define TURNS 3000

static unsigned char *area(int pages, int flags)
{
	void *found = mmap(NULL, (size_t)pages * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_ANONYMOUS | flags, -1, 0);

	if (found == MAP_FAILED)
		exit(2);
	return found;
}

/* mov eax, value; ret */
static void make(unsigned char *page, unsigned value)
{
	page[0] = 0xb8;
	memcpy(page + 1, &value, sizeof(value));
	page[5] = 0xc3;
}

static void run(unsigned char *page, unsigned value)
{
	unsigned (*code)(void);

	memcpy(&code, &page, sizeof(code));
	if (code() != value) {
		printf("wrong at %x\n", value);
		exit(3);
	}
}

static void pause_for(long milliseconds)
{
	struct timespec time = { milliseconds / 1000, milliseconds % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

static void marker(unsigned number)
{
	static unsigned char *markers;

	if (!markers)
		markers = area(16, MAP_PRIVATE);
	make(markers + number * PAGE, 0xc0de0000u + number);
	run(markers + number * PAGE, 0xc0de0000u + number);
}

int main(void)
{
	unsigned char *pages = area(PAGES, MAP_PRIVATE), *one = area(1, MAP_PRIVATE), *turns = area(1, MAP_PRIVATE);
	unsigned char *shared = area(1, MAP_SHARED);

	marker(0);
	for (int i = 0; i < PAGES; i++) {
		make(pages + i * PAGE, 0x1000 + i);
		run(pages + i * PAGE, 0x1000 + i);
	}
	marker(1);
	for (int round = 0; round < 2000; round++)
		for (int i = 0; i < PAGES; i++)
			run(pages + i * PAGE, 0x1000 + i);
	marker(2);
	for (int i = 0; i < REWRITTEN; i++) {
		make(pages + i * PAGE, 0x2000 + i);
		run(pages + i * PAGE, 0x2000 + i);
	}
	marker(3);
	for (int i = 0; i < VERSIONS; i++) {
		make(one, 0x3000 + i);
		run(one, 0x3000 + i);
		pause_for(100);
	}
	marker(4);
	make(shared, 0x4000);
	run(shared, 0x4000);
	fflush(stdout);
	pid_t child = fork();
	if (!child) {
		run(shared, 0x4000);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	marker(5);
	for (int i = 0; i < OPENS; i++)
		if (open("/etc/marked-open", O_RDONLY) >= 0)
			return 4;
	marker(6);
	for (int i = 0; i < TURNS; i++) {
		make(turns, 0x100000 + i);
		run(turns, 0x100000 + i);
	}
	marker(7);
	printf("done\n");
	return 0;
}
