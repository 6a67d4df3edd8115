/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A livepatch (include/linux/livepatch.h) of a trapped function: its new version counts, and goes on in the old one
 * behind the entry nop, where it is not sent to itself again.
 */
#include "module.h"

#define NOP_BYTES 5

__attribute__((section(".modinfo"), used)) static const char license[] = "license=GPL";
__attribute__((section(".modinfo"), used)) static const char kind[] = "livepatch=Y";

/* Two each: an empty one ends the list. */
static u8 patch[SIZE_klp_patch], objects[2][SIZE_klp_object], functions[2][SIZE_klp_func];
static unsigned int calls;

static void *opened(int dfd, void *name, const void *op)
{
	unsigned int count = __sync_add_and_fetch(&calls, 1);

	if (count % 10 == 0)
		say("patch: called %u times\n", count);
	return ((void *(*)(int, void *, const void *))(AT_do_filp_open + NOP_BYTES))(dfd, name, op);
}

static void stop(void)
{
	say("patch: gone after %u calls\n", calls);
}

MODULE("patch", stop);

static int start(void)
{
	PLACE(functions[0], OFF_klp_func__old_name, const char *) = "do_filp_open";
	PLACE(functions[0], OFF_klp_func__new_func, void *) = opened;
	PLACE(objects[0], OFF_klp_object__funcs, void *) = functions;
	PLACE(patch, OFF_klp_patch__mod, void *) = &this_module;
	PLACE(patch, OFF_klp_patch__objs, void *) = objects;
	return AT(klp_enable_patch, int (*)(void *))(patch);
}
